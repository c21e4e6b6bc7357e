// Many requests on one session from many threads, for tests/plugins/test_soak.py:
//
//     soak BUNDLE KERNELS THREADS REQUESTS
//
// Every thread asks for the same numbers REQUESTS times. Prints how many results differed from the first and how much
// memory the process held after a tenth of the requests and at the end; fails when any differed.
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "hsm_runtime/session.h"

namespace {

using namespace hsm_runtime;  // NOLINT: a program on top of the whole public interface

// Kilobytes of memory that are in use.
long resident() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) return std::atol(line.c_str() + std::strlen("VmRSS:"));
  }
  return 0;
}

// Runs the call `requests` times in each of `threads` threads; returns how many went wrong.
int serve(const Session& session, const std::vector<NamedTensor>& inputs, const Tensor& expected, int threads,
          int requests) {
  std::atomic<int> wrong = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < threads; ++caller) {
    callers.emplace_back([&] {
      std::vector<float> result(expected.size());
      const std::vector outputs = {NamedTensor{expected.name(), {result.data(), DType::kFloat32, expected.shape()}}};
      for (int i = 0; i < requests; ++i) {
        std::fill(result.begin(), result.end(), -1.0f);
        const bool good = session.run(inputs, outputs).ok() &&
                          std::memcmp(result.data(), expected.data(), result.size() * sizeof(float)) == 0;
        if (!good) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  return wrong;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: soak BUNDLE KERNELS THREADS REQUESTS\n";
    return 2;
  }
  const int threads = std::atoi(argv[3]), requests = std::atoi(argv[4]);
  SessionOptions options;
  options.kernel_library = argv[2];
  options.threads = 1;  // each caller brings its own
  const Result<Session> session = Session::open(argv[1], options);
  if (!session.ok()) {
    std::cerr << session.status().message() << '\n';
    return 1;
  }
  std::vector<std::int64_t> tokens = {3, 1, 4, 1, 5, 9, 2, 6};
  const std::vector<std::int64_t> shape = {1, static_cast<std::int64_t>(tokens.size())};
  const std::vector inputs = {NamedTensor{session->inputs()[0].name, {tokens.data(), DType::kInt64, shape}}};
  const Result<std::vector<Tensor>> first = session->run(inputs);
  if (!first.ok() || first->front().dtype() != DType::kFloat32) {
    std::cerr << (first.ok() ? "the output is not float32" : first.status().message()) << '\n';
    return 1;
  }
  int wrong = serve(*session, inputs, first->front(), threads, requests / 10);
  const long before = resident();
  wrong += serve(*session, inputs, first->front(), threads, requests - requests / 10);
  std::cout << "requests " << threads * requests << "\nwrong " << wrong << "\nkilobytes_before " << before
            << "\nkilobytes_after " << resident() << '\n';
  return wrong == 0 ? 0 : 1;
}
