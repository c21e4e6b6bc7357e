// Streams generated text: generate BUNDLE PROMPT [TOKENS]
//
// For models whose tokens are bytes, such as the zoo's language models.
#include <hsm_runtime/generator.h>

#include <cstdlib>
#include <iostream>
#include <random>
#include <string>
#include <string_view>
#include <vector>

using namespace hsm_runtime;

// The programs in this folder end at the first error.
template <typename T>
T value(Result<T> result) {
  if (result.ok()) return *std::move(result);
  std::cerr << result.status().message() << '\n';
  std::exit(1);
}
void check(const Status& status) {
  if (status.ok()) return;
  std::cerr << status.message() << '\n';
  std::exit(1);
}

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: generate BUNDLE PROMPT [TOKENS]\n";
    return 2;
  }
  const std::string_view text = argv[2];
  std::vector<std::int64_t> prompt;
  for (const unsigned char byte : text) prompt.push_back(byte);
  const std::int64_t count = argc > 3 ? std::atoll(argv[3]) : 200;

  SessionOptions options;
  options.threads = 1;  // a single token leaves nothing to share between threads
  const Bundle bundle = value(Bundle::open(argv[1]));
  const Session session = value(Session::open(bundle, Part::kDecode, options));
  GeneratorOptions sizes;
  sizes.capacity = static_cast<std::int64_t>(prompt.size()) + count;
  Generator generator = value(Generator::create(session, sizes));

  const Sampling sampling{.temperature = 0.7, .top_k = 20};
  std::mt19937 random(1);
  std::uniform_real_distribution<double> uniform(0, 1);
  check(generator.prefill(prompt));
  std::cout << text;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::vector<std::int64_t> token = {value(generator.sample(0, sampling, uniform(random)))};
    std::cout << static_cast<char>(token[0]) << std::flush;
    check(generator.step(token));
  }
  std::cout << '\n';
}
