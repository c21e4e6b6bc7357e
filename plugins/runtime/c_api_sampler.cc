// The C interface of samplers.
#include <span>
#include <tuple>
#include <utility>

#include "hsm_runtime/sampling.h"
#include "runtime/c_api.h"
#include "runtime/c_structs.h"

struct hsmrt_sampler {
  hsm_runtime::Sampler sampler;
};

namespace {

using hsm::runtime::c_api::call;
using hsm::runtime::c_api::count_of;
using hsm::runtime::c_api::given;
using hsm::runtime::c_api::list_of;
using hsm::runtime::c_api::sampling_of;

}  // namespace

int32_t hsmrt_sampler_create(const hsmrt_sampling* sampling, uint64_t seed, int64_t vocabulary, hsmrt_sampler** sampler,
                             hsmrt_error* error) {
  return call(error, [&] {
    std::ignore = given(sampler, "the place for the sampler");
    auto made = hsm_runtime::Sampler::create(sampling_of(sampling), seed, vocabulary);
    if (made.ok()) *sampler = new hsmrt_sampler{*std::move(made)};
    return made.status();
  });
}

void hsmrt_sampler_close(hsmrt_sampler* sampler) { delete sampler; }

int32_t hsmrt_sampler_read(hsmrt_sampler* sampler, const int64_t* tokens, size_t count, hsmrt_error* error) {
  return call(error,
              [&] { return given(sampler, "the sampler").sampler.read(list_of(tokens, count, "the list of tokens")); });
}

int32_t hsmrt_sampler_choose(hsmrt_sampler* sampler, const float* logits, size_t count, hsmrt_log_probability* chosen,
                             hsmrt_log_probability* top, size_t top_count, hsmrt_error* error) {
  return call(error, [&] {
    std::ignore = given(chosen, "the place for the token");
    if (count > 0) std::ignore = given(logits, "the logits");
    if (top_count > 0) std::ignore = given(top, "the place for the likeliest tokens");
    const auto choice = given(sampler, "the sampler").sampler.choose(std::span(logits, count), count_of(top_count));
    if (!choice.ok()) return choice.status();
    *chosen = {choice->token, choice->log_probability};
    for (std::size_t i = 0; i < choice->top.size(); ++i) {
      top[i] = {choice->top[i].token, choice->top[i].log_probability};
    }
    return hsm_runtime::Status();
  });
}
