// serve_requests BUNDLE [ROWS]: each line of stdin is a prompt of bytes, and all are served at once on ROWS rows. A
// reply is printed when it has ended, with its line's number: at 64 tokens or at the end of a line.
#include <hsm_runtime/scheduler.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>

using namespace hsm_runtime;

template <typename T>
T value(Result<T> result) {
  if (!result.ok()) {
    std::fprintf(stderr, "error: %s\n", result.status().message().c_str());
    std::exit(1);
  }
  return *std::move(result);
}

int main(int count, char** arguments) {
  if (count < 2) {
    std::fprintf(stderr, "usage: serve_requests BUNDLE [ROWS]\n");
    return 2;
  }
  const Bundle bundle = value(Bundle::open(arguments[1]));
  if (bundle.tokenizer() != "bytes") {
    std::fprintf(stderr, "error: the bundle's token ids are not bytes\n");
    return 1;
  }
  SchedulerOptions options;
  options.generator.batch = count > 2 ? std::atoi(arguments[2]) : 16;
  options.generator.capacity = 1024;
  Scheduler scheduler = value(Scheduler::create(value(Session::open(bundle, Part::kDecode)), options));

  std::mutex output;
  int number = 0;
  for (std::string line; std::getline(std::cin, line); ++number) {
    Request request;
    for (const char byte : line) request.prompt.push_back(static_cast<unsigned char>(byte));
    request.max_tokens = 64;
    request.stop_tokens = {'\n'};
    request.on_end = [&output, number](const Reply& reply) {
      const std::lock_guard lock(output);
      if (reply.ending == Ending::kFailed) std::printf("%d failed: %s\n", number, reply.status.message().c_str());
      if (reply.ending == Ending::kFailed) return;
      std::printf("%d ", number);
      for (const std::int64_t token : reply.tokens) std::putchar(static_cast<int>(token));
      std::putchar('\n');
    };
    const Result<std::uint64_t> id = scheduler.submit(std::move(request));
    if (!id.ok()) std::printf("%d refused: %s\n", number, id.status().message().c_str());
  }
  std::ignore = scheduler.drain();  // fails in callbacks alone
  const SchedulerMetrics metrics = scheduler.metrics();
  std::fprintf(stderr, "%llu requests, %llu tokens\n", static_cast<unsigned long long>(metrics.ended),
               static_cast<unsigned long long>(metrics.tokens));
}
