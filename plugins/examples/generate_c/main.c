/* Streams the likeliest text: generate_c BUNDLE PROMPT [TOKENS]
 *
 * For models whose tokens are bytes, such as the zoo's language models. */
#include <hsm_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PROMPT = 4096 };

static hsmrt_error error;

/* Ends the program at the first error. */
static void check(int32_t code) {
  if (code == HSMRT_OK) return;
  fprintf(stderr, "%s\n", error.message);
  exit(1);
}

static hsmrt_session* open_session(const char* path) {
  hsmrt_bundle* bundle = NULL;
  hsmrt_session* session = NULL;
  hsmrt_options* options = hsmrt_options_create();

  check(hsmrt_options_set(options, "threads", "1", &error)); /* a single token leaves nothing to share */
  check(hsmrt_bundle_open(path, 1, &bundle, &error));
  check(hsmrt_session_open(bundle, HSMRT_DECODE, options, &session, &error));
  hsmrt_bundle_close(bundle);
  hsmrt_options_close(options);
  return session;
}

int main(int argc, char** argv) {
  static int64_t prompt[MAX_PROMPT];
  hsmrt_generator* generator = NULL;

  if (argc < 3) {
    fprintf(stderr, "usage: generate_c BUNDLE PROMPT [TOKENS]\n");
    return 2;
  }
  const size_t length = strlen(argv[2]) < MAX_PROMPT ? strlen(argv[2]) : MAX_PROMPT;
  const long count = argc > 3 ? atol(argv[3]) : 200;
  for (size_t i = 0; i < length; ++i) prompt[i] = (unsigned char)argv[2][i];

  hsmrt_session* session = open_session(argv[1]);
  check(hsmrt_generator_create(session, 1, (int64_t)length + count, &generator, &error));
  hsmrt_session_close(session); /* the generator keeps what it needs */
  check(hsmrt_generator_prefill(generator, prompt, length, NULL, &error));
  printf("%s", argv[2]);
  for (long i = 0; i < count; ++i) {
    int64_t token = 0;
    check(hsmrt_generator_sample(generator, 0, 0, 0, 1, 0, &token, &error));
    putchar((int)token);
    fflush(stdout);
    check(hsmrt_generator_step(generator, &token, 1, &error));
  }
  putchar('\n');
  hsmrt_generator_close(generator);
  return 0;
}
