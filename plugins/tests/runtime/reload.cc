// Bundles that are reloaded while they serve, for tests/plugins/test_endurance.py:
//
//     reload RELOADS THREADS BUNDLE...
//
// Threads run the model of one bundle after the other, whose sessions are replaced by new ones in turn. Prints the
// requests, those that failed, and the memory after a fifth of the reloads and at the end.
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "hsm_runtime/session.h"

namespace {

using namespace hsm_runtime;  // NOLINT: a program on top of the whole public interface

// Kilobytes of memory that are in use.
long resident() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) return std::atol(line.c_str() + std::strlen("VmRSS:"));
  }
  return 0;
}

// A bundle whose session may be replaced while others use it.
struct Place {
  std::string path;
  std::mutex mutex;
  std::optional<Session> session;

  Status reload() {
    SessionOptions options;
    options.threads = 1;
    Result<Session> opened = Session::open(path, options);
    if (!opened.ok()) return opened.status();
    const std::lock_guard lock(mutex);
    session = *opened;
    return {};
  }
  Session current() {
    const std::lock_guard lock(mutex);
    return *session;
  }
};

bool serve(const Session& session) {
  std::vector<std::int64_t> tokens = {3, 1, 4, 1, 5};
  const std::vector<std::int64_t> shape = {1, static_cast<std::int64_t>(tokens.size())};
  return session.run(std::vector{NamedTensor{session.inputs()[0].name, {tokens.data(), DType::kInt64, shape}}}).ok();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: reload RELOADS THREADS BUNDLE...\n";
    return 2;
  }
  const int reloads = std::atoi(argv[1]);
  std::vector<Place> places(static_cast<std::size_t>(argc - 3));
  for (std::size_t i = 0; i < places.size(); ++i) {
    places[i].path = argv[i + 3];
    if (const Status status = places[i].reload(); !status.ok()) {
      std::cerr << status.message() << '\n';
      return 1;
    }
  }
  std::atomic<bool> is_over = false;
  std::atomic<long> requests = 0, failed = 0;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < std::atoi(argv[2]); ++thread) {
    threads.emplace_back([&, thread] {
      for (auto turn = static_cast<std::size_t>(thread); !is_over; ++turn) {
        if (!serve(places[turn % places.size()].current())) ++failed;
        ++requests;
      }
    });
  }
  long before = 0;
  for (int i = 0; i < reloads; ++i) {
    if (i == reloads / 5) before = resident();
    if (!places[static_cast<std::size_t>(i) % places.size()].reload().ok()) ++failed;
  }
  is_over = true;
  for (std::thread& thread : threads) thread.join();
  std::cout << "reloads " << reloads << "\nrequests " << requests << "\nfailed " << failed << "\nkilobytes_before "
            << before << "\nkilobytes_after " << resident() << '\n';
  return failed == 0 ? 0 : 1;
}
