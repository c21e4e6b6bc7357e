/* Classifies one image of a digit: classify_c BUNDLE < PIXELS
 *
 * PIXELS are grey levels as whole numbers. The logits are written straight into an array of this program. */
#include <hsm_runtime.h>
#include <inttypes.h>
#include <stdio.h>

enum { MAX_PIXELS = 1024, CLASSES = 10 };

static int failed(const hsmrt_error* error) {
  fprintf(stderr, "%s\n", error->message);
  return 1;
}

int main(int argc, char** argv) {
  hsmrt_error error;
  hsmrt_bundle* bundle = NULL;
  hsmrt_session* session = NULL;
  static int64_t pixels[MAX_PIXELS];
  float logits[CLASSES];
  int64_t count = 0;

  if (argc != 2) {
    fprintf(stderr, "usage: classify_c BUNDLE < PIXELS\n");
    return 2;
  }
  while (count < MAX_PIXELS && scanf("%" SCNd64, &pixels[count]) == 1) ++count;

  if (hsmrt_bundle_open(argv[1], 1, &bundle, &error) != HSMRT_OK) return failed(&error);
  if (hsmrt_session_open(bundle, HSMRT_MODEL, NULL, &session, &error) != HSMRT_OK) {
    hsmrt_bundle_close(bundle);
    return failed(&error);
  }
  hsmrt_bundle_close(bundle);
  fprintf(stderr, "%s\n", hsmrt_session_backend(session));

  const int64_t input_shape[] = {1, count}, output_shape[] = {1, CLASSES};
  const hsmrt_tensor input = {.name = "pixels", .data = pixels, .dtype = HSMRT_INT64, .rank = 2, .shape = input_shape};
  const hsmrt_tensor output = {
      .name = "logits", .data = logits, .dtype = HSMRT_FLOAT32, .rank = 2, .shape = output_shape};
  const int32_t code = hsmrt_session_run(session, &input, 1, &output, 1, &error);
  hsmrt_session_close(session);
  if (code != HSMRT_OK) return failed(&error);

  int best = 0;
  for (int i = 1; i < CLASSES; ++i) best = logits[i] > logits[best] ? i : best;
  printf("%d\n", best);
  return 0;
}
