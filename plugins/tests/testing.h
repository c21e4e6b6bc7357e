// Shared by the kernel tests: random typed buffers, poisoned outputs, a thread pool, and the accuracy rule.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "hsm_operators/common/types.h"

namespace hsm::testing {

// A buffer of one element type that starts `misalignment` bytes off a 64-byte boundary (a multiple of the element
// size).
class Buffer {
 public:
  Buffer(DType type, std::size_t count, std::size_t misalignment = 0)
      : type_(type), count_(count), offset_(misalignment), bytes_(count * size_of(type) + misalignment + 64) {
    const auto address = reinterpret_cast<std::uintptr_t>(bytes_.data());
    offset_ += (64 - address % 64) % 64;
  }

  DType type() const { return type_; }
  std::size_t size() const { return count_; }
  void* data() { return bytes_.data() + offset_; }
  const void* data() const { return bytes_.data() + offset_; }

  float at(std::size_t i) const {
    switch (type_) {
      case DType::kFloat16:
        return to_float(static_cast<const Half*>(data())[i]);
      case DType::kBFloat16:
        return to_float(static_cast<const BFloat16*>(data())[i]);
      default:
        return static_cast<const float*>(data())[i];
    }
  }

  void set(std::size_t i, float value) {
    switch (type_) {
      case DType::kFloat16:
        static_cast<Half*>(data())[i] = from_float<Half>(value);
        break;
      case DType::kBFloat16:
        static_cast<BFloat16*>(data())[i] = from_float<BFloat16>(value);
        break;
      case DType::kUInt8:
        static_cast<std::uint8_t*>(data())[i] = static_cast<std::uint8_t>(value);
        break;
      default:
        static_cast<float*>(data())[i] = value;
    }
  }

  // Fills with standard normal numbers.
  Buffer& randomize(std::mt19937& random, float scale = 1.0f) {
    std::normal_distribution<float> normal(0.0f, scale);
    for (std::size_t i = 0; i < count_; ++i) set(i, normal(random));
    return *this;
  }

  // Fills with NaN, so that an element that a kernel forgets is seen.
  Buffer& poison() {
    for (std::size_t i = 0; i < count_; ++i) set(i, std::numeric_limits<float>::quiet_NaN());
    return *this;
  }

  bool same_bits(const Buffer& other) const {
    return count_ == other.count_ && std::memcmp(data(), other.data(), count_ * size_of(type_)) == 0;
  }

 private:
  DType type_;
  std::size_t count_;
  std::size_t offset_;
  std::vector<std::byte> bytes_;
};

inline double largest(const Buffer& buffer) {
  double result = 0;
  for (std::size_t i = 0; i < buffer.size(); ++i) {
    const double value = std::fabs(double{buffer.at(i)});
    if (value > result) result = value;  // NaN, as padding is, is none
  }
  return result;
}

// Unit roundoff of a type.
inline double epsilon(DType type) {
  switch (type) {
    case DType::kFloat16:
      return 0x1p-11;
    case DType::kBFloat16:
      return 0x1p-8;
    default:
      return 0x1p-24;
  }
}

// Expects |actual - expected| <= 2 eps(T) |expected| + `sums` · 2^-23 · max|expected| + `operands` at each of `count`
// elements: one rounding to T, the rounding of float32 sums, which grows with the square root of their length, and that
// of what products take in low precision.
inline void expect_close(const Buffer& actual, const Buffer& expected, double sum_length, const std::string& what,
                         double operands = 0) {
  const double sums = std::sqrt(sum_length + 1) * 0x1p-23 * largest(expected);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double bound = 2 * epsilon(actual.type()) * std::fabs(double{expected.at(i)}) + 4 * sums + operands + 1e-30;
    ASSERT_LE(std::fabs(double{actual.at(i)} - double{expected.at(i)}), bound)
        << what << ": element " << i << " is " << actual.at(i) << ", expected " << expected.at(i);
  }
}

// Runs tasks on `threads` threads, in no particular order.
class Pool {
 public:
  explicit Pool(std::size_t threads) : threads_(threads) {}

  ParallelFor parallel_for() { return ParallelFor(run, this); }

 private:
  static void run(void* pool, std::size_t count, ParallelFor::Task task, void* context) {
    std::atomic<std::size_t> next{0};
    std::vector<std::thread> workers;
    for (std::size_t i = 0; i < static_cast<Pool*>(pool)->threads_; ++i) {
      workers.emplace_back([&] {
        for (std::size_t index = next++; index < count; index = next++) task(context, index);
      });
    }
    for (std::thread& worker : workers) worker.join();
  }

  std::size_t threads_;
};

inline constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};

inline int uniform(std::mt19937& random, int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(random);
}

}  // namespace hsm::testing
