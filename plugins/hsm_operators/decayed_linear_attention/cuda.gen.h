// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "hsm_operators/common/cuda/device.h"
#include "hsm_operators/decayed_linear_attention/args.gen.h"

namespace hsm::cuda {

// Pointers in the arguments are device pointers; lists of attributes are in host memory. A tactic is an implementation
// or a tile shape, an index into the tactics' names. Nothing allocates, waits for the device, or throws.

std::span<const std::string_view> decayed_linear_attention_tactics() noexcept;
// Whether a tactic can run this call on this device; reads sizes and attributes only.
bool decayed_linear_attention_supports(const DecayedLinearAttentionArgs& args, int tactic,
                                       const Device& device) noexcept;
int decayed_linear_attention_default_tactic(const DecayedLinearAttentionArgs& args, const Device& device) noexcept;
// Bytes of device memory beside the arguments; grows with the sizes.
std::size_t decayed_linear_attention_workspace(const DecayedLinearAttentionArgs& args, int tactic,
                                               const Device& device) noexcept;
// Puts the work into the stream. Returns 0 or a cudaError_t.
int decayed_linear_attention_launch(const DecayedLinearAttentionArgs& args, int tactic, const Device& device,
                                    void* workspace, Stream stream) noexcept;

std::span<const std::string_view> decayed_delta_rule_tactics() noexcept;
// Whether a tactic can run this call on this device; reads sizes and attributes only.
bool decayed_delta_rule_supports(const DecayedLinearAttentionArgs& args, int tactic, const Device& device) noexcept;
int decayed_delta_rule_default_tactic(const DecayedLinearAttentionArgs& args, const Device& device) noexcept;
// Bytes of device memory beside the arguments; grows with the sizes.
std::size_t decayed_delta_rule_workspace(const DecayedLinearAttentionArgs& args, int tactic,
                                         const Device& device) noexcept;
// Puts the work into the stream. Returns 0 or a cudaError_t.
int decayed_delta_rule_launch(const DecayedLinearAttentionArgs& args, int tactic, const Device& device, void* workspace,
                              Stream stream) noexcept;

}  // namespace hsm::cuda
