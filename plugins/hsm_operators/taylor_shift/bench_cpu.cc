// Times the forms of TaylorShift against each other on one thread, in its CPU time, which other processes disturb less
// than wall time. Prints one JSON object a line; benchmarks/taylor_auto_choice.py reads them.
//
//   hsm_bench_taylor_shift REPETITIONS HEADS DIM[/VALUE_DIM]:LENGTH...
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "hsm_operators/taylor_shift/taylor_shift.h"

namespace {

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

std::vector<float> random_floats(std::size_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

double seconds_of(const hsm::TaylorShiftArgs& args, hsm::TaylorForm form) {
  // Short calls are repeated until the clock is fine enough.
  int calls = 0;
  const double start = cpu_seconds();
  double elapsed = 0;
  do {
    hsm::taylor_shift(args, hsm::ParallelFor(), form);
    ++calls;
    elapsed = cpu_seconds() - start;
  } while (elapsed < 2e-3);
  return elapsed / calls;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void run(std::int64_t heads, std::int64_t dim, std::int64_t value_dim, std::int64_t length, int repetitions) {
  std::mt19937 random(1);
  const auto count = [&](std::int64_t width) { return static_cast<std::size_t>(length * heads * width); };
  const std::vector<float> q = random_floats(count(dim), random);
  const std::vector<float> k = random_floats(count(dim), random);
  const std::vector<float> v = random_floats(count(value_dim), random);
  const std::vector<float> temperature(static_cast<std::size_t>(heads), 1.0f);
  std::vector<float> y(v.size());
  const hsm::TaylorShiftArgs args{.batch = 1,
                                  .length = length,
                                  .heads = heads,
                                  .dim = dim,
                                  .value_dim = value_dim,
                                  .normalize = true,
                                  .q = q.data(),
                                  .k = k.data(),
                                  .v = v.data(),
                                  .temperature = temperature.data(),
                                  .y = y.data()};
  const hsm::TaylorForm forms[] = {hsm::TaylorForm::kAuto, hsm::TaylorForm::kDirect, hsm::TaylorForm::kEfficient};
  std::vector<double> seconds[3];
  for (const hsm::TaylorForm form : forms) seconds_of(args, form);
  for (int i = 0; i < repetitions; ++i) {
    for (std::size_t f = 0; f < 3; ++f) seconds[f].push_back(seconds_of(args, forms[f]));
  }
  std::printf(
      "{\"heads\": %lld, \"dim\": %lld, \"value_dim\": %lld, \"length\": %lld, \"auto\": %.9f, \"direct\": %.9f, "
      "\"efficient\": %.9f}\n",
      static_cast<long long>(heads), static_cast<long long>(dim), static_cast<long long>(value_dim),
      static_cast<long long>(length), median(seconds[0]), median(seconds[1]), median(seconds[2]));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: %s REPETITIONS HEADS DIM[/VALUE_DIM]:LENGTH...\n", argv[0]);
    return 2;
  }
  for (int i = 3; i < argc; ++i) {
    const std::string shape = argv[i];
    const std::size_t colon = shape.find(':');
    if (colon == std::string::npos) return 2;
    const std::int64_t dim = std::atoll(shape.c_str());
    const std::size_t slash = shape.find('/');
    const std::int64_t value_dim = slash < colon ? std::atoll(shape.c_str() + slash + 1) : dim;
    run(std::atoll(argv[2]), dim, value_dim, std::atoll(shape.c_str() + colon + 1), std::atoi(argv[1]));
  }
  return 0;
}
