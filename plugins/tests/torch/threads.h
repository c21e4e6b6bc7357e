// Threads as PyTorch's OpenMP gives them: the function that libhsm_kernels is handed.
#pragma once

#include <thread>
#include <vector>

namespace hsm::testing {

inline void on_threads(void (*work)(void*), void* data, unsigned threads, unsigned /*flags*/) {
  std::vector<std::thread> others;
  for (unsigned i = 1; i < threads; ++i) others.emplace_back(work, data);
  work(data);
  for (std::thread& other : others) other.join();
}

// What OpenMP may do where it has fewer threads than were asked for.
inline void on_one_thread(void (*work)(void*), void* data, unsigned /*threads*/, unsigned /*flags*/) { work(data); }

}  // namespace hsm::testing
