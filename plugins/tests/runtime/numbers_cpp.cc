// Prints a bundle's numbers through the C++ interface; called as numbers_c.c says.
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hsm_runtime/generator.h"

namespace {

using namespace hsm_runtime;  // NOLINT: a program on top of the whole public interface

void check(const Status& status) {
  if (status.ok()) return;
  std::cerr << status.message() << '\n';
  std::exit(1);
}

template <typename T>
T value(Result<T> result) {
  check(result.status());
  return *std::move(result);
}

std::vector<std::int64_t> read_ids(std::int64_t count) {
  std::vector<std::int64_t> ids(static_cast<std::size_t>(count));
  std::cin.read(reinterpret_cast<char*>(ids.data()), static_cast<std::streamsize>(ids.size() * sizeof ids[0]));
  if (!std::cin) check({Code::kInvalidArgument, "there are not " + std::to_string(count) + " ids"});
  return ids;
}

void write_logits(std::span<const float> logits) {
  std::cout.write(reinterpret_cast<const char*>(logits.data()), static_cast<std::streamsize>(logits.size_bytes()));
}

void run_model(const Session& session, std::int64_t rows, std::int64_t length) {
  std::vector<std::int64_t> ids = read_ids(rows * length);
  const std::vector<std::int64_t> shape = {rows, length};
  const std::vector inputs = {NamedTensor{session.inputs()[0].name, {ids.data(), DType::kInt64, shape}}};
  write_logits(value(session.run(inputs)).front().values<float>());
}

void write_rows(const Generator& generator) {
  for (std::int64_t row = 0; row < generator.batch(); ++row) write_logits(generator.logits(row));
}

void run_decode(const Session& session, std::int64_t rows, std::int64_t length, std::int64_t steps) {
  const std::vector<std::int64_t> ids = read_ids(rows * (length + steps));
  const std::span<const std::int64_t> all(ids);
  const auto count = static_cast<std::size_t>(rows), prompt = static_cast<std::size_t>(rows * length);
  Generator generator = value(Generator::create(session, {.batch = rows, .capacity = length + steps}));
  check(generator.prefill(all.first(prompt)));
  write_rows(generator);
  for (std::size_t at = prompt; at < all.size(); at += count) {
    check(generator.step(all.subspan(at, count)));
    write_rows(generator);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 7) {
    std::cerr << "usage: numbers BUNDLE BACKEND KERNELS model|decode ROWS LENGTH [STEPS]\n";
    return 2;
  }
  SessionOptions options;
  options.kernel_library = argv[3];
  options.threads = 1;
  options.backends.resize(1);
  if (!backend_from_name(argv[2], options.backends.data())) check({Code::kInvalidArgument, "no such back end"});
  const bool is_decode = std::string_view(argv[4]) == "decode";
  const Bundle bundle = value(Bundle::open(argv[1]));
  const Session session = value(Session::open(bundle, is_decode ? Part::kDecode : Part::kModel, options));
  const std::int64_t rows = std::atoll(argv[5]), length = std::atoll(argv[6]);
  is_decode ? run_decode(session, rows, length, std::atoll(argv[7])) : run_model(session, rows, length);
}
