// hsm_soak_requests BUNDLE [CLIENTS ROWS TOKENS]: many clients at once on the rows of one scheduler. Each asks,
// cancels, or parks its conversation and resumes it; every reply is compared with that of the same request alone.
#include <hsm_runtime/scheduler.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <string>
#include <thread>
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

Reply reply_to(Scheduler& scheduler, Request request) {
  std::promise<Reply> ended;
  request.on_end = [&](const Reply& reply) { ended.set_value(reply); };
  value(scheduler.submit(std::move(request)));
  return ended.get_future().get();
}

Request request_of(int client, int turn, std::int64_t vocabulary, std::int64_t tokens) {
  Request request;
  for (int i = 0; i < 4 + (client * 7 + turn * 3) % 40; ++i) {
    request.prompt.push_back((32 + client * 5 + turn * 11 + i * 13) % vocabulary);
  }
  request.max_tokens = tokens;
  request.seed = static_cast<std::uint64_t>(client * 1000 + turn);
  request.sampling.temperature = client % 2 == 0 ? 0 : 0.8;
  request.sampling.top_k = 20;
  request.priority = client % 3;
  return request;
}

// What a client does, one request after the other; returns its replies.
std::vector<Reply> serve(Scheduler& scheduler, int client, std::int64_t vocabulary, std::int64_t tokens,
                         const std::string& parked) {
  std::vector<Reply> replies;
  Request first = request_of(client, 0, vocabulary, tokens);
  first.park = parked;
  replies.push_back(reply_to(scheduler, first));
  Request cancelled = request_of(client, 1, vocabulary, tokens);
  int seen = 0;
  cancelled.on_token = [&](std::int64_t) { return ++seen < 3; };
  replies.push_back(reply_to(scheduler, cancelled));
  Request second = request_of(client, 2, vocabulary, tokens);
  second.resume = parked;
  replies.push_back(reply_to(scheduler, second));
  std::filesystem::remove(parked);
  return replies;
}

std::vector<std::vector<Reply>> serve_all(Scheduler& scheduler, int clients, bool together, std::int64_t vocabulary,
                                          std::int64_t tokens) {
  const std::filesystem::path folder = std::filesystem::temp_directory_path();
  std::vector<std::vector<Reply>> replies(static_cast<std::size_t>(clients));
  std::vector<std::thread> threads;
  for (int client = 0; client < clients; ++client) {
    threads.emplace_back([&, client] {
      const std::string name =
          "soak-requests-" + std::to_string(std::hash<std::thread::id>()(std::this_thread::get_id()));
      replies[static_cast<std::size_t>(client)] =
          serve(scheduler, client, vocabulary, tokens, (folder / (name + ".safetensors")).string());
    });
    if (!together) threads.back().join();
  }
  for (std::thread& thread : threads) {
    if (thread.joinable()) thread.join();
  }
  return replies;
}

double seconds(const std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) {
    std::fprintf(stderr, "usage: hsm_soak_requests BUNDLE [CLIENTS ROWS TOKENS]\n");
    return 2;
  }
  const auto number = [&](int index, int otherwise) { return count > index ? std::atoi(arguments[index]) : otherwise; };
  const int clients = number(2, 48), rows = number(3, 16), tokens = number(4, 32);

  SessionOptions one_thread;
  one_thread.threads = 1;
  const Session session = value(Session::open(arguments[1], Part::kDecode, one_thread));
  const std::int64_t vocabulary = value(Generator::create(session, {.batch = 1, .capacity = 1})).vocabulary();
  SchedulerOptions options;
  options.generator = {.batch = 1, .capacity = 512};
  Scheduler alone = value(Scheduler::create(session, options));
  auto start = std::chrono::steady_clock::now();
  const auto right = serve_all(alone, clients, false, vocabulary, tokens);
  const double alone_seconds = seconds(start);

  options.generator.batch = rows;
  Scheduler scheduler = value(Scheduler::create(session, options));
  start = std::chrono::steady_clock::now();
  const auto replies = serve_all(scheduler, clients, true, vocabulary, tokens);
  const double together_seconds = seconds(start);

  int differing = 0;
  for (std::size_t client = 0; client < replies.size(); ++client) {
    for (std::size_t turn = 0; turn < replies[client].size(); ++turn) {
      const Reply &got = replies[client][turn], &wanted = right[client][turn];
      differing += got.tokens != wanted.tokens || got.ending != wanted.ending ? 1 : 0;
    }
  }
  const SchedulerMetrics metrics = scheduler.metrics();
  std::printf("%llu requests, %llu tokens; %d differ from the request alone\n",
              static_cast<unsigned long long>(metrics.ended), static_cast<unsigned long long>(metrics.tokens),
              differing);
  std::printf("%d rows: %.0f tokens/s, one row: %.0f tokens/s (%.1f times); first token after %.1f ms on average\n",
              rows, static_cast<double>(metrics.tokens) / together_seconds,
              static_cast<double>(metrics.tokens) / alone_seconds, alone_seconds / together_seconds,
              1e3 * metrics.seconds_to_first_token / static_cast<double>(metrics.first_tokens));
  return differing == 0 ? 0 : 1;
}
