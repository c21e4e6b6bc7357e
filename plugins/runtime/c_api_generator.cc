// The C interface of generators.
#include <span>
#include <tuple>
#include <utility>

#include "hsm_runtime/generator.h"
#include "runtime/c_api.h"

struct hsmrt_generator {
  hsm_runtime::Generator generator;
};

namespace {

using hsm::runtime::c_api::call;
using hsm::runtime::c_api::given;
using hsm_runtime::Generator;

// NULL with a count of 0 is an empty list.
std::span<const std::int64_t> list_of(const std::int64_t* numbers, std::size_t count, const char* what) {
  if (count > 0) std::ignore = given(numbers, what);
  return {numbers, count};
}

Generator& opened(hsmrt_generator* generator) { return given(generator, "the generator").generator; }
const Generator& opened(const hsmrt_generator* generator) { return given(generator, "the generator").generator; }

}  // namespace

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

int32_t hsmrt_generator_prefill(hsmrt_generator* generator, const int64_t* tokens, size_t count, const int64_t* lengths,
                                hsmrt_error* error) {
  return call(error, [&] {
    Generator& chosen = opened(generator);
    const std::size_t rows = lengths == nullptr ? 0 : static_cast<std::size_t>(chosen.batch());
    return chosen.prefill(list_of(tokens, count, "the list of tokens"), {lengths, rows});
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

int32_t hsmrt_generator_rollback(hsmrt_generator* generator, int64_t row, int64_t tokens, hsmrt_error* error) {
  return call(error, [&] { return opened(generator).rollback(row, tokens); });
}
int32_t hsmrt_generator_fork(hsmrt_generator* generator, int64_t source, int64_t target, hsmrt_error* error) {
  return call(error, [&] { return opened(generator).fork(source, target); });
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
