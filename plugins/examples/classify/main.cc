// Classifies images of digits: classify BUNDLE < PIXELS
//
// PIXELS are grey levels as whole numbers, all of one image on one line.
#include <hsm_runtime/session.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <iostream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

using namespace hsm_runtime;

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: classify BUNDLE < PIXELS\n";
    return 2;
  }
  SessionOptions options;
  options.log = [](LogLevel, std::string_view message) { std::cerr << message << '\n'; };
  Result<Session> session = Session::open(argv[1], options);
  if (!session.ok()) {
    std::cerr << session.status().message() << '\n';
    return 1;
  }
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream numbers(line);
    std::vector<std::int64_t> pixels{std::istream_iterator<std::int64_t>(numbers), {}};
    const std::array shape = {std::int64_t{1}, static_cast<std::int64_t>(pixels.size())};
    const std::array inputs = {NamedTensor{"pixels", {pixels.data(), DType::kInt64, shape}}};

    Result<std::vector<Tensor>> results = session->run(inputs);
    if (!results.ok()) {
      std::cerr << results.status().message() << '\n';
      return 1;
    }
    const auto logits = results->front().values<float>();
    std::cout << std::max_element(logits.begin(), logits.end()) - logits.begin() << '\n';
  }
}
