#include "torch/team.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <vector>

#include "tests/torch/threads.h"

namespace hsm::torch {
namespace {

struct Setup {
  hsm_kernels_parallel parallel;
  int threads;
};

class TeamTest : public ::testing::TestWithParam<Setup> {};

TEST_P(TeamTest, DoesEachTaskOnce) {
  Team team(GetParam().parallel, GetParam().threads);
  for (const std::size_t count : {0, 1, 2, 1000}) {
    std::vector<std::atomic<int>> done(count);
    team.parallel_for()(count, [&](std::size_t index) { ++done[index]; });
    for (const auto& times : done) EXPECT_EQ(times, 1);
  }
}

TEST_P(TeamTest, ThrowsWhatATaskThrew) {
  Team team(GetParam().parallel, GetParam().threads);
  const auto task = [](std::size_t index) {
    if (index == 7) throw std::runtime_error("task 7");
  };
  EXPECT_THROW(team.parallel_for()(20, task), std::runtime_error);
}

INSTANTIATE_TEST_SUITE_P(Threads, TeamTest,
                         ::testing::Values(Setup{nullptr, 4}, Setup{testing::on_threads, 1},
                                           Setup{testing::on_threads, 4}, Setup{testing::on_threads, -1},
                                           Setup{testing::on_one_thread, 4}));

}  // namespace
}  // namespace hsm::torch
