// A GPU, CUDA's runtime library and TensorRT that the tests play: libhsm_fake_gpu.so exports the functions that the
// real back end loads. Work on a stream is done when somebody waits for it, so that what nobody waits for is seen.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace hsm::testing {

struct FakeStream {
  std::deque<std::function<void()>> work;
  std::uint64_t issued = 0, done = 0;

  void run_until(std::uint64_t position) {
    while (done < position) {
      const std::function<void()> next = std::move(work.front());
      work.pop_front();
      ++done;
      next();
    }
  }
};

// Everything is inline: the library and the tests each have their own code for the one object in the library.
struct FakeGpu {
  // ---- script
  int devices = 1;
  int sm = 86;
  std::int32_t version = 101401;  // TensorRT's; decides which layout its objects have
  // The function that fails, and at which of its calls (from 1).
  std::string failing;
  int failing_call = 1;
  bool has_shape_tensor = false, has_strange_type = false, has_unknown_output = false;

  // ---- record
  std::vector<std::string> calls;       // name, and what matters of the arguments
  std::map<std::string, int> counts;    // of calls by name
  std::vector<std::string> violations;  // what no caller may do
  std::map<std::string, int> live;      // objects and memory that exist, by kind
  std::map<void*, std::size_t> memory;  // of the device
  std::vector<std::string> plugin_libraries;
  bool allowed_native_code = false;

  std::recursive_mutex mutex;

  // Notes a call; says whether it shall fail.
  bool fails(const std::string& name, const std::string& arguments = "") {
    const std::lock_guard lock(mutex);
    calls.push_back(arguments.empty() ? name : name + " " + arguments);
    return ++counts[name] == failing_call && name == failing;
  }

  // Puts work at the end of a stream.
  void enqueue(void* stream, std::function<void()> work) {
    const std::lock_guard lock(mutex);
    if (stream == nullptr) {
      violations.push_back("work on the null stream");
      return;
    }
    static_cast<FakeStream*>(stream)->work.push_back(std::move(work));
    ++static_cast<FakeStream*>(stream)->issued;
  }

  bool is_device_memory(const void* address, std::size_t bytes) const {
    const auto* first = static_cast<const char*>(address);
    return std::any_of(memory.begin(), memory.end(), [&](const auto& block) {
      const auto* start = static_cast<const char*>(block.first);
      return first >= start && first + bytes <= start + block.second;
    });
  }

  // Script and record; what lives goes on living.
  void reset() {
    const std::lock_guard lock(mutex);
    devices = 1, sm = 86, version = 101401;
    failing.clear(), failing_call = 1;
    has_shape_tensor = has_strange_type = has_unknown_output = allowed_native_code = false;
    calls.clear(), counts.clear(), violations.clear(), plugin_libraries.clear();
  }
};

// libhsm_fake_gpu.so's entry for tests.
using FakeGpuEntry = FakeGpu* (*)();
inline constexpr const char* kFakeGpuEntry = "hsm_fake_gpu";

}  // namespace hsm::testing
