#include "tests/runtime/c_generator.h"

#include <string.h>

#define CHECK(condition) \
  if (!(condition)) return #condition

static int same(const float* logits, float a, float b, float c, float d) {
  return logits[0] == a && logits[1] == b && logits[2] == c && logits[3] == d;
}

/* The counting model: a row's logits are how often it has read each token, plus one for the last. */
const char* c_generator_generates(const hsmrt_session* session, const char* state_file) {
  hsmrt_generator *generator = NULL, *other = NULL;
  hsmrt_error error = {{0}};
  const int64_t prompts[] = {0, 1, 2, 2}, lengths[] = {2, 1}, step[] = {3, -1}, both[] = {0, 0};
  int64_t token = -1;

  CHECK(hsmrt_generator_create(session, 2, 0, &generator, &error) == HSMRT_OK);
  CHECK(hsmrt_generator_batch(generator) == 2);
  CHECK(hsmrt_generator_vocabulary(generator) == 4);
  CHECK(hsmrt_generator_capacity(generator) == 9);
  CHECK(hsmrt_generator_state_bytes(generator) == 2 * 4 * sizeof(float));
  const int64_t* positions = hsmrt_generator_positions(generator);

  CHECK(hsmrt_generator_prefill(generator, prompts, 4, NULL, &error) == HSMRT_OK);
  CHECK(same(hsmrt_generator_logits(generator, 0), 1, 2, 0, 0));
  CHECK(same(hsmrt_generator_logits(generator, 1), 0, 0, 3, 0));
  CHECK(hsmrt_generator_sample(generator, 1, 0, 0, 1, 0, &token, &error) == HSMRT_OK && token == 2);
  CHECK(hsmrt_generator_step(generator, step, 2, &error) == HSMRT_OK);
  CHECK(same(hsmrt_generator_logits(generator, 0), 1, 1, 0, 2));
  CHECK(positions[0] == 3 && positions[1] == 2);

  CHECK(hsmrt_generator_save(generator, state_file, &error) == HSMRT_OK);
  CHECK(hsmrt_generator_create(session, 2, 0, &other, &error) == HSMRT_OK);
  CHECK(hsmrt_generator_load(other, state_file, &error) == HSMRT_OK);
  CHECK(hsmrt_generator_step(other, both, 2, &error) == HSMRT_OK);
  CHECK(hsmrt_generator_step(generator, both, 2, &error) == HSMRT_OK);
  for (int64_t row = 0; row < 2; ++row) {
    const float *one = hsmrt_generator_logits(generator, row), *two = hsmrt_generator_logits(other, row);
    CHECK(memcmp(one, two, 4 * sizeof(float)) == 0);
  }
  hsmrt_generator_close(other);

  CHECK(hsmrt_generator_rollback(generator, 0, 2, &error) == HSMRT_OK && positions[0] == 2);
  CHECK(hsmrt_generator_fork(generator, 1, 0, &error) == HSMRT_OK && positions[0] == 3);
  CHECK(hsmrt_generator_reset(generator, 1, &error) == HSMRT_OK && positions[1] == 0);
  CHECK(hsmrt_generator_prefill(generator, prompts, 4, lengths, &error) == HSMRT_OK);
  CHECK(positions[0] == 5 && positions[1] == 1);
  hsmrt_generator_close(generator);
  return NULL;
}

/* Rows on their own: a prompt read apart joins, a conversation is parked, and nothing answers for another. */
const char* c_generator_moves_rows(const hsmrt_session* session, const char* row_file) {
  hsmrt_generator *shared = NULL, *many = NULL;
  hsmrt_error error = {{0}};
  const int64_t prompt[] = {0, 1, 2}, step[] = {-1, 3, -1};
  const hsmrt_generator_options one = {.size = sizeof one, .batch = 1}, three = {.size = sizeof three, .batch = 3};
  const hsmrt_sampling likeliest = {.size = sizeof likeliest};
  hsmrt_generator_options odd = one;
  int64_t token = -1;
  size_t bytes = 0;

  CHECK(hsmrt_generator_bytes_of(session, &three, &bytes, &error) == HSMRT_OK && bytes == 3 * 4 * sizeof(float));
  CHECK(hsmrt_generator_create_with(session, &one, &shared, &error) == HSMRT_OK);
  CHECK(hsmrt_generator_create_with(session, &three, &many, &error) == HSMRT_OK);
  CHECK(hsmrt_generator_logits(many, 1) == NULL);
  CHECK(hsmrt_generator_sample_with(many, 1, &likeliest, 0, &token, &error) == HSMRT_INVALID_ARGUMENT);
  CHECK(strstr(error.message, "has no logits") != NULL && token == -1);

  CHECK(hsmrt_generator_prefill_row(shared, 0, prompt, 3, &error) == HSMRT_OK);
  CHECK(hsmrt_generator_fork_from(many, shared, 0, 1, &error) == HSMRT_OK);
  CHECK(hsmrt_generator_step(many, step, 3, &error) == HSMRT_OK);
  CHECK(same(hsmrt_generator_logits(many, 1), 1, 1, 1, 2));
  CHECK(hsmrt_generator_sample_with(many, 1, &likeliest, 0, &token, &error) == HSMRT_OK && token == 3);
  CHECK(hsmrt_generator_save_row(many, 1, row_file, &error) == HSMRT_OK);
  CHECK(hsmrt_generator_load_row(shared, 0, row_file, &error) == HSMRT_OK);
  CHECK(same(hsmrt_generator_logits(shared, 0), 1, 1, 1, 2));

  odd.size = 4;
  CHECK(hsmrt_generator_create_with(session, &odd, &shared, &error) == HSMRT_INVALID_ARGUMENT);
  CHECK(hsmrt_generator_create_with(session, NULL, &shared, &error) == HSMRT_INVALID_ARGUMENT);
  hsmrt_generator_close(shared);
  hsmrt_generator_close(many);
  CHECK(strcmp(hsmrt_code_name(HSMRT_BAD_BUNDLE), "bad bundle") == 0);
  return NULL;
}

const char* c_generator_refuses(const hsmrt_session* session) {
  hsmrt_generator* generator = NULL;
  hsmrt_error error = {{0}};
  const int64_t tokens[] = {0, 4};
  int64_t token = -1;

  CHECK(hsmrt_generator_create(session, 0, 0, &generator, &error) == HSMRT_INVALID_ARGUMENT && generator == NULL);
  CHECK(strstr(error.message, "at least one row") != NULL);
  CHECK(hsmrt_generator_create(session, 1, 0, NULL, &error) == HSMRT_INVALID_ARGUMENT);
  CHECK(hsmrt_generator_create(session, 1, 0, &generator, &error) == HSMRT_OK);
  CHECK(hsmrt_generator_step(generator, tokens, 2, &error) == HSMRT_INVALID_ARGUMENT);
  CHECK(hsmrt_generator_step(generator, NULL, 1, &error) == HSMRT_INVALID_ARGUMENT);
  CHECK(strstr(error.message, "the list of tokens is NULL") != NULL);
  CHECK(hsmrt_generator_step(generator, NULL, 0, &error) == HSMRT_INVALID_ARGUMENT);
  CHECK(hsmrt_generator_prefill(generator, tokens, 2, NULL, &error) == HSMRT_INVALID_ARGUMENT);
  CHECK(strstr(error.message, "token id 4 is not in 0..3") != NULL);
  CHECK(hsmrt_generator_prefill(generator, tokens, 0, NULL, NULL) == HSMRT_INVALID_ARGUMENT);
  CHECK(hsmrt_generator_sample(generator, 1, 0, 0, 1, 0, &token, &error) == HSMRT_INVALID_ARGUMENT);
  CHECK(hsmrt_generator_sample(generator, 0, 0, 0, 1, 0, NULL, &error) == HSMRT_INVALID_ARGUMENT && token == -1);
  CHECK(hsmrt_generator_logits(generator, 1) == NULL && hsmrt_generator_logits(generator, -1) == NULL);
  CHECK(hsmrt_generator_rollback(generator, 0, 1, &error) == HSMRT_INVALID_ARGUMENT);
  CHECK(hsmrt_generator_fork(generator, 0, 1, &error) == HSMRT_INVALID_ARGUMENT);
  CHECK(hsmrt_generator_reset(generator, 1, &error) == HSMRT_INVALID_ARGUMENT);
  CHECK(hsmrt_generator_save(generator, "/nonexistent/state", &error) != HSMRT_OK);
  CHECK(hsmrt_generator_save(generator, NULL, &error) == HSMRT_INVALID_ARGUMENT);
  CHECK(hsmrt_generator_load(generator, "/nonexistent/state", &error) == HSMRT_INVALID_ARGUMENT);
  hsmrt_generator_close(generator);
  return NULL;
}

const char* c_generator_takes_null(void) {
  const int64_t token = 0;
  int64_t chosen = 0;
  hsmrt_generator* generator = NULL;

  CHECK(hsmrt_generator_create(NULL, 1, 0, &generator, NULL) == HSMRT_INVALID_ARGUMENT && generator == NULL);
  CHECK(hsmrt_generator_batch(NULL) == 0 && hsmrt_generator_vocabulary(NULL) == 0);
  CHECK(hsmrt_generator_capacity(NULL) == 0 && hsmrt_generator_state_bytes(NULL) == 0);
  CHECK(hsmrt_generator_positions(NULL) == NULL && hsmrt_generator_logits(NULL, 0) == NULL);
  CHECK(hsmrt_generator_prefill(NULL, &token, 1, NULL, NULL) == HSMRT_INVALID_ARGUMENT);
  CHECK(hsmrt_generator_step(NULL, &token, 1, NULL) == HSMRT_INVALID_ARGUMENT);
  CHECK(hsmrt_generator_sample(NULL, 0, 0, 0, 1, 0, &chosen, NULL) == HSMRT_INVALID_ARGUMENT);
  CHECK(hsmrt_generator_rollback(NULL, 0, 1, NULL) == HSMRT_INVALID_ARGUMENT);
  CHECK(hsmrt_generator_fork(NULL, 0, 1, NULL) == HSMRT_INVALID_ARGUMENT);
  CHECK(hsmrt_generator_reset(NULL, 0, NULL) == HSMRT_INVALID_ARGUMENT);
  CHECK(hsmrt_generator_save(NULL, "state", NULL) == HSMRT_INVALID_ARGUMENT);
  CHECK(hsmrt_generator_load(NULL, "state", NULL) == HSMRT_INVALID_ARGUMENT);
  hsmrt_generator_close(NULL);
  return NULL;
}

const char* c_generator_steps(hsmrt_generator* generator) {
  const int64_t one = 1;
  int64_t token = -1;
  CHECK(hsmrt_generator_step(generator, &one, 1, NULL) == HSMRT_OK);
  CHECK(hsmrt_generator_logits(generator, 0) != NULL);
  CHECK(hsmrt_generator_sample(generator, 0, 1, 0, 1, 0.5, &token, NULL) == HSMRT_OK);
  return NULL;
}
