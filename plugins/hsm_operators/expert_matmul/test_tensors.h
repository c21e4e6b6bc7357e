// Calls of the two products, with their tensors and definitions, for the tests of every kernel.
#pragma once

#include <string>

#include "hsm_operators/common/test_experts.h"
#include "hsm_operators/expert_matmul/args.gen.h"

namespace hsm::testing {

struct ExpertMatMulCase {
  std::int64_t batch, length, heads, experts, inputs, outputs, active;
  DType type = DType::kFloat32;
  bool sum = false;
  Logits logits = Logits::kNormal;
  std::size_t misalignment = 0;

  // How many numbers an element of the result adds.
  double terms() const { return static_cast<double>(inputs * active * (sum ? heads : 1)); }
};

inline std::string describe(const ExpertMatMulCase& c) {
  return "B=" + std::to_string(c.batch) + " T=" + std::to_string(c.length) + " H=" + std::to_string(c.heads) +
         " E=" + std::to_string(c.experts) + " inputs=" + std::to_string(c.inputs) +
         " outputs=" + std::to_string(c.outputs) + " k=" + std::to_string(c.active) + " " + name_of(c.type) +
         (c.sum ? " sum" : "") + " logits " + std::to_string(static_cast<int>(c.logits));
}

inline ExpertMatMulCase random_expert_matmul(std::mt19937& random, std::span<const std::int64_t> lengths,
                                             std::span<const std::int64_t> widths) {
  const std::int64_t experts = uniform(random, 1, 6);
  const DType type = kTypes[uniform(random, 0, 2)];
  return {.batch = uniform(random, 1, 2),
          .length = any_of(lengths, random),
          .heads = uniform(random, 1, 3),
          .experts = experts,
          .inputs = any_of(widths, random),
          .outputs = any_of(widths, random),
          .active = uniform(random, 1, static_cast<int>(experts)),
          .type = type,
          .sum = uniform(random, 0, 1) == 1,
          .logits = any_logits(random),
          .misalignment = size_of(type) * to_size(uniform(random, 0, 3))};
}

class ExpertMatMulTensors {
 public:
  ExpertMatMulTensors(const ExpertMatMulCase& own, std::mt19937& random)
      : case_(own),
        x_(own.type, to_size(own.batch * own.length * (own.sum ? own.heads : 1) * own.inputs), own.misalignment),
        logits_(draw_logits(to_size(own.batch * own.length * own.heads * own.experts), own.logits, random)),
        weight_(own.type, to_size(own.heads * own.experts * own.inputs * own.outputs), own.misalignment) {
    x_.randomize(random);
    weight_.randomize(random);
  }

  Buffer naive() {
    Buffer y = output();
    (case_.sum ? expert_matmul_sum_naive : expert_matmul_naive)(args(y));
    return y;
  }

  void poison_expert(std::int64_t expert) {
    for (std::int64_t h = 0; h < case_.heads; ++h) {
      poison_matrix(weight_, case_.heads * case_.experts, h * case_.experts + expert);
    }
  }

  Buffer& logits() { return logits_; }

 protected:
  Buffer output() const {
    Buffer y(case_.type, to_size(case_.batch * case_.length * (case_.sum ? 1 : case_.heads) * case_.outputs),
             case_.misalignment);
    return y.poison();
  }

  ExpertMatMulArgs sizes() const {
    return {.batch = case_.batch,
            .length = case_.length,
            .inputs = case_.inputs,
            .heads = case_.heads,
            .experts = case_.experts,
            .outputs = case_.outputs,
            .active = case_.active,
            .type = case_.type};
  }

  ExpertMatMulArgs args(Buffer& y) const {
    ExpertMatMulArgs args = sizes();
    args.x = x_.data();
    args.logits = static_cast<const float*>(logits_.data());
    args.weight = weight_.data();
    args.y = y.data();
    return args;
  }

  ExpertMatMulCase case_;
  Buffer x_, logits_, weight_;
};

}  // namespace hsm::testing
