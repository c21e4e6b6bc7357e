// The C interface of schedulers.
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "hsm_runtime/scheduler.h"
#include "runtime/c_api.h"
#include "runtime/c_structs.h"

struct hsmrt_scheduler {
  hsm_runtime::Scheduler scheduler;
};

namespace {

using hsm::runtime::c_api::call;
using hsm::runtime::c_api::count_of;
using hsm::runtime::c_api::given;
using hsm::runtime::c_api::list_of;
using hsm::runtime::c_api::members_of;
using hsm::runtime::c_api::sampling_of;
using hsm_runtime::Reply;
using hsm_runtime::Request;
using hsm_runtime::Scheduler;

std::string text_of(const char* text) { return text == nullptr ? "" : text; }

hsm_runtime::SchedulerOptions options_of(const hsmrt_scheduler_options* given_options) {
  const hsmrt_scheduler_options members = members_of(given_options, "the scheduler's options");
  hsm_runtime::SchedulerOptions options;
  options.generator = {.batch = members.rows, .capacity = members.capacity, .reserve = members.reserve};
  if (members.chunk != 0) options.chunk = members.chunk;
  if (members.most_waiting != 0) options.most_waiting = members.most_waiting;
  return options;
}

void tell_end(const hsmrt_request& request, const Reply& reply) {
  hsmrt_reply told = {};
  told.size = sizeof told;
  told.id = reply.id;
  told.ending = static_cast<std::int32_t>(reply.ending);
  told.code = static_cast<std::int32_t>(reply.status.code());
  told.message = reply.status.message().c_str();
  told.tokens = reply.tokens.data();
  told.token_count = reply.tokens.size();
  told.seconds_to_row = reply.seconds_to_row;
  told.seconds_to_first_token = reply.seconds_to_first_token;
  told.seconds = reply.seconds;
  std::vector<hsmrt_log_probability> chosen, top;
  for (const hsm_runtime::Choice& choice : reply.choices) {
    chosen.push_back({choice.token, choice.log_probability});
    for (const auto& item : choice.top) top.push_back({item.token, item.log_probability});
    told.top_count = choice.top.size();
  }
  if (!chosen.empty()) told.log_probabilities = chosen.data();
  if (!top.empty()) told.top = top.data();
  std::vector<hsmrt_sample> samples;
  for (const hsm_runtime::Sample& sample : reply.samples) {
    samples.push_back({sample.index, static_cast<std::int32_t>(sample.ending),
                       static_cast<std::int32_t>(sample.status.code()), sample.tokens.data(), sample.tokens.size(),
                       sample.log_probability});
  }
  told.log_probability = reply.log_probability;
  if (!samples.empty()) told.samples = samples.data();
  told.sample_count = samples.size();
  request.on_end(request.user, &told);
}

Request request_of(const hsmrt_request* given_request) {
  const hsmrt_request members = members_of(given_request, "the request");
  const auto prompt = list_of(members.prompt, members.prompt_count, "the request's prompt");
  const auto stops = list_of(members.stop_tokens, members.stop_token_count, "the request's stop tokens");
  Request request;
  request.prompt.assign(prompt.begin(), prompt.end());
  request.stop_tokens.assign(stops.begin(), stops.end());
  request.max_tokens = members.max_tokens;
  if (members.sampling != nullptr) request.sampling = sampling_of(members.sampling);
  request.seed = members.seed;
  if (members.log_probabilities != 0) request.log_probabilities = count_of(members.top_count);
  request.priority = members.priority;
  request.timeout = std::chrono::milliseconds(members.timeout_ms);
  request.resume = text_of(members.resume);
  request.park = text_of(members.park);
  if (members.samples != 0) request.samples = members.samples;
  request.best = members.best;
  if (members.on_sample_token != nullptr) {
    request.on_sample_token = [members](std::int64_t sample, std::int64_t token) {
      return members.on_sample_token(members.user, sample, token) != 0;
    };
  }
  if (members.on_token != nullptr) {
    request.on_token = [members](std::int64_t token) { return members.on_token(members.user, token) != 0; };
  }
  if (members.on_end != nullptr) {
    request.on_end = [members](const Reply& reply) { tell_end(members, reply); };
  }
  return request;
}

}  // namespace

int32_t hsmrt_scheduler_create(const hsmrt_session* session, const hsmrt_scheduler_options* options,
                               hsmrt_scheduler** scheduler, hsmrt_error* error) {
  return call(error, [&] {
    std::ignore = given(scheduler, "the place for the scheduler");
    auto made = Scheduler::create(given(session, "the session").session, options_of(options));
    if (made.ok()) *scheduler = new hsmrt_scheduler{*std::move(made)};
    return made.status();
  });
}

void hsmrt_scheduler_close(hsmrt_scheduler* scheduler) { delete scheduler; }

int32_t hsmrt_scheduler_submit(hsmrt_scheduler* scheduler, const hsmrt_request* request, uint64_t* id,
                               hsmrt_error* error) {
  return call(error, [&] {
    const auto submitted = given(scheduler, "the scheduler").scheduler.submit(request_of(request));
    if (submitted.ok() && id != nullptr) *id = *submitted;
    return submitted.status();
  });
}

int32_t hsmrt_scheduler_cancel(hsmrt_scheduler* scheduler, uint64_t id, hsmrt_error* error) {
  return call(error, [&] { return given(scheduler, "the scheduler").scheduler.cancel(id); });
}

int32_t hsmrt_scheduler_drain(const hsmrt_scheduler* scheduler, hsmrt_error* error) {
  return call(error, [&] { return given(scheduler, "the scheduler").scheduler.drain(); });
}

int32_t hsmrt_scheduler_get_metrics(const hsmrt_scheduler* scheduler, hsmrt_metrics* metrics, hsmrt_error* error) {
  return call(error, [&] {
    std::ignore = members_of(metrics, "the metrics");
    const hsm_runtime::SchedulerMetrics found = given(scheduler, "the scheduler").scheduler.metrics();
    const hsmrt_metrics told = {metrics->size,       found.rows,   found.active,
                                found.waiting,       found.ended,  found.refused,
                                found.prompt_tokens, found.tokens, found.seconds_to_first_token,
                                found.first_tokens};
    std::memcpy(metrics, &told, std::min(metrics->size, sizeof told));
    return hsm_runtime::Status();
  });
}
