// The C interface of generators.
#include <algorithm>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "hsm_runtime/generator.h"
#include "runtime/c_api.h"
#include "runtime/c_structs.h"

struct hsmrt_generator {
  hsm_runtime::Generator generator;
};

namespace {

using hsm::runtime::c_api::call;
using hsm::runtime::c_api::given;
using hsm::runtime::c_api::list_of;
using hsm::runtime::c_api::members_of;
using hsm::runtime::c_api::sampling_of;
using hsm_runtime::Generator;

Generator& opened(hsmrt_generator* generator) { return given(generator, "the generator").generator; }
const Generator& opened(const hsmrt_generator* generator) { return given(generator, "the generator").generator; }

hsm_runtime::GeneratorOptions options_of(const hsmrt_generator_options* options) {
  const hsmrt_generator_options members = members_of(options, "the generator's options");
  return {.batch = members.batch, .capacity = members.capacity, .reserve = members.reserve};
}

}  // namespace

int32_t hsmrt_generator_create_with(const hsmrt_session* session, const hsmrt_generator_options* options,
                                    hsmrt_generator** generator, hsmrt_error* error) {
  return call(error, [&] {
    std::ignore = given(generator, "the place for the generator");
    auto made = Generator::create(given(session, "the session").session, options_of(options));
    if (made.ok()) *generator = new hsmrt_generator{*std::move(made)};
    return made.status();
  });
}

int32_t hsmrt_generator_bytes_of(const hsmrt_session* session, const hsmrt_generator_options* options, size_t* bytes,
                                 hsmrt_error* error) {
  return call(error, [&] {
    std::ignore = given(bytes, "the place for the bytes");
    const auto counted = Generator::state_bytes(given(session, "the session").session, options_of(options));
    if (counted.ok()) *bytes = *counted;
    return counted.status();
  });
}

int32_t hsmrt_generator_create(const hsmrt_session* session, int64_t batch, int64_t capacity,
                               hsmrt_generator** generator, hsmrt_error* error) {
  return call(error, [&] {
    std::ignore = given(generator, "the place for the generator");
    auto made = Generator::create(given(session, "the session").session, {.batch = batch, .capacity = capacity});
    if (made.ok()) *generator = new hsmrt_generator{*std::move(made)};
    return made.status();
  });
}

void hsmrt_generator_close(hsmrt_generator* generator) { delete generator; }

int64_t hsmrt_generator_batch(const hsmrt_generator* generator) {
  return generator == nullptr ? 0 : generator->generator.batch();
}
int64_t hsmrt_generator_vocabulary(const hsmrt_generator* generator) {
  return generator == nullptr ? 0 : generator->generator.vocabulary();
}
int64_t hsmrt_generator_capacity(const hsmrt_generator* generator) {
  return generator == nullptr ? 0 : generator->generator.capacity();
}
size_t hsmrt_generator_state_bytes(const hsmrt_generator* generator) {
  return generator == nullptr ? 0 : generator->generator.state_bytes();
}
const int64_t* hsmrt_generator_positions(const hsmrt_generator* generator) {
  return generator == nullptr ? nullptr : generator->generator.positions().data();
}
const float* hsmrt_generator_logits(const hsmrt_generator* generator, int64_t row) {
  return generator == nullptr ? nullptr : generator->generator.logits(row).data();
}

int32_t hsmrt_generator_output(const hsmrt_generator* generator, int64_t row, const char* name, const float** numbers,
                               size_t* count, hsmrt_error* error) {
  return call(error, [&] {
    std::ignore = given(numbers, "the place for the numbers");
    std::ignore = given(count, "the place for their count");
    const auto found = opened(generator).output(row, &given(name, "the output's name"));
    if (found.ok()) *numbers = found->data(), *count = found->size();
    return found.status();
  });
}

int32_t hsmrt_generator_prefill(hsmrt_generator* generator, const int64_t* tokens, size_t count, const int64_t* lengths,
                                hsmrt_error* error) {
  return call(error, [&] {
    Generator& chosen = opened(generator);
    const std::size_t rows = lengths == nullptr ? 0 : static_cast<std::size_t>(chosen.batch());
    return chosen.prefill(list_of(tokens, count, "the list of tokens"), {lengths, rows});
  });
}

int32_t hsmrt_generator_prefill_row(hsmrt_generator* generator, int64_t row, const int64_t* tokens, size_t count,
                                    hsmrt_error* error) {
  return call(error, [&] { return opened(generator).prefill(row, list_of(tokens, count, "the list of tokens")); });
}

int32_t hsmrt_generator_prefill_row_logits(hsmrt_generator* generator, int64_t row, const int64_t* tokens, size_t count,
                                           float* logits, size_t room, hsmrt_error* error) {
  return call(error, [&] {
    Generator& chosen = opened(generator);
    std::ignore = given(logits, "the place for the logits");
    if (room / static_cast<std::size_t>(chosen.vocabulary()) < count) {
      hsm::runtime::fail(hsm_runtime::Code::kInvalidArgument,
                         "there is no room for the logits: they are " + std::to_string(chosen.vocabulary()) +
                             " numbers for each of " + std::to_string(count) + " tokens");
    }
    std::vector<float> every;
    const auto status = chosen.prefill(row, list_of(tokens, count, "the list of tokens"), &every);
    if (status.ok()) std::copy(every.begin(), every.end(), logits);
    return status;
  });
}

int32_t hsmrt_generator_set_cancellation(hsmrt_generator* generator, const hsmrt_cancellation* cancellation,
                                         hsmrt_error* error) {
  return call(error, [&] {
    opened(generator).set_stop(cancellation == nullptr ? std::stop_token() : cancellation->source.get_token());
    return hsm_runtime::Status();
  });
}

int32_t hsmrt_generator_step(hsmrt_generator* generator, const int64_t* tokens, size_t count, hsmrt_error* error) {
  return call(error, [&] { return opened(generator).step(list_of(tokens, count, "the list of tokens")); });
}

int32_t hsmrt_generator_sample(hsmrt_generator* generator, int64_t row, double temperature, int64_t top_k, double top_p,
                               double uniform, int64_t* token, hsmrt_error* error) {
  return call(error, [&] {
    std::ignore = given(token, "the place for the token");
    const hsm_runtime::Sampling sampling{.temperature = temperature, .top_k = top_k, .top_p = top_p};
    const auto chosen = opened(generator).sample(row, sampling, uniform);
    if (chosen.ok()) *token = *chosen;
    return chosen.status();
  });
}

int32_t hsmrt_generator_sample_with(hsmrt_generator* generator, int64_t row, const hsmrt_sampling* sampling,
                                    double uniform, int64_t* token, hsmrt_error* error) {
  return call(error, [&] {
    std::ignore = given(token, "the place for the token");
    const auto chosen = opened(generator).sample(row, sampling_of(sampling), uniform);
    if (chosen.ok()) *token = *chosen;
    return chosen.status();
  });
}

int32_t hsmrt_generator_rollback(hsmrt_generator* generator, int64_t row, int64_t tokens, hsmrt_error* error) {
  return call(error, [&] { return opened(generator).rollback(row, tokens); });
}
int32_t hsmrt_generator_fork(hsmrt_generator* generator, int64_t source, int64_t target, hsmrt_error* error) {
  return call(error, [&] { return opened(generator).fork(source, target); });
}
int32_t hsmrt_generator_fork_from(hsmrt_generator* generator, const hsmrt_generator* other, int64_t source,
                                  int64_t target, hsmrt_error* error) {
  return call(error, [&] { return opened(generator).fork(opened(other), source, target); });
}
int32_t hsmrt_generator_reset(hsmrt_generator* generator, int64_t row, hsmrt_error* error) {
  return call(error, [&] { return opened(generator).reset(row); });
}

int32_t hsmrt_generator_save(const hsmrt_generator* generator, const char* path, hsmrt_error* error) {
  return call(error, [&] { return opened(generator).save(&given(path, "the path")); });
}
int32_t hsmrt_generator_load(hsmrt_generator* generator, const char* path, hsmrt_error* error) {
  return call(error, [&] { return opened(generator).load(&given(path, "the path")); });
}

int32_t hsmrt_generator_save_row(const hsmrt_generator* generator, int64_t row, const char* path, hsmrt_error* error) {
  return call(error, [&] { return opened(generator).save_row(row, &given(path, "the path")); });
}
int32_t hsmrt_generator_load_row(hsmrt_generator* generator, int64_t row, const char* path, hsmrt_error* error) {
  return call(error, [&] { return opened(generator).load_row(row, &given(path, "the path")); });
}
