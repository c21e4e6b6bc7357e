/* Prints a bundle's numbers through the C interface, for tests/plugins/test_same_numbers.py:
 *
 *     numbers BUNDLE BACKEND KERNELS model ROWS LENGTH < IDS > LOGITS
 *     numbers BUNDLE BACKEND KERNELS decode ROWS LENGTH STEPS < IDS > LOGITS
 *
 * IDS are int64 numbers as they lie in memory: ROWS x LENGTH, then STEPS x ROWS. LOGITS are float32 numbers: of the one
 * call, or of each row's last token after the prompt and after every step. */
#include <hsm_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static hsmrt_error error;

static void check(int32_t code) {
  if (code == HSMRT_OK) return;
  fprintf(stderr, "%s\n", error.message);
  exit(1);
}

static int64_t* read_ids(size_t count) {
  int64_t* ids = malloc(count * sizeof *ids);
  if (ids != NULL && fread(ids, sizeof *ids, count, stdin) == count) return ids;
  fprintf(stderr, "there are not %zu ids\n", count);
  exit(1);
}

static void write_logits(const float* logits, size_t count) {
  if (fwrite(logits, sizeof *logits, count, stdout) == count) return;
  fprintf(stderr, "the logits cannot be written\n");
  exit(1);
}

static hsmrt_session* open_session(char** argv, int32_t part) {
  hsmrt_bundle* bundle = NULL;
  hsmrt_session* session = NULL;
  hsmrt_options* options = hsmrt_options_create();
  check(hsmrt_options_set(options, "backends", argv[2], &error));
  check(hsmrt_options_set(options, "kernel_library", argv[3], &error));
  check(hsmrt_options_set(options, "threads", "1", &error));
  check(hsmrt_bundle_open(argv[1], 1, &bundle, &error));
  check(hsmrt_session_open(bundle, part, options, &session, &error));
  hsmrt_options_close(options);
  hsmrt_bundle_close(bundle);
  return session;
}

/* Classifiers have logits (batch, classes), language models (batch, length, vocabulary). */
static void run_model(const hsmrt_session* session, int64_t rows, int64_t length) {
  const size_t rank = hsmrt_session_rank(session, HSMRT_OUTPUT, 0);
  const int64_t width = hsmrt_session_size(session, HSMRT_OUTPUT, 0, rank - 1);
  const int64_t in[] = {rows, length}, out[] = {rows, rank == 3 ? length : width, width};
  const size_t count = (size_t)(rank == 3 ? rows * length * width : rows * width);
  int64_t* ids = read_ids((size_t)(rows * length));
  float* logits = malloc(count * sizeof *logits);
  hsmrt_tensor input, output;

  memset(&input, 0, sizeof input);
  memset(&output, 0, sizeof output);
  input.name = hsmrt_session_name(session, HSMRT_INPUT, 0);
  input.data = ids;
  input.dtype = HSMRT_INT64;
  input.rank = 2;
  input.shape = in;
  output.name = hsmrt_session_name(session, HSMRT_OUTPUT, 0);
  output.data = logits;
  output.dtype = HSMRT_FLOAT32;
  output.rank = (int32_t)rank;
  output.shape = out;
  check(hsmrt_session_run(session, &input, 1, &output, 1, &error));
  write_logits(logits, count);
  free(logits);
  free(ids);
}

static void write_rows(const hsmrt_generator* generator) {
  for (int64_t row = 0; row < hsmrt_generator_batch(generator); ++row) {
    write_logits(hsmrt_generator_logits(generator, row), (size_t)hsmrt_generator_vocabulary(generator));
  }
}

static void run_decode(const hsmrt_session* session, size_t rows, size_t length, size_t steps) {
  int64_t* ids = read_ids(rows * (length + steps));
  hsmrt_generator* generator = NULL;
  check(hsmrt_generator_create(session, (int64_t)rows, (int64_t)(length + steps), &generator, &error));
  check(hsmrt_generator_prefill(generator, ids, rows * length, NULL, &error));
  write_rows(generator);
  for (size_t i = 0; i < steps; ++i) {
    check(hsmrt_generator_step(generator, ids + rows * (length + i), rows, &error));
    write_rows(generator);
  }
  hsmrt_generator_close(generator);
  free(ids);
}

int main(int argc, char** argv) {
  if (argc < 7 || (strcmp(argv[4], "decode") == 0) != (argc == 8)) {
    fprintf(stderr, "usage: numbers BUNDLE BACKEND KERNELS model|decode ROWS LENGTH [STEPS]\n");
    return 2;
  }
  const int is_decode = argc == 8;
  hsmrt_session* session = open_session(argv, is_decode ? HSMRT_DECODE : HSMRT_MODEL);
  if (is_decode) {
    run_decode(session, (size_t)atol(argv[5]), (size_t)atol(argv[6]), (size_t)atol(argv[7]));
  } else {
    run_model(session, atol(argv[5]), atol(argv[6]));
  }
  hsmrt_session_close(session);
  return 0;
}
