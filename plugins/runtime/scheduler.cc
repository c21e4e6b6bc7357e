#include "hsm_runtime/scheduler.h"

#include <algorithm>
#include <condition_variable>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "runtime/error.h"
#include "runtime/requests.h"

namespace hsm_runtime {
namespace {

using hsm::runtime::Clock;
using hsm::runtime::fail;
using hsm::runtime::seconds_since;
using hsm::runtime::Work;
using hsm::runtime::Works;

}  // namespace

struct Scheduler::Impl {
  Impl(Generator made, const SchedulerOptions& chosen)
      : generator(std::move(made)),
        options(chosen),
        vocabulary(generator.vocabulary()),
        step_tokens(static_cast<std::size_t>(generator.batch()), -1) {
    for (std::int64_t row = generator.batch(); row-- > 0;) free_rows.push_back(row);
    counts.rows = free_rows.size();
  }

  // The thread keeps what it works on.
  static void start(const std::shared_ptr<Impl>& impl) {
    impl->thread = std::thread([impl] { impl->loop(); });
  }

  bool in_callback() const { return std::this_thread::get_id() == thread.get_id(); }

  // From a callback nobody waits: the thread ends what is left once that returns.
  void close() {
    {
      const std::lock_guard lock(mutex);
      is_closing = true;
    }
    changed.notify_all();
    in_callback() ? thread.detach() : thread.join();
  }

  // What a request is made of: one work for each of its samples, the first of which reads the prompt.
  Works works_of(Request request) const {
    Works works;
    const std::int64_t count = request.samples;
    const auto samples = count > 1 ? std::make_shared<hsm::runtime::Samples>(request) : nullptr;
    if (!samples && request.on_sample_token) {
      request.on_token = [tell = request.on_sample_token](std::int64_t token) { return tell(0, token); };
    }
    for (std::int64_t index = 0; index < count; ++index) {
      Work& work = *works.emplace_back(std::make_unique<Work>());
      work.request = samples ? hsm::runtime::Samples::one(samples, request, index) : std::move(request);
      work.samples = samples;
      if (index > 0) work.leader = works.front().get();
      Result<Sampler> sampler = Sampler::create(work.request.sampling, work.request.seed, vocabulary);
      if (!sampler.ok()) fail(sampler.status().code(), sampler.status().message());
      work.sampler = *std::move(sampler);
    }
    return works;
  }

  std::uint64_t submit(Request request) {
    hsm::runtime::check_request(request, {vocabulary, generator.capacity(), generator.batch()});
    const std::int64_t priority = request.priority;
    Works works = works_of(std::move(request));
    const std::lock_guard lock(mutex);
    if (is_closing) fail(Code::kUnavailable, "the scheduler is being closed");
    if (waiting.size() >= options.most_waiting) {
      ++counts.refused;
      fail(Code::kUnavailable, std::to_string(waiting.size()) + " requests wait already; try again later");
    }
    const std::uint64_t id = last_id + 1;
    for (const auto& work : works) work->reply.id = id;
    waiting.emplace(std::pair(-priority, id), std::move(works));
    last_id = id;
    changed.notify_all();
    return id;
  }

  void cancel(std::uint64_t id) {
    const std::lock_guard lock(mutex);
    for (const auto& [order, works] : waiting) {
      for (const auto& work : works) work->is_cancelled |= work->reply.id == id;
    }
    for (const auto& work : active) work->is_cancelled |= work->reply.id == id;
    changed.notify_all();
  }

  // What a request waits for: whether it is to end without another token.
  static bool ends_now(const Work& work) { return work.is_cancelled || work.is_late(); }

  // Takes out what has ended on its own account, and gives rows to those that wait. Returns what has ended. From here
  // on a request moves from list to list, so that want of memory ends none but the one that it befalls.
  Works arrange() {
    Works ended;
    for (auto item = waiting.begin(); item != waiting.end();) {
      if (is_closing || ends_now(*item->second.front())) {
        ended.splice(ended.end(), item->second);
        item = waiting.erase(item);
      } else {
        ++item;
      }
    }
    for (auto item = active.begin(); item != active.end();) {
      const auto next = std::next(item);
      if (is_closing || ends_now(**item)) ended.splice(ended.end(), active, item);
      item = next;
    }
    for (const auto& work : ended) {
      replace_leader(*work);
      work->reply.ending = !is_closing && !work->is_cancelled ? Ending::kTimeout : Ending::kCancelled;
      release(*work);
    }
    while (!waiting.empty() && free_rows.size() >= waiting.begin()->second.size()) {
      for (const auto& work : waiting.begin()->second) {
        work->row = free_rows.back();
        free_rows.pop_back();
        work->reply.seconds_to_row = seconds_since(work->submitted);
      }
      active.splice(active.end(), waiting.begin()->second);
      waiting.erase(waiting.begin());
    }
    return ended;
  }

  // Another sample reads the prompt for those that waited for this one.
  void replace_leader(const Work& gone) {
    Work* next = nullptr;
    for (const auto& work : active) {
      if (work->leader != &gone) continue;
      work->leader = next;
      if (next == nullptr) next = work.get();
    }
  }

  void release(Work& work) {
    if (work.row >= 0) free_rows.push_back(work.row);
    work.row = -1;
  }

  // The scheduler's thread. Nothing is called while the mutex is held; `active` changes in this thread alone.
  void loop() {
    for (;;) {
      Works ended;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return is_closing || !waiting.empty() || !active.empty(); });
        ended = arrange();
        if (is_closing && ended.empty()) return;
      }
      for (const auto& work : ended) tell_end(*work);
      step();
      read_prompts();
    }
  }

  void tell_end(Work& work) {
    work.reply.seconds = seconds_since(work.submitted);
    try {
      if (work.request.on_end) work.request.on_end(work.reply);
    } catch (...) {  // a callback must not throw; one that does ends nothing
    }
    if (work.samples && !work.samples->is_over()) return;
    const std::lock_guard lock(mutex);
    ++counts.ended;
    idle.notify_all();
  }

  using Item = Works::iterator;

  // Ends an active request and frees its row.
  void end(Item item, Ending ending, Status status = {}) {
    Works ended;
    {
      const std::lock_guard lock(mutex);
      ended.splice(ended.end(), active, item);
      replace_leader(*ended.front());
      release(*ended.front());
    }
    ended.front()->reply.ending = ending;
    ended.front()->reply.status = std::move(status);
    tell_end(*ended.front());
  }

  // One token of every row that generates, together.
  void step() {
    std::fill(step_tokens.begin(), step_tokens.end(), -1);
    bool any = false;
    for (const auto& work : active) {
      if (work->reads_prompt()) continue;
      step_tokens[static_cast<std::size_t>(work->row)] = work->next_token;
      any = true;
    }
    if (!any) return;
    const Status status = generator.step(step_tokens);
    for (auto item = active.begin(); item != active.end();) {
      const auto next = std::next(item);
      if (!(*item)->reads_prompt() && step_tokens[static_cast<std::size_t>((*item)->row)] >= 0) {
        guard(item, [&] { status.ok() ? choose(item) : end(item, Ending::kFailed, status); });
      }
      item = next;
    }
  }

  // Runs `body`; what it throws, such as std::bad_alloc, is the end of that request alone. It throws before the end.
  template <typename F>
  void guard(Item item, F&& body) {
    try {
      body();
    } catch (...) {
      end(item, Ending::kFailed, hsm::runtime::current_status());
    }
  }

  // Pieces of prompts, those that came first, of a chunk's tokens together at most: short prompts join at once. Where a
  // prompt is cut depends on itself alone.
  void read_prompts() {
    std::size_t left = static_cast<std::size_t>(options.chunk);
    while (const std::size_t read = read_chunk(left)) left -= read;
  }

  // The next piece of the prompt that came first, if it has no more than `most` tokens; returns how many were read.
  std::size_t read_chunk(std::size_t most) {
    const auto item = std::find_if(active.begin(), active.end(),
                                   [](const auto& work) { return work->reads_prompt() && work->leader == nullptr; });
    if (item == active.end()) return 0;
    const Work& work = **item;
    const std::size_t count = std::min(work.request.prompt.size() - work.read, static_cast<std::size_t>(options.chunk));
    if (count > most) return 0;
    guard(item, [&] { read_chunk(item, count); });
    return count;
  }

  void read_chunk(Item item, std::size_t count) {
    Work& work = **item;
    const std::span<const std::int64_t> piece = std::span(work.request.prompt).subspan(work.read, count);
    Status status = work.read == 0 ? prepare(work) : Status();
    if (status.ok()) status = work.sampler->read(piece);
    if (status.ok()) status = generator.prefill(work.row, piece);
    if (!status.ok()) return end(item, Ending::kFailed, std::move(status));
    work.read += count;
    {
      const std::lock_guard lock(mutex);
      counts.prompt_tokens += count;
    }
    if (work.reads_prompt()) return;
    const std::vector<Item> followers = fork(work);
    choose(item);
    for (const Item follower : followers) guard(follower, [&] { choose(follower); });
  }

  // Copies a row that has read its prompt to the other samples of it; returns those that have it now.
  std::vector<Item> fork(const Work& leader) {
    std::vector<Item> followers;
    followers.reserve(active.size());  // nothing throws once a sample has its row
    for (auto item = active.begin(); item != active.end();) {
      const auto next = std::next(item);
      Work& work = **item;
      if (work.leader == &leader) {
        Status status = work.sampler->read(work.request.prompt);
        if (status.ok()) status = generator.fork(leader.row, work.row);
        if (status.ok()) {
          work.leader = nullptr;
          work.read = work.request.prompt.size();
          followers.push_back(item);
        } else {
          end(item, Ending::kFailed, std::move(status));
        }
      }
      item = next;
    }
    return followers;
  }

  Status prepare(const Work& work) {
    if (work.request.resume.empty()) return generator.reset(work.row);
    Status status = generator.load_row(work.row, work.request.resume);
    const std::int64_t reached = generator.positions()[static_cast<std::size_t>(work.row)];
    // A row that outgrew its state would end the step of all rows.
    if (status.ok()) hsm::runtime::check_room(work.request, reached, generator.capacity());
    return status;
  }

  // The next token of a row that has read all that it had.
  void choose(Item item) {
    Work& work = **item;
    if (work.is_last) return finish(item, work.reply.ending);
    // Probabilities cost a pass over the vocabulary.
    const std::int64_t top =
        work.samples ? std::max<std::int64_t>(0, work.request.log_probabilities) : work.request.log_probabilities;
    Result<Choice> chosen = generator.sample(work.row, *work.sampler, top);
    if (!chosen.ok()) return end(item, Ending::kFailed, chosen.status());
    const auto& stops = work.request.stop_tokens;
    work.next_token = chosen->token;
    work.reply.log_probability += chosen->log_probability;
    if (std::find(stops.begin(), stops.end(), work.next_token) != stops.end()) return read_last(item, Ending::kStop);
    if (work.request.log_probabilities >= 0) work.reply.choices.push_back(*std::move(chosen));
    count_token(work);
    if (!tell_token(work)) return end(item, Ending::kCancelled);
    if (static_cast<std::int64_t>(work.reply.tokens.size()) == work.request.max_tokens)
      read_last(item, Ending::kLength);
  }

  void count_token(Work& work) {
    work.reply.tokens.push_back(work.next_token);
    const bool is_first = work.reply.tokens.size() == 1;
    if (is_first) work.reply.seconds_to_first_token = seconds_since(work.submitted);
    const std::lock_guard lock(mutex);
    ++counts.tokens;
    if (!is_first) return;
    ++counts.first_tokens;
    counts.seconds_to_first_token += work.reply.seconds_to_first_token;
  }

  static bool tell_token(const Work& work) try {
    return !work.request.on_token || work.request.on_token(work.next_token);
  } catch (...) {
    return false;
  }

  // A row that is parked has read all of its reply.
  void read_last(Item item, Ending ending) {
    (*item)->reply.ending = ending;
    (*item)->is_last = true;
    if ((*item)->request.park.empty()) finish(item, ending);
  }

  void finish(Item item, Ending ending) {
    const Work& work = **item;
    Status status = work.request.park.empty() ? Status() : generator.save_row(work.row, work.request.park);
    const bool is_good = status.ok();
    end(item, is_good ? ending : Ending::kFailed, std::move(status));
  }

  Generator generator;  // of the thread alone
  const SchedulerOptions options;
  const std::int64_t vocabulary;
  std::vector<std::int64_t> step_tokens;  // of the thread alone

  mutable std::mutex mutex;
  mutable std::condition_variable changed, idle;
  bool is_closing = false;
  std::uint64_t last_id = 0;
  std::vector<std::int64_t> free_rows;
  std::map<std::pair<std::int64_t, std::uint64_t>, Works> waiting;  // one each; the priority is negated
  Works active;  // the thread alone changes it, and holds the mutex then
  SchedulerMetrics counts;
  std::thread thread;
};

Scheduler::Scheduler(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Scheduler::Scheduler(Scheduler&&) noexcept = default;
Scheduler& Scheduler::operator=(Scheduler&& other) noexcept {
  Scheduler old(std::move(other));  // which then is what this one was
  std::swap(impl_, old.impl_);
  return *this;
}
Scheduler::~Scheduler() {
  if (impl_) impl_->close();
}

Result<Scheduler> Scheduler::create(const Session& session, const SchedulerOptions& options) {
  return hsm::runtime::guarded<Scheduler>([&] {
    if (options.chunk < 1) fail(Code::kInvalidArgument, "a chunk of a prompt needs at least one token");
    Result<Generator> generator = Generator::create(session, options.generator);
    if (!generator.ok()) fail(generator.status().code(), generator.status().message());
    auto impl = std::make_shared<Impl>(*std::move(generator), options);
    Impl::start(impl);
    return Scheduler(std::move(impl));
  });
}

Result<std::uint64_t> Scheduler::submit(Request request) {
  return hsm::runtime::guarded<std::uint64_t>([&] { return impl_->submit(std::move(request)); });
}

Status Scheduler::cancel(std::uint64_t id) {
  return hsm::runtime::guarded_status([&] { impl_->cancel(id); });
}

SchedulerMetrics Scheduler::metrics() const {
  const std::lock_guard lock(impl_->mutex);
  SchedulerMetrics metrics = impl_->counts;
  metrics.active = impl_->active.size();
  metrics.waiting = impl_->waiting.size();
  return metrics;
}

Status Scheduler::drain() const {
  return hsm::runtime::guarded_status([&] {
    if (impl_->in_callback()) fail(Code::kInvalidArgument, "a callback cannot wait for its own scheduler");
    std::unique_lock lock(impl_->mutex);
    impl_->idle.wait(lock, [&] { return impl_->counts.ended == impl_->last_id; });
  });
}

}  // namespace hsm_runtime
