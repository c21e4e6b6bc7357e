// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "hsm_operators/common/types.h"

namespace hsm {

// QuantizedExpertMatMul: y[h] = sum over the k experts e of head h of largest logits of sigmoid(logit[h,e]) x W[h,e]. W
// is (weight - middle) times scales, the middle of 8 bits being 128 and of 4 bits 8.
// QuantizedExpertMatMulSum: y = sum over heads h and their k experts e of largest logits of sigmoid(logit[h,e]) x[h]
// W[h,e]. W is (weight - middle) times scales, the middle of 8 bits being 128 and of 4 bits 8.
struct QuantizedExpertMatMulArgs {
  // B: rows.
  std::int64_t batch = 0;
  // T: tokens.
  std::int64_t length = 0;
  // QuantizedExpertMatMul: D: width. QuantizedExpertMatMulSum: f: head width.
  std::int64_t inputs = 0;
  // H: heads.
  std::int64_t heads = 0;
  // E: experts.
  std::int64_t experts = 0;
  // G: blocks.
  std::int64_t groups = 0;
  // R: bytes of a block.
  std::int64_t group_bytes = 0;
  // QuantizedExpertMatMul: f: head width. QuantizedExpertMatMulSum: D: width.
  std::int64_t outputs = 0;
  // How many experts each token uses in each head, 1 ... E.
  std::int64_t active = 1;
  // Numbers in a byte: 1 of 8 bits, or 2 of 4 bits, the earlier row in the lower half.
  std::int64_t per_byte = 1;
  // T.
  DType type = DType::kFloat32;
  // QuantizedExpertMatMul: (B,T,D) Tokens. QuantizedExpertMatMulSum: (B,T,H,f) Tokens by head.
  const void* x = nullptr;
  // (B,T,H,E) Routing logits of each head's experts.
  const float* logits = nullptr;
  // QuantizedExpertMatMul: (H,E,G,R,f) One matrix a head and expert, its rows in blocks. QuantizedExpertMatMulSum:
  // (H,E,G,R,D) One matrix a head and expert, its rows in blocks.
  const std::uint8_t* weight = nullptr;
  // QuantizedExpertMatMul: (H,E,G,f) A scale for each block and column. QuantizedExpertMatMulSum: (H,E,G,D) A scale for
  // each block and column.
  const float* scales = nullptr;
  // QuantizedExpertMatMul: (B,T,H,f) The result. QuantizedExpertMatMulSum: (B,T,D) The result.
  void* y = nullptr;
};

// Straight from the definition, for tests.
void quantized_expert_matmul_naive(const QuantizedExpertMatMulArgs& args);
void quantized_expert_matmul_sum_naive(const QuantizedExpertMatMulArgs& args);

void quantized_expert_matmul(const QuantizedExpertMatMulArgs& args, const ParallelFor& parallel_for);
void quantized_expert_matmul_sum(const QuantizedExpertMatMulArgs& args, const ParallelFor& parallel_for);

}  // namespace hsm
