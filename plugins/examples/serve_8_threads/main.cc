// Serves eight callers from one session: serve_8_threads BUNDLE [REQUESTS]
//
// For models of tokens (batch, length). All callers ask for the same tokens, so all must get the same numbers.
#include <hsm_runtime/session.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <thread>
#include <vector>

using namespace hsm_runtime;

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: serve_8_threads BUNDLE [REQUESTS]\n";
    return 2;
  }
  const int requests = argc > 2 ? std::atoi(argv[2]) : 1000;
  SessionOptions options;
  options.threads = 1;  // each caller brings its own thread
  const Result<Session> session = Session::open(argv[1], options);
  if (!session.ok()) {
    std::cerr << session.status().message() << '\n';
    return 1;
  }

  std::array<std::int64_t, 16> tokens = {};
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::int64_t>(i);
  const std::array<std::int64_t, 2> shape = {1, tokens.size()};
  const std::array inputs = {NamedTensor{session->inputs()[0].name, {tokens.data(), DType::kInt64, shape}}};
  const Result<std::vector<Tensor>> first = session->run(inputs);
  if (!first.ok()) {
    std::cerr << first.status().message() << '\n';
    return 1;
  }
  const Tensor& expected = first->front();

  std::atomic<int> wrong = 0;
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 8; ++caller) {
    callers.emplace_back([&] {
      std::vector<float> logits(expected.size());
      const std::array outputs = {NamedTensor{expected.name(), {logits.data(), DType::kFloat32, expected.shape()}}};
      for (int i = 0; i < requests; ++i) {
        const bool good = session->run(inputs, outputs).ok() &&
                          std::memcmp(logits.data(), expected.data(), logits.size() * sizeof(float)) == 0;
        if (!good) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::cout << 8 * requests << " requests, " << wrong << " wrong, " << 8 * requests / seconds.count() << " a second\n";
  return wrong == 0 ? 0 : 1;
}
