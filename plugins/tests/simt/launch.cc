#include "launch.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <mutex>

namespace hsm::simt {
namespace {

constexpr int kInvalidConfiguration = 9;
constexpr int kLaunchFailure = 719;
constexpr unsigned kMostThreads = 1024;
constexpr unsigned kMostBlocksYZ = 65535;

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

Settings initial_settings() {
  Settings result;
  const std::string_view order = environment("HSM_SIMT_ORDER");
  if (order == "reverse") result.threads = result.blocks = Order::kReverse;
  if (order == "shuffled") result.threads = result.blocks = Order::kShuffled;
  return result;
}

struct State {
  Settings settings = initial_settings();
  std::vector<Launch> launches;
  std::string error;
  Block block;
};

State& state() {
  thread_local const std::unique_ptr<State> own = std::make_unique<State>();
  return *own;
}

void write_log(const Launch& launch) {
  const std::string_view path = environment("HSM_SIMT_LOG");
  if (path.empty()) return;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  std::ofstream file{std::string(path), std::ios::app};
  file << launch.kernel << '\t' << launch.grid.x << ' ' << launch.grid.y << ' ' << launch.grid.z << '\t'
       << launch.block.x << ' ' << launch.block.y << ' ' << launch.block.z << '\t' << launch.shared_bytes << '\n';
}

std::string configuration_error(const Launch& launch, const Settings& settings) {
  const std::uint64_t threads = std::uint64_t{launch.block.x} * launch.block.y * launch.block.z;
  if (threads == 0 || threads > kMostThreads) return "a block of " + std::to_string(threads) + " threads";
  if (launch.grid.x == 0 || launch.grid.y == 0 || launch.grid.z == 0) return "an empty grid";
  if (launch.grid.x > INT32_MAX || launch.grid.y > kMostBlocksYZ || launch.grid.z > kMostBlocksYZ) {
    return "a grid that is too large";
  }
  if (launch.shared_bytes > settings.shared_memory_limit) {
    return std::to_string(launch.shared_bytes) + " bytes of shared memory";
  }
  return "";
}

// Blocks of a grid one after another. `running` is set for as long as this object lives.
class Run {
 public:
  Run(State& own, const Launch& launch, const Body& body) : state_(own), launch_(launch), body_(body) {
    running = &state_.block;
    state_.block.allocate(launch.shared_bytes);
  }
  ~Run() { running = nullptr; }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  std::string all() {
    const dim3 grid = launch_.grid;
    const std::uint64_t count = std::uint64_t{grid.x} * grid.y * grid.z;
    std::vector<std::uint64_t> order;
    if (state_.settings.blocks == Order::kShuffled) {
      for (std::uint64_t i = 0; i < count; ++i) order.push_back(i);
      std::shuffle(order.begin(), order.end(), random_);
    }
    for (std::uint64_t i = 0; i < count; ++i) {
      std::uint64_t block = i;
      if (state_.settings.blocks == Order::kReverse) block = count - 1 - i;
      if (!order.empty()) block = order[i];
      std::string error = one(block);
      if (!error.empty()) return error;
    }
    return "";
  }

 private:
  std::string one(std::uint64_t block) {
    const dim3 grid = launch_.grid;
    const uint3 index{static_cast<unsigned>(block % grid.x), static_cast<unsigned>(block / grid.x % grid.y),
                      static_cast<unsigned>(block / (std::uint64_t{grid.x} * grid.y))};
    return state_.block.run(body_, grid, launch_.block, index, state_.settings.threads, random_);
  }

  State& state_;
  const Launch& launch_;
  const Body& body_;
  std::mt19937 random_{state_.settings.seed};
};

}  // namespace

Settings& settings() { return state().settings; }

const std::vector<Launch>& launches() { return state().launches; }

void clear_launches() { state().launches.clear(); }

const std::string& last_error() { return state().error; }

int run(const Launch& launch, const Body& body) {
  State& own = state();
  if (own.launches.size() < kMostLaunches) own.launches.push_back(launch);
  write_log(launch);
  const std::string wrong = configuration_error(launch, own.settings);
  if (!wrong.empty()) {
    own.error = launch.kernel + ": asked for " + wrong;
    return kInvalidConfiguration;
  }
  if (!own.settings.execute) return 0;
  const std::string failure = Run(own, launch, body).all();
  if (failure.empty()) return 0;
  own.error = launch.kernel + ": " + failure;
  return kLaunchFailure;
}

}  // namespace hsm::simt
