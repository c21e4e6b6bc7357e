// ExpertMatMul and ExpertMatMulSum (SwitchHead, arXiv:2312.07987): products with the k experts a token chooses per
// head.
//
//   ExpertMatMul:     y[b,t,h,:] = sum over the top-k e of sigmoid(l[b,t,h,e]) x[b,t,:] W[h,e]          W (H,E,D,f)
//   ExpertMatMulSum:  y[b,t,:]   = sum over h and the top-k e of sigmoid(l[b,t,h,e]) x[b,t,h,:] W[h,e]  W (H,E,f,D)
//
// Selection is by logit, ties go to the lower index, gates are not renormalised. 2·B·T·H·k·D·f flops for the active
// experts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "hsm_operators/common/types.h"

namespace hsm {

struct ExpertMatMulArgs {
  std::int64_t batch = 0;
  std::int64_t length = 0;
  std::int64_t heads = 0;
  std::int64_t experts = 0;
  std::int64_t inputs = 0;   // rows of one expert's matrix: D, or f for the sum form
  std::int64_t outputs = 0;  // its columns: f, or D for the sum form
  std::int64_t active = 1;   // k
  DType type = DType::kFloat32;
  const void* x = nullptr;        // (B,T,D), or (B,T,H,f) for the sum form
  const float* logits = nullptr;  // (B,T,H,E)
  const void* weight = nullptr;   // (H,E,inputs,outputs)
  void* y = nullptr;              // (B,T,H,f), or (B,T,D) for the sum form
  const float* packed = nullptr;  // what pack_experts made of `weight`, or null: packed where needed, in every call
};

// Straight from the definition; the oracles of the functions below.
void expert_matmul_naive(const ExpertMatMulArgs& args);
void expert_matmul_sum_naive(const ExpertMatMulArgs& args);

// Weights in the order in which the kernels read them, as float32.
using PackedExperts = std::shared_ptr<const float[]>;

// Packs constant weights once; reads only heads, experts, inputs, outputs, type and weight, which must stay the same.
PackedExperts pack_experts(const ExpertMatMulArgs& args);

// Returns how many floats `pack_experts` makes.
std::size_t packed_experts_count(const ExpertMatMulArgs& args);

void expert_matmul(const ExpertMatMulArgs& args, const ParallelFor& parallel_for);
void expert_matmul_sum(const ExpertMatMulArgs& args, const ParallelFor& parallel_for);

}  // namespace hsm
