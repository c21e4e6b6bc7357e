// hsm_soak_requests BUNDLE [CLIENTS ROWS TOKENS]: many clients at once on the rows of one scheduler. Each asks and
// parks its conversation, cancels, misses a deadline, asks for samples and resumes; its text is streamed. Every reply
// is compared with that of the same request alone. Meanwhile others decode speculatively on the same session, and
// cancel runs.
#include <hsm_runtime/scheduler.h>
#include <hsm_runtime/speculation.h>
#include <hsm_runtime/text.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <stop_token>
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

// Streams the text of a request's tokens and, when it has ended, holds it to the text of all of them.
void watch_text(Request& request, const std::optional<Tokenizer>& tokenizer, std::atomic<int>& wrong) {
  if (!tokenizer) return;
  auto stream = std::make_shared<TextStream>(value(TextStream::create(*tokenizer)));
  auto text = std::make_shared<std::string>();
  request.on_token = [stream, text](std::int64_t token) {
    *text += value(stream->push(token));
    return true;
  };
  request.on_end = [&tokenizer, &wrong, stream, text](const Reply& reply) {
    *text += value(stream->finish());
    if (*text != value(tokenizer->decode(reply.tokens))) ++wrong;
  };
}

// The replies of a client, and what went wrong.
struct Served {
  std::vector<Reply> replies;
  Reply late;
};

bool same(const Reply& a, const Reply& b) {
  bool samples = a.samples.size() == b.samples.size();
  for (std::size_t i = 0; samples && i < a.samples.size(); ++i) samples = a.samples[i].tokens == b.samples[i].tokens;
  return samples && a.tokens == b.tokens && a.ending == b.ending;
}

// Where a client stands is not the same in each run when its time is over, but what it has got is.
bool is_beginning(const Reply& a, const Reply& b) {
  const std::size_t size = std::min(a.tokens.size(), b.tokens.size());
  return std::equal(a.tokens.begin(), a.tokens.begin() + static_cast<std::ptrdiff_t>(size), b.tokens.begin());
}

Reply watched_reply(Scheduler& scheduler, Request request, const std::optional<Tokenizer>& tokenizer,
                    std::atomic<int>& wrong) {
  watch_text(request, tokenizer, wrong);
  const auto check = std::move(request.on_end);
  std::promise<Reply> ended;
  request.on_end = [&](const Reply& reply) {
    if (check) check(reply);
    ended.set_value(reply);
  };
  value(scheduler.submit(std::move(request)));
  return ended.get_future().get();
}

struct Setting {
  Scheduler& scheduler;
  std::int64_t vocabulary, tokens, samples;
  const std::optional<Tokenizer>& tokenizer;
  std::atomic<int>& wrong;
};

// What a client does, one request after the other.
Served serve(const Setting& setting, int client, const std::string& parked) {
  Served served;
  Scheduler& scheduler = setting.scheduler;
  const auto ask = [&](int turn) { return request_of(client, turn, setting.vocabulary, setting.tokens); };
  Request first = ask(0);
  first.park = parked;
  served.replies.push_back(watched_reply(scheduler, first, setting.tokenizer, setting.wrong));
  Request cancelled = ask(1);
  int seen = 0;
  cancelled.on_token = [&](std::int64_t) { return ++seen < 3; };
  served.replies.push_back(reply_to(scheduler, cancelled));
  Request late = ask(3);
  late.timeout = std::chrono::milliseconds(1 + client % 7);
  served.late = reply_to(scheduler, late);
  Request several = ask(4);
  several.samples = setting.samples;
  several.best = client % 2;
  served.replies.push_back(reply_to(scheduler, several));
  Request second = ask(2);
  second.resume = parked;
  served.replies.push_back(watched_reply(scheduler, second, setting.tokenizer, setting.wrong));
  std::filesystem::remove(parked);
  return served;
}

std::vector<Served> serve_all(const Setting& setting, int clients, bool together) {
  const std::filesystem::path folder = std::filesystem::temp_directory_path();
  std::vector<Served> served(static_cast<std::size_t>(clients));
  std::vector<std::thread> threads;
  for (int client = 0; client < clients; ++client) {
    threads.emplace_back([&, client] {
      const std::string name =
          "soak-requests-" + std::to_string(std::hash<std::thread::id>()(std::this_thread::get_id()));
      served[static_cast<std::size_t>(client)] = serve(setting, client, (folder / (name + ".safetensors")).string());
    });
    if (!together) threads.back().join();
  }
  for (std::thread& thread : threads) {
    if (thread.joinable()) thread.join();
  }
  return served;
}

// Decodes speculatively, and lets runs be cancelled, until it is told to end; returns how often something was wrong.
int speculate(const Session& session, const std::stop_token& stop) {
  int wrong = 0;
  std::vector<std::int64_t> right;
  for (int round = 0; !stop.stop_requested() || round < 2; ++round) {
    Speculation speculation = value(Speculation::create(session, session, {.capacity = 64, .draft_tokens = 3}));
    const std::vector<std::int64_t> prompt = {40, 41, 42};
    if (!speculation.prefill(prompt).ok()) ++wrong;
    std::vector<std::int64_t> made;
    while (made.size() < 12) {
      const auto next = value(speculation.next());
      made.insert(made.end(), next.begin(), next.end());
    }
    made.resize(12);
    if (round == 0) right = made;
    wrong += made == right ? 0 : 1;

    Generator generator = value(Generator::create(session, {.batch = 1, .capacity = 512}));
    std::stop_source source;
    generator.set_stop(source.get_token());
    std::thread canceller([&] { source.request_stop(); });
    const Status status = generator.prefill(0, std::vector<std::int64_t>(64, 40 + round % 7));
    canceller.join();
    if (!status.ok() && status.code() != Code::kCancelled) ++wrong;
    generator.set_stop({});
    if (!generator.reset(0).ok() || !generator.prefill(0, prompt).ok()) ++wrong;
  }
  return wrong;
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

  SessionOptions shared;
  shared.threads = 1;
  shared.shared_threads = true;
  const Bundle bundle = value(Bundle::open(arguments[1]));
  const Session session = value(Session::open(bundle, Part::kDecode, shared));
  std::optional<Tokenizer> tokenizer;
  if (!bundle.tokenizer().empty()) tokenizer = value(Tokenizer::open(bundle));
  const std::int64_t vocabulary = value(Generator::create(session, {.batch = 1, .capacity = 1})).vocabulary();
  std::atomic<int> wrong = 0;

  SchedulerOptions options;
  const std::int64_t samples = std::min(3, rows);
  options.generator = {.batch = samples, .capacity = 512};
  Scheduler alone = value(Scheduler::create(session, options));
  const auto right = serve_all({alone, vocabulary, tokens, samples, tokenizer, wrong}, clients, false);

  options.generator.batch = rows;
  Scheduler scheduler = value(Scheduler::create(session, options));
  std::stop_source enough;
  std::future<int> others = std::async(std::launch::async, [&] { return speculate(session, enough.get_token()); });
  const auto start = std::chrono::steady_clock::now();
  const auto served = serve_all({scheduler, vocabulary, tokens, samples, tokenizer, wrong}, clients, true);
  const double together_seconds = seconds(start);
  enough.request_stop();
  wrong += others.get();

  int differing = wrong;
  for (std::size_t client = 0; client < served.size(); ++client) {
    for (std::size_t turn = 0; turn < served[client].replies.size(); ++turn) {
      differing += same(served[client].replies[turn], right[client].replies[turn]) ? 0 : 1;
    }
    differing += is_beginning(served[client].late, right[client].late) ? 0 : 1;
  }
  const SchedulerMetrics metrics = scheduler.metrics();
  std::printf("%llu requests, %llu tokens; %d differ from the request alone\n",
              static_cast<unsigned long long>(metrics.ended), static_cast<unsigned long long>(metrics.tokens),
              differing);
  std::printf("%d rows: %.0f tokens/s; first token after %.1f ms on average\n", rows,
              static_cast<double>(metrics.tokens) / together_seconds,
              1e3 * metrics.seconds_to_first_token / static_cast<double>(metrics.first_tokens));
  return differing == 0 ? 0 : 1;
}
