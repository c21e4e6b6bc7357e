// The C interface of speculative decoding.
#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

#include "hsm_runtime/speculation.h"
#include "runtime/c_api.h"
#include "runtime/c_structs.h"

struct hsmrt_speculation {
  hsm_runtime::Speculation speculation;
  std::size_t most;  // tokens that one call may make
};

namespace {

using hsm::runtime::c_api::call;
using hsm::runtime::c_api::given;
using hsm::runtime::c_api::list_of;
using hsm::runtime::c_api::members_of;
using hsm_runtime::Speculation;

hsm_runtime::SpeculationOptions options_of(const hsmrt_speculation_options* options) {
  const hsmrt_speculation_options members = members_of(options, "the options of speculative decoding");
  hsm_runtime::SpeculationOptions made;
  made.capacity = members.capacity;
  if (members.draft_tokens != 0) made.draft_tokens = members.draft_tokens;
  if (members.sampling != nullptr) made.sampling = hsm::runtime::c_api::sampling_of(members.sampling);
  made.seed = members.seed;
  return made;
}

}  // namespace

int32_t hsmrt_speculation_create(const hsmrt_session* target, const hsmrt_session* draft,
                                 const hsmrt_speculation_options* options, hsmrt_speculation** speculation,
                                 hsmrt_error* error) {
  return call(error, [&] {
    std::ignore = given(speculation, "the place for the speculation");
    const auto chosen = options_of(options);
    auto made = Speculation::create(given(target, "the target").session, given(draft, "the draft").session, chosen);
    if (made.ok()) {
      *speculation = new hsmrt_speculation{*std::move(made), static_cast<std::size_t>(chosen.draft_tokens) + 1};
    }
    return made.status();
  });
}

void hsmrt_speculation_close(hsmrt_speculation* speculation) { delete speculation; }

int32_t hsmrt_speculation_prefill(hsmrt_speculation* speculation, const int64_t* tokens, size_t count,
                                  hsmrt_error* error) {
  return call(error, [&] {
    return given(speculation, "the speculation").speculation.prefill(list_of(tokens, count, "the list of tokens"));
  });
}

int32_t hsmrt_speculation_next(hsmrt_speculation* speculation, int64_t* tokens, size_t room, size_t* count,
                               hsmrt_error* error) {
  return call(error, [&] {
    hsmrt_speculation& opened = given(speculation, "the speculation");
    std::ignore = given(tokens, "the place for the tokens");
    std::ignore = given(count, "the place for their number");
    if (room < opened.most) {
      hsm::runtime::fail(hsm_runtime::Code::kInvalidArgument,
                         "there must be room for " + std::to_string(opened.most) + " tokens");
    }
    const auto made = opened.speculation.next();
    if (!made.ok()) return made.status();
    *count = made->size();
    std::copy(made->begin(), made->end(), tokens);
    return hsm_runtime::Status();
  });
}
