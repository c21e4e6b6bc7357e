// The buffers of states of any rank, type and axis of the capacity: rows, files, and what a manifest may say of them.
#include "runtime/state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "runtime/state_file.h"
#include "tests/runtime/bundle_writer.h"

namespace hsm::runtime {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TemporaryFolder;

// A program that is never run: states in the CPU's memory, and one buffer for those that allow it.
class Idle final : public Program {
 public:
  std::vector<Tensor> run(std::span<const NamedTensor>, const RunOptions&) const override { return {}; }
  std::unique_ptr<Binding> bind(std::span<const NamedTensor>, std::span<const NamedTensor>,
                                const RunOptions&) const override {
    return nullptr;
  }
  bool updates_in_place(const StateTensor& tensor) const override { return tensor.in_place; }
};

// A counter of each row; keys (batch, heads 2, capacity, 3); a log of tokens (batch, capacity).
StateSpec state() {
  StateSpec spec;
  spec.tensors = {
      {"count", DType::kInt64, {"batch"}, 0, Rollback::kSnapshot, 0, true},
      {"key", DType::kFloat32, {"batch", std::int64_t{2}, "capacity", std::int64_t{3}}, 2, Rollback::kPosition},
      {"log", DType::kInt64, {"batch", "capacity"}, 1, Rollback::kPosition},
  };
  return spec;
}

template <typename T>
std::span<T> numbers(const StateBuffer& buffer) {
  return {reinterpret_cast<T*>(buffer.memory.get()), buffer.bytes / sizeof(T)};
}

// The key of a row, head, token and channel, in any capacity.
float key_of(std::size_t row, std::size_t head, std::size_t token, std::size_t channel) {
  return static_cast<float>(1000 * row + 100 * head + 10 * token + channel + 1);
}

void fill(StateBuffers& states, std::size_t capacity) {
  auto key = numbers<float>(states.tensors[1]);
  auto log = numbers<std::int64_t>(states.tensors[2]);
  for (std::size_t row = 0; row < 2; ++row) {
    numbers<std::int64_t>(states.tensors[0])[row] = static_cast<std::int64_t>(row + 7);
    for (std::size_t token = 0; token < capacity; ++token) {
      log[row * capacity + token] = static_cast<std::int64_t>(10 * row + token + 1);
      for (std::size_t head = 0; head < 2; ++head) {
        for (std::size_t c = 0; c < 3; ++c)
          key[((row * 2 + head) * capacity + token) * 3 + c] = key_of(row, head, token, c);
      }
    }
  }
}

// What lies in every slot below `kept` is as `fill` wrote it, and what lies beyond is zero.
void expect_kept(const StateBuffers& states, std::size_t capacity, std::size_t kept) {
  EXPECT_THAT(numbers<std::int64_t>(states.tensors[0]), ElementsAre(7, 8));
  const auto key = numbers<float>(states.tensors[1]);
  const auto log = numbers<std::int64_t>(states.tensors[2]);
  for (std::size_t row = 0; row < 2; ++row) {
    for (std::size_t token = 0; token < capacity; ++token) {
      EXPECT_EQ(log[row * capacity + token], token < kept ? static_cast<std::int64_t>(10 * row + token + 1) : 0);
      for (std::size_t head = 0; head < 2; ++head) {
        for (std::size_t c = 0; c < 3; ++c) {
          EXPECT_EQ(key[((row * 2 + head) * capacity + token) * 3 + c], token < kept ? key_of(row, head, token, c) : 0)
              << row << " " << head << " " << token << " " << c;
        }
      }
    }
  }
}

TEST(State, HasTheSizesOfItsAxes) {
  const Idle program;
  const StateSpec spec = state();
  const StateBuffers states(program, spec, 2, 5);
  EXPECT_THAT(states.tensors[0].shape, ElementsAre(2));
  EXPECT_THAT(states.tensors[1].shape, ElementsAre(2, 2, 5, 3));
  EXPECT_THAT(states.tensors[2].shape, ElementsAre(2, 5));
  EXPECT_EQ(states.bytes(), 2 * 8 + 2 * 2 * 5 * 3 * 4 + 2 * 5 * 8u);
  EXPECT_EQ(states.longest, 5);
  EXPECT_THAT(numbers<float>(states.tensors[1]), Each(0.0F));
  try {
    const StateBuffers refused(program, spec, 2, 0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("leaves the states' capacity open"));
  }
}

TEST(State, CopiesAndClearsRows) {
  const Idle program;
  const StateSpec spec = state();
  StateBuffers states(program, spec, 2, 4);
  fill(states, 4);
  states.clear_row(0);
  EXPECT_EQ(numbers<std::int64_t>(states.tensors[0])[0], 0);
  EXPECT_THAT(numbers<float>(states.tensors[1]).first(24), Each(0.0F));
  states.copy_row(0, states, 1);
  EXPECT_THAT(numbers<std::int64_t>(states.tensors[0]), ElementsAre(8, 8));
  const auto key = numbers<float>(states.tensors[1]);
  EXPECT_TRUE(std::equal(key.begin(), key.begin() + 24, key.begin() + 24));
}

TEST(State, SharesOneBufferWhereItMay) {
  const Idle program;
  const StateSpec spec = state();
  const StateBuffers states(program, spec, 2, 4), other = states.counterpart(program);
  EXPECT_EQ(other.tensors[0].memory, states.tensors[0].memory);
  EXPECT_NE(other.tensors[1].memory, states.tensors[1].memory);
}

std::string saved(const TemporaryFolder& folder, const StateBuffers& states,
                  const std::vector<std::int64_t>& positions) {
  const std::string path = (folder.path() / "state.safetensors").string();
  const std::vector<float> logits = {1, 2, 3};
  std::vector<SavedRow> rows;
  for (std::size_t i = 0; i < positions.size(); ++i) rows.push_back({&states, i, positions[i], {}});
  rows.back().logits = logits;
  save_state(path, rows, 3);
  return path;
}

TEST(State, LoadsIntoAnotherCapacity) {
  const Idle program;
  const StateSpec spec = state();
  const TemporaryFolder folder;
  StateBuffers states(program, spec, 2, 4);
  fill(states, 4);
  const std::vector<std::int64_t> positions = {3, 2};
  const std::string path = saved(folder, states, positions);
  for (const std::int64_t capacity : {3, 4, 9}) {
    StateBuffers other(program, spec, 2, capacity);
    const StateFile file(path, other, 3);
    EXPECT_EQ(file.positions(), positions);
    EXPECT_TRUE(file.logits(0).empty());
    EXPECT_THAT(file.logits(1), ElementsAre(1, 2, 3));
    for (const std::size_t row : {0, 1}) file.copy_row(row, other, row);
    expect_kept(other, static_cast<std::size_t>(capacity),
                static_cast<std::size_t>(std::min<std::int64_t>(capacity, 4)));
  }
  const StateBuffers small(program, spec, 2, 2);
  EXPECT_THROW(StateFile(path, small, 3), Error);
  EXPECT_THROW(StateFile(path, states, 4), Error);
}

TEST(State, IsOfOneModelsWeights) {
  const Idle program;
  const TemporaryFolder folder;
  StateSpec ours = state(), others = ours, unknown = ours;
  ours.model = std::string(64, 'a'), others.model = std::string(64, 'b');
  const std::string path = saved(folder, StateBuffers(program, ours, 1, 4), {2});
  EXPECT_NO_THROW(StateFile(path, StateBuffers(program, ours, 1, 4), 3));
  EXPECT_NO_THROW(StateFile(path, StateBuffers(program, unknown, 1, 4), 3));
  try {
    const StateFile refused(path, StateBuffers(program, others, 1, 4), 3);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("other weights: those of aaaaaaaaaaaa, not bbbbbbbbbbbb"));
  }
}

std::string refusal(const std::string& path, const StateBuffers& states) {
  try {
    const StateFile taken(path, states, 3);
  } catch (const Error& error) {
    EXPECT_EQ(error.code, Code::kInvalidArgument);
    return error.what();
  }
  return "";
}

// A file that says of its rows what its tensors cannot hold.
TEST(State, HoldsAsManyTokensAsItSays) {
  const Idle program;
  const TemporaryFolder folder;
  const StateSpec spec = state();
  const StateBuffers states(program, spec, 1, 4), large(program, spec, 1, 9);
  EXPECT_EQ(refusal(saved(folder, states, {4}), large), "");
  EXPECT_THAT(refusal(saved(folder, states, {5}), large), HasSubstr("a row of 5 tokens, but past.key holds at most 4"));
  EXPECT_THAT(refusal(saved(folder, states, {-1}), large), HasSubstr("a row of -1 tokens"));
  StateSpec sums = spec;
  sums.tensors.resize(1);
  const StateBuffers endless(program, sums, 1, 0);
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  EXPECT_THAT(refusal(saved(folder, endless, {kMost}), endless), HasSubstr("a row here holds at most"));
}

TEST(State, GrowsAndShrinksByRows) {
  const Idle program;
  const StateSpec spec = state();
  StateBuffers small(program, spec, 2, 9, 4), large(program, spec, 2, 9);
  EXPECT_EQ(small.slots, 4);
  EXPECT_EQ(large.slots, 9);
  EXPECT_EQ(state_bytes(spec, 2, 9), large.bytes());
  fill(small, 4);
  for (const std::size_t row : {0, 1}) large.copy_row(row, small, row);
  expect_kept(large, 9, 4);
  StateBuffers back(program, spec, 2, 9, 4);
  for (const std::size_t row : {0, 1}) back.copy_row(row, large, row);
  expect_kept(back, 4, 4);
}

TEST(State, SaysWhyTokensCannotBeTakenBack) {
  StateSpec spec = state();
  const auto refusal = [&]() -> std::string {
    try {
      check_rollback(spec, 3);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(refusal(), HasSubstr("the state count holds no single tokens"));
  spec.tensors[0].rollback = Rollback::kSlots, spec.tensors[0].spare = 1;
  EXPECT_THAT(refusal(), HasSubstr("the state count has spare slots to take 1 tokens back, 2 too few"));
  spec.tensors[0].spare = 3;
  EXPECT_EQ(refusal(), "");
}

}  // namespace
}  // namespace hsm::runtime
