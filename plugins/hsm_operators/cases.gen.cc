// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#include "tests/cases.h"

namespace hsm::testing {
namespace {

using namespace opset;

constexpr Adjustment kAttentionAdjustments[] = {
    {2, [](const Values& v) {
      return Number(v.size(2) + ((v.size(5) - (v.size(2) % v.size(5))) % v.size(5)));
    }},
};
constexpr Adjustment kAttentionCachedAdjustments[] = {
    {2, [](const Values& v) {
      return Number(v.size(2) + ((v.size(4) - (v.size(2) % v.size(4))) % v.size(4)));
    }},
    {6, [](const Values& v) {
      return Number(max_of(v.size(6), v.size(1)));
    }},
};
constexpr Adjustment kWindowAttentionCachedAdjustments[] = {
    {2, [](const Values& v) {
      return Number(v.size(2) + ((v.size(4) - (v.size(2) % v.size(4))) % v.size(4)));
    }},
    {6, [](const Values& v) {
      return Number(max_of(v.size(6), v.number(0)));
    }},
};
constexpr Adjustment kRelativeAttentionAdjustments[] = {
    {2, [](const Values& v) {
      return Number(v.size(2) + ((v.size(5) - (v.size(2) % v.size(5))) % v.size(5)));
    }},
    {7, [](const Values& v) {
      return Number(max_of(v.size(7), ((v.number(0) == 1_n) ? max_of(v.size(1), v.size(4)) : ((v.size(1) + v.size(4)) - 1_n))));
    }},
};
constexpr Adjustment kRelativeAttentionCachedAdjustments[] = {
    {2, [](const Values& v) {
      return Number(v.size(2) + ((v.size(4) - (v.size(2) % v.size(4))) % v.size(4)));
    }},
    {6, [](const Values& v) {
      return Number(max_of(v.size(6), v.size(1)));
    }},
};
constexpr Adjustment kWindowRelativeAttentionCachedAdjustments[] = {
    {2, [](const Values& v) {
      return Number(v.size(2) + ((v.size(4) - (v.size(2) % v.size(4))) % v.size(4)));
    }},
    {6, [](const Values& v) {
      return Number(max_of(v.size(6), v.number(0)));
    }},
    {7, [](const Values& v) {
      return Number(max_of(v.size(7), v.number(0)));
    }},
};
constexpr Adjustment kCausalTaylorShiftAdjustments[] = {
    {5, [](const Values& v) {
      return Number((1_n + v.size(3)) + ((v.size(3) * (v.size(3) + 1_n)) / 2_n));
    }},
};
constexpr Adjustment kExpertMatMulAdjustments[] = {
    {4, [](const Values& v) {
      return Number(max_of(v.size(4), v.number(0)));
    }},
};
constexpr Adjustment kExpertMatMulSumAdjustments[] = {
    {4, [](const Values& v) {
      return Number(max_of(v.size(4), v.number(0)));
    }},
};
constexpr Adjustment kExpertMLPAdjustments[] = {
    {3, [](const Values& v) {
      return Number(min_of(v.size(3), 4194304_n));
    }},
    {3, [](const Values& v) {
      return Number(max_of(v.size(3), v.number(0)));
    }},
};
constexpr Adjustment kQuantizedExpertMatMulAdjustments[] = {
    {4, [](const Values& v) {
      return Number(max_of(v.size(4), v.number(0)));
    }},
    {2, [](const Values& v) {
      return Number((v.size(5) * v.size(6)) * v.number(1));
    }},
};
constexpr Adjustment kQuantizedExpertMatMulSumAdjustments[] = {
    {4, [](const Values& v) {
      return Number(max_of(v.size(4), v.number(0)));
    }},
    {3, [](const Values& v) {
      return Number((v.size(5) * v.size(6)) * v.number(1));
    }},
};
constexpr Adjustment kTokenShiftAdjustments[] = {
    {2, [](const Values& v) {
      return Number(v.size(2) + ((len_of(v.list(0)) - (v.size(2) % len_of(v.list(0)))) % len_of(v.list(0))));
    }},
};
constexpr Adjustment kTokenShiftCachedAdjustments[] = {
    {2, [](const Values& v) {
      return Number(v.size(2) + ((len_of(v.list(0)) - (v.size(2) % len_of(v.list(0)))) % len_of(v.list(0))));
    }},
    {3, [](const Values& v) {
      return Number(max_of(v.size(3), max_of(v.list(0))));
    }},
};
constexpr Adjustment kShiftMixAdjustments[] = {
    {2, [](const Values& v) {
      return Number(v.size(2) + ((len_of(v.list(0)) - (v.size(2) % len_of(v.list(0)))) % len_of(v.list(0))));
    }},
};
constexpr Adjustment kShiftMixCachedAdjustments[] = {
    {2, [](const Values& v) {
      return Number(v.size(2) + ((len_of(v.list(0)) - (v.size(2) % len_of(v.list(0)))) % len_of(v.list(0))));
    }},
    {3, [](const Values& v) {
      return Number(max_of(v.size(3), max_of(v.list(0))));
    }},
};

constexpr Facts kFacts[] = {
    {"hsm", "Attention", [](const Values& v) {
      return Number((((v.size(0) * v.size(2)) * v.size(1)) * (((2_n * v.size(3)) + (2_n * v.size(6))) + 5_n)) * ((v.number(1) > 0_n) ? min_of(v.size(4), v.number(1)) : v.size(4)));
    }, kAttentionAdjustments},
    {"hsm", "AttentionCached", [](const Values& v) {
      return Number((((v.size(0) * v.size(2)) * v.size(1)) * v.size(6)) * (((2_n * v.size(3)) + (2_n * v.size(5))) + 5_n));
    }, kAttentionCachedAdjustments},
    {"hsm", "WindowAttentionCached", [](const Values& v) {
      return Number((((v.size(0) * v.size(2)) * v.size(1)) * v.number(0)) * (((2_n * v.size(3)) + (2_n * v.size(5))) + 5_n));
    }, kWindowAttentionCachedAdjustments},
    {"hsm", "RelativeAttention", [](const Values& v) {
      return Number((((v.size(0) * v.size(2)) * v.size(1)) * (((4_n * v.size(3)) + (2_n * v.size(6))) + 5_n)) * ((v.number(1) > 0_n) ? min_of(v.size(4), v.number(1)) : v.size(4)));
    }, kRelativeAttentionAdjustments},
    {"hsm", "RelativeAttentionCached", [](const Values& v) {
      return Number((((v.size(0) * v.size(2)) * v.size(1)) * v.size(6)) * (((4_n * v.size(3)) + (2_n * v.size(5))) + 5_n));
    }, kRelativeAttentionCachedAdjustments},
    {"hsm", "WindowRelativeAttentionCached", [](const Values& v) {
      return Number((((v.size(0) * v.size(2)) * v.size(1)) * v.number(0)) * (((4_n * v.size(3)) + (2_n * v.size(5))) + 5_n));
    }, kWindowRelativeAttentionCachedAdjustments},
    {"hsm", "CausalTaylorShift", [](const Values& v) {
      return Number((v.size(0) * v.size(2)) * ((v.size(1) * (((4_n * ((1_n + v.size(3)) + ((v.size(3) * (v.size(3) + 1_n)) / 2_n))) * (v.size(4) + 1_n)) + (v.size(3) * (v.size(3) + 1_n)))) + (v.size(1) * ((6_n * v.size(3)) + (2_n * v.size(4))))));
    }, kCausalTaylorShiftAdjustments},
    {"hsm", "DecayedLinearAttention", [](const Values& v) {
      return Number(((((5_n * v.size(0)) * v.size(1)) * v.size(2)) * v.size(3)) * v.size(4));
    }, {}},
    {"hsm", "DecayedDeltaRule", [](const Values& v) {
      return Number(((((9_n * v.size(0)) * v.size(1)) * v.size(2)) * v.size(3)) * v.size(4));
    }, {}},
    {"hsm", "ExpertMatMul", [](const Values& v) {
      return Number((((((2_n * v.number(0)) * v.size(3)) * v.size(2)) * v.size(5)) * v.size(0)) * v.size(1));
    }, kExpertMatMulAdjustments},
    {"hsm", "ExpertMatMulSum", [](const Values& v) {
      return Number((((((2_n * v.number(0)) * v.size(2)) * v.size(5)) * v.size(3)) * v.size(0)) * v.size(1));
    }, kExpertMatMulSumAdjustments},
    {"hsm", "ExpertMLP", [](const Values& v) {
      return Number(((((2_n * v.number(0)) * v.size(4)) * (v.size(2) + v.size(5))) * v.size(0)) * v.size(1));
    }, kExpertMLPAdjustments},
    {"hsm", "QuantizedExpertMatMul", [](const Values& v) {
      return Number((((((2_n * v.number(0)) * v.size(3)) * v.size(2)) * v.size(7)) * v.size(0)) * v.size(1));
    }, kQuantizedExpertMatMulAdjustments},
    {"hsm", "QuantizedExpertMatMulSum", [](const Values& v) {
      return Number((((((2_n * v.number(0)) * v.size(2)) * v.size(7)) * v.size(3)) * v.size(0)) * v.size(1));
    }, kQuantizedExpertMatMulSumAdjustments},
    {"hsm", "TokenShift", [](const Values&) {
      return Number(0_n);
    }, kTokenShiftAdjustments},
    {"hsm", "TokenShiftCached", [](const Values&) {
      return Number(0_n);
    }, kTokenShiftCachedAdjustments},
    {"hsm", "ShiftMix", [](const Values& v) {
      return Number(((3_n * v.size(0)) * v.size(1)) * v.size(2));
    }, kShiftMixAdjustments},
    {"hsm", "ShiftMixCached", [](const Values& v) {
      return Number(((3_n * v.size(0)) * v.size(1)) * v.size(2));
    }, kShiftMixCachedAdjustments},
    {"hsm", "TaylorShift", [](const Values& v) {
      return Number((v.size(0) * v.size(2)) * (min_of((((2_n * v.size(1)) * v.size(1)) * ((v.size(3) + v.size(4)) + 2_n)), (v.size(1) * (((4_n * ((1_n + v.size(3)) + ((v.size(3) * (v.size(3) + 1_n)) / 2_n))) * (v.size(4) + 1_n)) + (v.size(3) * (v.size(3) + 1_n))))) + (v.size(1) * ((6_n * v.size(3)) + (2_n * v.size(4))))));
    }, {}},
    {"hsm", "TaylorShiftMasked", [](const Values& v) {
      return Number((v.size(0) * v.size(2)) * (min_of((((2_n * v.size(1)) * v.size(1)) * ((v.size(3) + v.size(4)) + 2_n)), (v.size(1) * (((4_n * ((1_n + v.size(3)) + ((v.size(3) * (v.size(3) + 1_n)) / 2_n))) * (v.size(4) + 1_n)) + (v.size(3) * (v.size(3) + 1_n))))) + (v.size(1) * ((6_n * v.size(3)) + (2_n * v.size(4))))));
    }, {}},
};

}  // namespace

std::span<const Facts> facts() { return kFacts; }

std::span<const Case> typical_cases() {
  static const std::vector<Case> cases = {
    {"hsm", "Attention", "B=1 T=2048 S=2048 H=8 G=8 d=64 e=64 window=0",
     {{"B", 1}, {"T", 2048}, {"H", 8}, {"d", 64}, {"S", 2048}, {"G", 8}, {"e", 64}},
     {{"causal", {1}}, {"window", {0}}, {"scale", {}, {0.125f}}}, {}, {}},
    {"hsm", "Attention", "B=8 T=256 S=256 H=8 G=8 d=64 e=64 window=0",
     {{"B", 8}, {"T", 256}, {"H", 8}, {"d", 64}, {"S", 256}, {"G", 8}, {"e", 64}},
     {{"causal", {0}}, {"window", {0}}, {"scale", {}, {0.125f}}}, {}, {}},
    {"hsm", "AttentionCached", "B=1 T=1 C=2048 H=8 G=8 d=64 e=64",
     {{"B", 1}, {"T", 1}, {"H", 8}, {"d", 64}, {"G", 8}, {"e", 64}, {"C", 2048}},
     {{"scale", {}, {0.125f}}}, {}, {}},
    {"hsm", "AttentionCached", "B=8 T=1 C=2048 H=8 G=2 d=64 e=64",
     {{"B", 8}, {"T", 1}, {"H", 8}, {"d", 64}, {"G", 2}, {"e", 64}, {"C", 2048}},
     {{"scale", {}, {0.125f}}}, {}, {}},
    {"hsm", "WindowAttentionCached", "B=8 T=1 R=256 H=8 G=8 d=64 e=64 window=256",
     {{"B", 8}, {"T", 1}, {"H", 8}, {"d", 64}, {"G", 8}, {"e", 64}, {"R", 256}},
     {{"window", {256}}, {"scale", {}, {0.125f}}}, {}, {}},
    {"hsm", "RelativeAttention", "B=1 T=2048 S=2048 P=2048 H=8 G=8 d=64 e=64 window=0",
     {{"B", 1}, {"T", 2048}, {"H", 8}, {"d", 64}, {"S", 2048}, {"G", 8}, {"e", 64}, {"P", 2048}},
     {{"causal", {1}}, {"window", {0}}, {"scale", {}, {0.125f}}}, {}, {}},
    {"hsm", "RelativeAttentionCached", "B=1 T=1 C=2048 H=8 G=8 d=64 e=64",
     {{"B", 1}, {"T", 1}, {"H", 8}, {"d", 64}, {"G", 8}, {"e", 64}, {"C", 2048}},
     {{"scale", {}, {0.125f}}}, {}, {}},
    {"hsm", "WindowRelativeAttentionCached", "B=8 T=1 R=256 P=256 H=8 G=8 d=64 e=64 window=256",
     {{"B", 8}, {"T", 1}, {"H", 8}, {"d", 64}, {"G", 8}, {"e", 64}, {"R", 256}, {"P", 256}},
     {{"window", {256}}, {"scale", {}, {0.125f}}}, {}, {}},
    {"hsm", "CausalTaylorShift", "B=1 T=2048 H=8 d=32 e=32",
     {{"B", 1}, {"T", 2048}, {"H", 8}, {"d", 32}, {"e", 32}, {"F", 561}},
     {{"normalize", {1}}}, {}, {}},
    {"hsm", "CausalTaylorShift", "B=1 T=2048 H=8 d=64 e=64",
     {{"B", 1}, {"T", 2048}, {"H", 8}, {"d", 64}, {"e", 64}, {"F", 2145}},
     {{"normalize", {1}}}, {}, {}},
    {"hsm", "CausalTaylorShift", "B=8 T=1 H=8 d=32 e=32",
     {{"B", 8}, {"T", 1}, {"H", 8}, {"d", 32}, {"e", 32}, {"F", 561}},
     {{"normalize", {1}}}, {}, {}},
    {"hsm", "CausalTaylorShift", "B=1 T=256 H=2 d=256 e=256",
     {{"B", 1}, {"T", 256}, {"H", 2}, {"d", 256}, {"e", 256}, {"F", 33153}},
     {{"normalize", {1}}}, {}, {}},
    {"hsm", "DecayedLinearAttention", "B=1 T=2048 H=8 K=64 V=64 G=64",
     {{"B", 1}, {"T", 2048}, {"H", 8}, {"K", 64}, {"V", 64}, {"G", 64}},
     {{"exclusive", {0}}}, {}, {}},
    {"hsm", "DecayedLinearAttention", "B=8 T=1 H=8 K=64 V=64 G=64",
     {{"B", 8}, {"T", 1}, {"H", 8}, {"K", 64}, {"V", 64}, {"G", 64}},
     {{"exclusive", {0}}}, {}, {}},
    {"hsm", "DecayedDeltaRule", "B=1 T=2048 H=8 K=64 V=64 G=64",
     {{"B", 1}, {"T", 2048}, {"H", 8}, {"K", 64}, {"V", 64}, {"G", 64}},
     {}, {}, {}},
    {"hsm", "DecayedDeltaRule", "B=8 T=1 H=8 K=64 V=64 G=64",
     {{"B", 8}, {"T", 1}, {"H", 8}, {"K", 64}, {"V", 64}, {"G", 64}},
     {}, {}, {}},
    {"hsm", "ExpertMatMul", "B=1 T=2048 D=512 H=8 E=8 f=64 k=2",
     {{"B", 1}, {"T", 2048}, {"D", 512}, {"H", 8}, {"E", 8}, {"f", 64}},
     {{"k", {2}}}, {}, {}},
    {"hsm", "ExpertMatMul", "B=1 T=1 D=512 H=8 E=8 f=64 k=2",
     {{"B", 1}, {"T", 1}, {"D", 512}, {"H", 8}, {"E", 8}, {"f", 64}},
     {{"k", {2}}}, {}, {}},
    {"hsm", "ExpertMatMulSum", "B=1 T=2048 D=512 H=8 E=8 f=64 k=2",
     {{"B", 1}, {"T", 2048}, {"H", 8}, {"f", 64}, {"E", 8}, {"D", 512}},
     {{"k", {2}}}, {}, {}},
    {"hsm", "ExpertMatMulSum", "B=1 T=1 D=512 H=8 E=8 f=64 k=2",
     {{"B", 1}, {"T", 1}, {"H", 8}, {"f", 64}, {"E", 8}, {"D", 512}},
     {{"k", {2}}}, {}, {}},
    {"hsm", "ExpertMLP", "B=1 T=2048 D=412 E=155 w=128 O=412 k=4 activation=0",
     {{"B", 1}, {"T", 2048}, {"D", 412}, {"E", 155}, {"w", 128}, {"O", 412}},
     {{"k", {4}}, {"activation", {0}}}, {}, {}},
    {"hsm", "ExpertMLP", "B=1 T=1 D=412 E=155 w=128 O=412 k=4 activation=0",
     {{"B", 1}, {"T", 1}, {"D", 412}, {"E", 155}, {"w", 128}, {"O", 412}},
     {{"k", {4}}, {"activation", {0}}}, {}, {}},
    {"hsm", "QuantizedExpertMatMul", "B=1 T=2048 G=1 R=256 D=512 H=8 E=8 f=64 k=2 per_byte=2",
     {{"B", 1}, {"T", 2048}, {"D", 512}, {"H", 8}, {"E", 8}, {"G", 1}, {"R", 256}, {"f", 64}},
     {{"k", {2}}, {"per_byte", {2}}}, {}, {}},
    {"hsm", "QuantizedExpertMatMul", "B=1 T=1 G=1 R=256 D=512 H=8 E=8 f=64 k=2 per_byte=2",
     {{"B", 1}, {"T", 1}, {"D", 512}, {"H", 8}, {"E", 8}, {"G", 1}, {"R", 256}, {"f", 64}},
     {{"k", {2}}, {"per_byte", {2}}}, {}, {}},
    {"hsm", "QuantizedExpertMatMulSum", "B=1 T=2048 G=1 R=32 D=512 H=8 E=8 f=64 k=2 per_byte=2",
     {{"B", 1}, {"T", 2048}, {"H", 8}, {"f", 64}, {"E", 8}, {"G", 1}, {"R", 32}, {"D", 512}},
     {{"k", {2}}, {"per_byte", {2}}}, {}, {}},
    {"hsm", "QuantizedExpertMatMulSum", "B=1 T=1 G=1 R=32 D=512 H=8 E=8 f=64 k=2 per_byte=2",
     {{"B", 1}, {"T", 1}, {"H", 8}, {"f", 64}, {"E", 8}, {"G", 1}, {"R", 32}, {"D", 512}},
     {{"k", {2}}, {"per_byte", {2}}}, {}, {}},
    {"hsm", "TokenShift", "B=8 T=2048 D=1024",
     {{"B", 8}, {"T", 2048}, {"D", 1024}},
     {{"shifts", {1, 2, 4, 8}}}, {}, {}},
    {"hsm", "ShiftMix", "B=8 T=2048 D=1024",
     {{"B", 8}, {"T", 2048}, {"D", 1024}},
     {{"shifts", {1, 2, 4, 8}}}, {}, {}},
    {"hsm", "TokenShiftCached", "B=8 T=1 D=1024 R=8",
     {{"B", 8}, {"T", 1}, {"D", 1024}, {"R", 8}},
     {{"shifts", {1, 2, 4, 8}}}, {}, {}},
    {"hsm", "ShiftMixCached", "B=8 T=2048 D=1024 R=8",
     {{"B", 8}, {"T", 2048}, {"D", 1024}, {"R", 8}},
     {{"shifts", {1, 2, 4, 8}}}, {}, {}},
    {"hsm", "ShiftMixCached", "B=8 T=1 D=1024 R=8",
     {{"B", 8}, {"T", 1}, {"D", 1024}, {"R", 8}},
     {{"shifts", {1, 2, 4, 8}}}, {}, {}},
    {"hsm", "TaylorShift", "B=1 T=128 H=8 d=64 e=64",
     {{"B", 1}, {"T", 128}, {"H", 8}, {"d", 64}, {"e", 64}},
     {{"normalize", {1}}, {"output_norm", {1}}}, {}, {}},
    {"hsm", "TaylorShift", "B=1 T=8192 H=8 d=16 e=16",
     {{"B", 1}, {"T", 8192}, {"H", 8}, {"d", 16}, {"e", 16}},
     {{"normalize", {1}}, {"output_norm", {1}}}, {}, {}},
    {"hsm", "TaylorShift", "B=1 T=8192 H=8 d=32 e=32",
     {{"B", 1}, {"T", 8192}, {"H", 8}, {"d", 32}, {"e", 32}},
     {{"normalize", {1}}, {"output_norm", {1}}}, {}, {}},
    {"hsm", "TaylorShift", "B=1 T=8192 H=8 d=64 e=64",
     {{"B", 1}, {"T", 8192}, {"H", 8}, {"d", 64}, {"e", 64}},
     {{"normalize", {1}}, {"output_norm", {1}}}, {}, {}},
    {"hsm", "TaylorShift", "B=1 T=8192 H=4 d=128 e=128",
     {{"B", 1}, {"T", 8192}, {"H", 4}, {"d", 128}, {"e", 128}},
     {{"normalize", {1}}, {"output_norm", {1}}}, {}, {}},
    {"hsm", "TaylorShift", "B=1 T=2048 H=2 d=256 e=256",
     {{"B", 1}, {"T", 2048}, {"H", 2}, {"d", 256}, {"e", 256}},
     {{"normalize", {1}}, {"output_norm", {1}}}, {}, {}},
    {"hsm", "TaylorShiftMasked", "B=8 T=2048 H=8 d=32 e=32",
     {{"B", 8}, {"T", 2048}, {"H", 8}, {"d", 32}, {"e", 32}},
     {{"normalize", {1}}, {"output_norm", {1}}}, {}, {}},
  };
  return cases;
}

std::span<const Case> small_cases() {
  static const std::vector<Case> cases = {
    {"hsm", "Attention", "B=2 T=6 H=4 G=2 d=8 e=5 S=6 window=4",
     {{"B", 2}, {"T", 6}, {"H", 4}, {"d", 8}, {"S", 6}, {"G", 2}, {"e", 5}},
     {{"causal", {1}}, {"window", {4}}, {"scale", {}, {0.375f}}}, {}, {}},
    {"hsm", "AttentionCached", "B=2 T=6 H=4 G=2 d=8 e=5 C=19",
     {{"B", 2}, {"T", 6}, {"H", 4}, {"d", 8}, {"G", 2}, {"e", 5}, {"C", 19}},
     {{"scale", {}, {0.375f}}}, {}, {}},
    {"hsm", "WindowAttentionCached", "B=2 T=6 H=4 G=2 d=8 e=5 R=9 window=5",
     {{"B", 2}, {"T", 6}, {"H", 4}, {"d", 8}, {"G", 2}, {"e", 5}, {"R", 9}},
     {{"window", {5}}, {"scale", {}, {0.375f}}}, {}, {}},
    {"hsm", "RelativeAttention", "B=2 T=6 H=4 G=2 d=8 e=5 S=6 P=11 window=0",
     {{"B", 2}, {"T", 6}, {"H", 4}, {"d", 8}, {"S", 6}, {"G", 2}, {"e", 5}, {"P", 11}},
     {{"causal", {0}}, {"window", {0}}, {"scale", {}, {0.375f}}}, {}, {}},
    {"hsm", "RelativeAttentionCached", "B=2 T=6 H=4 G=2 d=8 e=5 C=19",
     {{"B", 2}, {"T", 6}, {"H", 4}, {"d", 8}, {"G", 2}, {"e", 5}, {"C", 19}},
     {{"scale", {}, {0.375f}}}, {}, {}},
    {"hsm", "WindowRelativeAttentionCached", "B=2 T=6 H=4 G=2 d=8 e=5 R=9 P=6 window=5",
     {{"B", 2}, {"T", 6}, {"H", 4}, {"d", 8}, {"G", 2}, {"e", 5}, {"R", 9}, {"P", 6}},
     {{"window", {5}}, {"scale", {}, {0.375f}}}, {}, {}},
    {"hsm", "CausalTaylorShift", "B=2 T=6 H=2 d=8 e=5",
     {{"B", 2}, {"T", 6}, {"H", 2}, {"d", 8}, {"e", 5}, {"F", 45}},
     {{"normalize", {1}}}, {}, {{5, 4.0}}},
    {"hsm", "DecayedLinearAttention", "B=2 T=6 H=2 K=8 V=5 G=8",
     {{"B", 2}, {"T", 6}, {"H", 2}, {"K", 8}, {"V", 5}, {"G", 8}},
     {{"exclusive", {1}}}, {{3, -2.0, 0.0}}, {}},
    {"hsm", "DecayedDeltaRule", "B=2 T=6 H=2 K=8 V=5 G=8",
     {{"B", 2}, {"T", 6}, {"H", 2}, {"K", 8}, {"V", 5}, {"G", 8}},
     {}, {{3, -2.0, 0.0}, {4, -0.3, 0.3}, {5, -0.3, 0.3}}, {}},
    {"hsm", "ExpertMatMul", "B=2 T=6 D=12 H=2 E=4 f=10 k=2",
     {{"B", 2}, {"T", 6}, {"D", 12}, {"H", 2}, {"E", 4}, {"f", 10}},
     {{"k", {2}}}, {}, {}},
    {"hsm", "ExpertMatMulSum", "B=2 T=6 D=12 H=2 E=4 f=10 k=2",
     {{"B", 2}, {"T", 6}, {"H", 2}, {"f", 10}, {"E", 4}, {"D", 12}},
     {{"k", {2}}}, {}, {}},
    {"hsm", "ExpertMLP", "B=2 T=6 D=12 E=5 w=8 O=10 k=2 activation=1",
     {{"B", 2}, {"T", 6}, {"D", 12}, {"E", 5}, {"w", 8}, {"O", 10}},
     {{"k", {2}}, {"activation", {1}}}, {}, {}},
    {"hsm", "QuantizedExpertMatMul", "B=2 T=6 D=12 H=2 E=4 f=12 G=2 R=3 k=2 per_byte=2",
     {{"B", 2}, {"T", 6}, {"D", 12}, {"H", 2}, {"E", 4}, {"G", 2}, {"R", 3}, {"f", 12}},
     {{"k", {2}}, {"per_byte", {2}}}, {{3, 0.002, 0.02}}, {}},
    {"hsm", "QuantizedExpertMatMulSum", "B=2 T=6 D=12 H=2 E=4 f=12 G=2 R=3 k=2 per_byte=2",
     {{"B", 2}, {"T", 6}, {"H", 2}, {"f", 12}, {"E", 4}, {"G", 2}, {"R", 3}, {"D", 12}},
     {{"k", {2}}, {"per_byte", {2}}}, {{3, 0.002, 0.02}}, {}},
    {"hsm", "TokenShift", "B=2 T=6 D=12",
     {{"B", 2}, {"T", 6}, {"D", 12}},
     {{"shifts", {1, 0, -2}}}, {}, {}},
    {"hsm", "TokenShiftCached", "B=2 T=6 D=12 R=7",
     {{"B", 2}, {"T", 6}, {"D", 12}, {"R", 7}},
     {{"shifts", {0, 5, 2}}}, {}, {}},
    {"hsm", "ShiftMix", "B=2 T=6 D=12",
     {{"B", 2}, {"T", 6}, {"D", 12}},
     {{"shifts", {1, 0, -2}}}, {}, {}},
    {"hsm", "ShiftMixCached", "B=2 T=6 D=12 R=7",
     {{"B", 2}, {"T", 6}, {"D", 12}, {"R", 7}},
     {{"shifts", {0, 5, 2}}}, {}, {}},
    {"hsm", "TaylorShift", "B=2 T=6 H=2 d=8 e=5",
     {{"B", 2}, {"T", 6}, {"H", 2}, {"d", 8}, {"e", 5}},
     {{"normalize", {1}}, {"output_norm", {1}}}, {}, {}},
    {"hsm", "TaylorShiftMasked", "B=2 T=6 H=2 d=8 e=5",
     {{"B", 2}, {"T", 6}, {"H", 2}, {"d", 8}, {"e", 5}},
     {{"normalize", {1}}, {"output_norm", {1}}}, {}, {}},
  };
  return cases;
}

}  // namespace hsm::testing
