// hsm_bench_serving BUNDLE KERNELS ROWS REQUESTS PROMPT TOKENS: requests that come at once, on the rows of one
// scheduler with one thread. Prints what they took, as JSON. benchmarks/serving.py compares numbers of rows.
#include <hsm_runtime/scheduler.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

using namespace hsm_runtime;

namespace {

template <typename T>
T value(Result<T> result) {
  if (!result.ok()) {
    std::fprintf(stderr, "error: %s\n", result.status().message().c_str());
    std::exit(1);
  }
  return *std::move(result);
}

// Seconds that all threads of the process have computed: other programs on the machine do not count.
double cpu_seconds() {
  timespec now = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The most memory that the process has used; getrusage would count that of the program that started it too.
long peak_kilobytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    long kilobytes = 0;
    if (word == "VmHWM:" && status >> kilobytes) return kilobytes;
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 7) {
    std::fprintf(stderr, "usage: hsm_bench_serving BUNDLE KERNELS ROWS REQUESTS PROMPT TOKENS\n");
    return 2;
  }
  const int rows = std::atoi(arguments[3]), requests = std::atoi(arguments[4]), length = std::atoi(arguments[5]),
            tokens = std::atoi(arguments[6]);
  SessionOptions chosen;
  chosen.backends = {Backend::kOnnxRuntimeFused};
  chosen.kernel_library = arguments[2];
  chosen.threads = 1;
  const Session session = value(Session::open(arguments[1], Part::kDecode, chosen));
  SchedulerOptions options;
  options.generator = {.batch = rows, .capacity = length + tokens};
  Scheduler scheduler = value(Scheduler::create(session, options));
  const auto request_of = [&](int number) {
    Request request;
    for (int i = 0; i < length; ++i) request.prompt.push_back((32 + number * 7 + i * 13) % 96);
    request.max_tokens = tokens;
    return request;
  };
  value(scheduler.submit(request_of(0)));  // what is made at the first use
  std::ignore = scheduler.drain();

  std::mutex mutex;
  std::vector<double> first;
  const double cpu = cpu_seconds();
  const auto start = std::chrono::steady_clock::now();
  for (int number = 0; number < requests; ++number) {
    Request request = request_of(number);
    request.on_end = [&](const Reply& reply) {
      const std::lock_guard lock(mutex);
      first.push_back(reply.seconds_to_first_token);
    };
    value(scheduler.submit(std::move(request)));
  }
  std::ignore = scheduler.drain();
  const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const double computed = cpu_seconds() - cpu;
  std::sort(first.begin(), first.end());
  std::printf(
      "{\"rows\": %d, \"seconds\": %.6f, \"cpu_seconds\": %.6f, \"tokens\": %d, \"first_token_median\": %.6f, "
      "\"first_token_last\": %.6f, \"peak_kilobytes\": %ld, \"state_bytes\": %zu}\n",
      rows, took, computed, requests * tokens, first[first.size() / 2], first.back(), peak_kilobytes(),
      value(Generator::state_bytes(session, options.generator)));
}
