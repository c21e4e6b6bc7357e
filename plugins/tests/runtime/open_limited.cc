// open_limited BUNDLE: opens a bundle that may be damaged, its session too, and runs it, in 2 GiB of memory. Exits with
// the code of hsm_runtime/status.h. For tests/plugins/test_endurance.py.
#include <sys/resource.h>

#include <cstdint>
#include <cstdio>
#include <vector>

#include "hsm_runtime/session.h"

int main(int count, char** arguments) {
  using namespace hsm_runtime;  // NOLINT: a program on top of the whole public interface
  if (count != 2) return 100;
  constexpr rlim_t kMost = rlim_t{2} << 30;
  const rlimit limit = {kMost, kMost};
  if (setrlimit(RLIMIT_AS, &limit) != 0) return 101;
  SessionOptions options;
  options.threads = 1;
  const auto session = Session::open(arguments[1], options);
  Status status = session.status();
  if (session.ok()) {
    std::vector<std::int64_t> tokens = {3, 1, 4, 1, 5};
    const std::vector<std::int64_t> shape = {1, 5};
    const std::vector inputs = {NamedTensor{session->inputs()[0].name, {tokens.data(), DType::kInt64, shape}}};
    status = session->run(inputs).status();
  }
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
  return static_cast<int>(status.code());
}
