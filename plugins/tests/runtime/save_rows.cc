// save_rows BUNDLE FILE save|load: saves a row to FILE again and again until it is killed, a token more each time, or
// loads it and prints its position. For tests/plugins/test_endurance.py.
#include <cstdio>
#include <string_view>

#include "hsm_runtime/generator.h"

int main(int count, char** arguments) {
  using namespace hsm_runtime;  // NOLINT: a program on top of the whole public interface
  if (count != 4) return 2;
  SessionOptions options;
  options.threads = 1;
  const auto session = Session::open(arguments[1], Part::kDecode, options);
  auto generator = session.ok() ? Generator::create(*session, {.capacity = 1 << 20}) : session.status();
  Status status = generator.status();
  if (status.ok() && std::string_view(arguments[3]) == "load") {
    status = generator->load_row(0, arguments[2]);
    if (status.ok()) std::printf("%lld\n", static_cast<long long>(generator->positions()[0]));
  } else {
    const std::int64_t token = 1;
    while (status.ok()) {
      status = generator->step({&token, 1});
      if (status.ok()) status = generator->save_row(0, arguments[2]);
      std::puts("saved");
      std::fflush(stdout);
    }
  }
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}
