// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
// clang-format off
#include <limits>

#include "hsm_operators/common/opset.h"

namespace hsm::opset {
namespace {

namespace attention_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"H", "heads", 0, kMostElements},
    {"d", "head width", 1, 1048576},
    {"S", "keys", 0, kMostElements},
    {"G", "key and value heads", 1, 1048576},
    {"e", "value width", 1, 1048576},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[0], &kDimensions[4], &kDimensions[5], &kDimensions[3]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[0], &kDimensions[4], &kDimensions[5], &kDimensions[6]};
constexpr const Dimension* kInput3Dims[] = {&kDimensions[0]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[6]};
constexpr RowRange kInput3Rows = {
    .least = [](const Values&) {
      return Number(0_n);
    },
    .most = [](const Values& v) {
      return Number(v.size(4));
    },
    .words = [](const Values& v) {
      return sentence("from 0 to S = ", v.size(4));
    },
    .where = -1,
};
constexpr Port kInputs[] = {
    {"q", ElementType::kT, kInput0Dims},
    {"k", ElementType::kT, kInput1Dims},
    {"v", ElementType::kT, kInput2Dims},
    {"lengths", ElementType::kInt64, kInput3Dims, &kInput3Rows},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
};
constexpr Attribute kAttributes[] = {
    {"causal", AttributeType::kInt, 0, 1},
    {"window", AttributeType::kInt, 0, std::numeric_limits<std::int64_t>::max()},
    {"scale", AttributeType::kFloat, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()},
};
constexpr const Dimension* kRule0Reads[] = {&kDimensions[2], &kDimensions[5]};
constexpr Rule kRules[] = {
    // H % G == 0
    {.reads = kRule0Reads,
     .holds = [](const Values& v) {
      return bool((v.size(2) % v.size(5)) == 0_n);
    },
     .sentence = [](const Values& v) {
      return sentence("the ", v.size(2), " query heads do not split into G = ", v.size(5),
                      " groups, one for each key head");
    }},
};
}  // namespace attention_row

namespace attention_cached_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"H", "heads", 0, kMostElements},
    {"d", "head width", 1, 1048576},
    {"G", "key and value heads", 1, 1048576},
    {"e", "value width", 1, 1048576},
    {"C", "slots of the cache", 1, kMostElements},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[4], &kDimensions[3]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[4], &kDimensions[5]};
constexpr const Dimension* kInput3Dims[] = {&kDimensions[0], &kDimensions[6], &kDimensions[4], &kDimensions[3]};
constexpr const Dimension* kInput4Dims[] = {&kDimensions[0], &kDimensions[6], &kDimensions[4], &kDimensions[5]};
constexpr const Dimension* kInput5Dims[] = {&kDimensions[0]};
constexpr const Dimension* kInput6Dims[] = {&kDimensions[0]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[5]};
constexpr const Dimension* kOutput1Dims[] = {&kDimensions[0], &kDimensions[6], &kDimensions[4], &kDimensions[3]};
constexpr const Dimension* kOutput2Dims[] = {&kDimensions[0], &kDimensions[6], &kDimensions[4], &kDimensions[5]};
constexpr RowRange kInput5Rows = {
    .least = [](const Values&) {
      return Number(0_n);
    },
    .most = [](const Values& v) {
      return Number(v.size(6) - v.size(1));
    },
    .words = [](const Values& v) {
      return sentence("from 0 to C - lengths, as the cache has C = ", v.size(6), " slots");
    },
    .where = 6,
    .valid = 6,
};
constexpr RowRange kInput6Rows = {
    .least = [](const Values&) {
      return Number(0_n);
    },
    .most = [](const Values& v) {
      return Number(v.size(1));
    },
    .words = [](const Values& v) {
      return sentence("from 0 to T = ", v.size(1));
    },
    .where = -1,
};
constexpr Port kInputs[] = {
    {"q", ElementType::kT, kInput0Dims},
    {"k", ElementType::kT, kInput1Dims},
    {"v", ElementType::kT, kInput2Dims},
    {"key_cache", ElementType::kT, kInput3Dims},
    {"value_cache", ElementType::kT, kInput4Dims},
    {"position", ElementType::kInt64, kInput5Dims, &kInput5Rows},
    {"lengths", ElementType::kInt64, kInput6Dims, &kInput6Rows},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
    {"key_cache_out", ElementType::kT, kOutput1Dims},
    {"value_cache_out", ElementType::kT, kOutput2Dims},
};
constexpr Attribute kAttributes[] = {
    {"scale", AttributeType::kFloat, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()},
};
constexpr const Dimension* kRule0Reads[] = {&kDimensions[2], &kDimensions[4]};
constexpr const Dimension* kRule1Reads[] = {&kDimensions[1], &kDimensions[6]};
constexpr Rule kRules[] = {
    // H % G == 0
    {.reads = kRule0Reads,
     .holds = [](const Values& v) {
      return bool((v.size(2) % v.size(4)) == 0_n);
    },
     .sentence = [](const Values& v) {
      return sentence("the ", v.size(2), " query heads do not split into G = ", v.size(4),
                      " groups, one for each key head");
    }},
    // C >= T
    {.reads = kRule1Reads,
     .holds = [](const Values& v) {
      return bool(v.size(6) >= v.size(1));
    },
     .sentence = [](const Values& v) {
      return sentence("the cache has C = ", v.size(6), " slots, fewer than the T = ", v.size(1), " new tokens");
    }},
};
constexpr InPlacePair kInPlace[] = {
    {3, 1},
    {4, 2},
};
}  // namespace attention_cached_row

namespace window_attention_cached_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"H", "heads", 0, kMostElements},
    {"d", "head width", 1, 1048576},
    {"G", "key and value heads", 1, 1048576},
    {"e", "value width", 1, 1048576},
    {"R", "slots of the ring", 1, kMostElements},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[4], &kDimensions[3]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[4], &kDimensions[5]};
constexpr const Dimension* kInput3Dims[] = {&kDimensions[0], &kDimensions[6], &kDimensions[4], &kDimensions[3]};
constexpr const Dimension* kInput4Dims[] = {&kDimensions[0], &kDimensions[6], &kDimensions[4], &kDimensions[5]};
constexpr const Dimension* kInput5Dims[] = {&kDimensions[0]};
constexpr const Dimension* kInput6Dims[] = {&kDimensions[0]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[5]};
constexpr const Dimension* kOutput1Dims[] = {&kDimensions[0], &kDimensions[6], &kDimensions[4], &kDimensions[3]};
constexpr const Dimension* kOutput2Dims[] = {&kDimensions[0], &kDimensions[6], &kDimensions[4], &kDimensions[5]};
constexpr RowRange kInput5Rows = {
    .least = [](const Values&) {
      return Number(0_n);
    },
    .most = [](const Values& v) {
      return Number(9223372036854775807_n - v.size(1));
    },
    .words = [](const Values&) {
      return sentence("from 0 to 2^63 - 1 - T");
    },
    .where = 6,
};
constexpr RowRange kInput6Rows = {
    .least = [](const Values&) {
      return Number(0_n);
    },
    .most = [](const Values& v) {
      return Number(v.size(1));
    },
    .words = [](const Values& v) {
      return sentence("from 0 to T = ", v.size(1));
    },
    .where = -1,
};
constexpr Port kInputs[] = {
    {"q", ElementType::kT, kInput0Dims},
    {"k", ElementType::kT, kInput1Dims},
    {"v", ElementType::kT, kInput2Dims},
    {"key_ring", ElementType::kT, kInput3Dims},
    {"value_ring", ElementType::kT, kInput4Dims},
    {"position", ElementType::kInt64, kInput5Dims, &kInput5Rows},
    {"lengths", ElementType::kInt64, kInput6Dims, &kInput6Rows},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
    {"key_ring_out", ElementType::kT, kOutput1Dims},
    {"value_ring_out", ElementType::kT, kOutput2Dims},
};
constexpr Attribute kAttributes[] = {
    {"window", AttributeType::kInt, 1, std::numeric_limits<std::int64_t>::max()},
    {"scale", AttributeType::kFloat, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()},
};
constexpr const Dimension* kRule0Reads[] = {&kDimensions[2], &kDimensions[4]};
constexpr const Dimension* kRule1Reads[] = {&kDimensions[6]};
constexpr Rule kRules[] = {
    // H % G == 0
    {.reads = kRule0Reads,
     .holds = [](const Values& v) {
      return bool((v.size(2) % v.size(4)) == 0_n);
    },
     .sentence = [](const Values& v) {
      return sentence("the ", v.size(2), " query heads do not split into G = ", v.size(4),
                      " groups, one for each key head");
    }},
    // R >= window
    {.reads = kRule1Reads,
     .holds = [](const Values& v) {
      return bool(v.size(6) >= v.number(0));
    },
     .sentence = [](const Values& v) {
      return sentence("the ring has R = ", v.size(6), " slots, fewer than the window ", v.number(0));
    }},
};
constexpr InPlacePair kInPlace[] = {
    {3, 1},
    {4, 2},
};
}  // namespace window_attention_cached_row

namespace relative_attention_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"H", "heads", 0, kMostElements},
    {"d", "head width", 1, 1048576},
    {"S", "keys", 0, kMostElements},
    {"G", "key and value heads", 1, 1048576},
    {"e", "value width", 1, 1048576},
    {"P", "keys of distances", 1, kMostElements},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[0], &kDimensions[4], &kDimensions[5], &kDimensions[3]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[0], &kDimensions[4], &kDimensions[5], &kDimensions[6]};
constexpr const Dimension* kInput3Dims[] = {&kDimensions[0]};
constexpr const Dimension* kInput4Dims[] = {&kDimensions[7], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[6]};
constexpr RowRange kInput3Rows = {
    .least = [](const Values&) {
      return Number(0_n);
    },
    .most = [](const Values& v) {
      return Number(v.size(4));
    },
    .words = [](const Values& v) {
      return sentence("from 0 to S = ", v.size(4));
    },
    .where = -1,
};
constexpr Port kInputs[] = {
    {"q", ElementType::kT, kInput0Dims},
    {"k", ElementType::kT, kInput1Dims},
    {"v", ElementType::kT, kInput2Dims},
    {"lengths", ElementType::kInt64, kInput3Dims, &kInput3Rows},
    {"relative_keys", ElementType::kT, kInput4Dims},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
};
constexpr Attribute kAttributes[] = {
    {"causal", AttributeType::kInt, 0, 1},
    {"window", AttributeType::kInt, 0, std::numeric_limits<std::int64_t>::max()},
    {"scale", AttributeType::kFloat, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()},
};
constexpr const Dimension* kRule0Reads[] = {&kDimensions[2], &kDimensions[5]};
constexpr const Dimension* kRule1Reads[] = {&kDimensions[1], &kDimensions[4], &kDimensions[7]};
constexpr Rule kRules[] = {
    // H % G == 0
    {.reads = kRule0Reads,
     .holds = [](const Values& v) {
      return bool((v.size(2) % v.size(5)) == 0_n);
    },
     .sentence = [](const Values& v) {
      return sentence("the ", v.size(2), " query heads do not split into G = ", v.size(5),
                      " groups, one for each key head");
    }},
    // P >= (max(T, S) if causal == 1 else T + S - 1)
    {.reads = kRule1Reads,
     .holds = [](const Values& v) {
      return bool(v.size(7) >= ((v.number(0) == 1_n) ? max_of(v.size(1), v.size(4)) : ((v.size(1) + v.size(4)) - 1_n)));
    },
     .sentence = [](const Values& v) {
      return sentence("there are keys of P = ", v.size(7), " distances, fewer than the T = ", v.size(1),
                      " queries and S = ", v.size(4), " keys are apart");
    }},
};
}  // namespace relative_attention_row

namespace relative_attention_cached_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"H", "heads", 0, kMostElements},
    {"d", "head width", 1, 1048576},
    {"G", "key and value heads", 1, 1048576},
    {"e", "value width", 1, 1048576},
    {"C", "slots of the cache", 1, kMostElements},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[4], &kDimensions[3]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[4], &kDimensions[5]};
constexpr const Dimension* kInput3Dims[] = {&kDimensions[0], &kDimensions[6], &kDimensions[4], &kDimensions[3]};
constexpr const Dimension* kInput4Dims[] = {&kDimensions[0], &kDimensions[6], &kDimensions[4], &kDimensions[5]};
constexpr const Dimension* kInput5Dims[] = {&kDimensions[0]};
constexpr const Dimension* kInput6Dims[] = {&kDimensions[0]};
constexpr const Dimension* kInput7Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput8Dims[] = {&kDimensions[0], &kDimensions[6], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[5]};
constexpr const Dimension* kOutput1Dims[] = {&kDimensions[0], &kDimensions[6], &kDimensions[4], &kDimensions[3]};
constexpr const Dimension* kOutput2Dims[] = {&kDimensions[0], &kDimensions[6], &kDimensions[4], &kDimensions[5]};
constexpr const Dimension* kOutput3Dims[] = {&kDimensions[0], &kDimensions[6], &kDimensions[2], &kDimensions[3]};
constexpr RowRange kInput5Rows = {
    .least = [](const Values&) {
      return Number(0_n);
    },
    .most = [](const Values& v) {
      return Number(v.size(6) - v.size(1));
    },
    .words = [](const Values& v) {
      return sentence("from 0 to C - lengths, as the cache has C = ", v.size(6), " slots");
    },
    .where = 6,
    .valid = 6,
};
constexpr RowRange kInput6Rows = {
    .least = [](const Values&) {
      return Number(0_n);
    },
    .most = [](const Values& v) {
      return Number(v.size(1));
    },
    .words = [](const Values& v) {
      return sentence("from 0 to T = ", v.size(1));
    },
    .where = -1,
};
constexpr Port kInputs[] = {
    {"q", ElementType::kT, kInput0Dims},
    {"k", ElementType::kT, kInput1Dims},
    {"v", ElementType::kT, kInput2Dims},
    {"key_cache", ElementType::kT, kInput3Dims},
    {"value_cache", ElementType::kT, kInput4Dims},
    {"position", ElementType::kInt64, kInput5Dims, &kInput5Rows},
    {"lengths", ElementType::kInt64, kInput6Dims, &kInput6Rows},
    {"relative", ElementType::kT, kInput7Dims},
    {"relative_cache", ElementType::kT, kInput8Dims},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
    {"key_cache_out", ElementType::kT, kOutput1Dims},
    {"value_cache_out", ElementType::kT, kOutput2Dims},
    {"relative_cache_out", ElementType::kT, kOutput3Dims},
};
constexpr Attribute kAttributes[] = {
    {"scale", AttributeType::kFloat, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()},
};
constexpr const Dimension* kRule0Reads[] = {&kDimensions[2], &kDimensions[4]};
constexpr const Dimension* kRule1Reads[] = {&kDimensions[1], &kDimensions[6]};
constexpr Rule kRules[] = {
    // H % G == 0
    {.reads = kRule0Reads,
     .holds = [](const Values& v) {
      return bool((v.size(2) % v.size(4)) == 0_n);
    },
     .sentence = [](const Values& v) {
      return sentence("the ", v.size(2), " query heads do not split into G = ", v.size(4),
                      " groups, one for each key head");
    }},
    // C >= T
    {.reads = kRule1Reads,
     .holds = [](const Values& v) {
      return bool(v.size(6) >= v.size(1));
    },
     .sentence = [](const Values& v) {
      return sentence("the cache has C = ", v.size(6), " slots, fewer than the T = ", v.size(1), " new tokens");
    }},
};
constexpr InPlacePair kInPlace[] = {
    {3, 1},
    {4, 2},
    {8, 3},
};
}  // namespace relative_attention_cached_row

namespace window_relative_attention_cached_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"H", "heads", 0, kMostElements},
    {"d", "head width", 1, 1048576},
    {"G", "key and value heads", 1, 1048576},
    {"e", "value width", 1, 1048576},
    {"R", "slots of the ring", 1, kMostElements},
    {"P", "keys of distances", 1, kMostElements},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[4], &kDimensions[3]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[4], &kDimensions[5]};
constexpr const Dimension* kInput3Dims[] = {&kDimensions[0], &kDimensions[6], &kDimensions[4], &kDimensions[3]};
constexpr const Dimension* kInput4Dims[] = {&kDimensions[0], &kDimensions[6], &kDimensions[4], &kDimensions[5]};
constexpr const Dimension* kInput5Dims[] = {&kDimensions[0]};
constexpr const Dimension* kInput6Dims[] = {&kDimensions[0]};
constexpr const Dimension* kInput7Dims[] = {&kDimensions[7], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[5]};
constexpr const Dimension* kOutput1Dims[] = {&kDimensions[0], &kDimensions[6], &kDimensions[4], &kDimensions[3]};
constexpr const Dimension* kOutput2Dims[] = {&kDimensions[0], &kDimensions[6], &kDimensions[4], &kDimensions[5]};
constexpr RowRange kInput5Rows = {
    .least = [](const Values&) {
      return Number(0_n);
    },
    .most = [](const Values& v) {
      return Number(9223372036854775807_n - v.size(1));
    },
    .words = [](const Values&) {
      return sentence("from 0 to 2^63 - 1 - T");
    },
    .where = 6,
};
constexpr RowRange kInput6Rows = {
    .least = [](const Values&) {
      return Number(0_n);
    },
    .most = [](const Values& v) {
      return Number(v.size(1));
    },
    .words = [](const Values& v) {
      return sentence("from 0 to T = ", v.size(1));
    },
    .where = -1,
};
constexpr Port kInputs[] = {
    {"q", ElementType::kT, kInput0Dims},
    {"k", ElementType::kT, kInput1Dims},
    {"v", ElementType::kT, kInput2Dims},
    {"key_ring", ElementType::kT, kInput3Dims},
    {"value_ring", ElementType::kT, kInput4Dims},
    {"position", ElementType::kInt64, kInput5Dims, &kInput5Rows},
    {"lengths", ElementType::kInt64, kInput6Dims, &kInput6Rows},
    {"relative_keys", ElementType::kT, kInput7Dims},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
    {"key_ring_out", ElementType::kT, kOutput1Dims},
    {"value_ring_out", ElementType::kT, kOutput2Dims},
};
constexpr Attribute kAttributes[] = {
    {"window", AttributeType::kInt, 1, std::numeric_limits<std::int64_t>::max()},
    {"scale", AttributeType::kFloat, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()},
};
constexpr const Dimension* kRule0Reads[] = {&kDimensions[2], &kDimensions[4]};
constexpr const Dimension* kRule1Reads[] = {&kDimensions[6]};
constexpr const Dimension* kRule2Reads[] = {&kDimensions[7]};
constexpr Rule kRules[] = {
    // H % G == 0
    {.reads = kRule0Reads,
     .holds = [](const Values& v) {
      return bool((v.size(2) % v.size(4)) == 0_n);
    },
     .sentence = [](const Values& v) {
      return sentence("the ", v.size(2), " query heads do not split into G = ", v.size(4),
                      " groups, one for each key head");
    }},
    // R >= window
    {.reads = kRule1Reads,
     .holds = [](const Values& v) {
      return bool(v.size(6) >= v.number(0));
    },
     .sentence = [](const Values& v) {
      return sentence("the ring has R = ", v.size(6), " slots, fewer than the window ", v.number(0));
    }},
    // P >= window
    {.reads = kRule2Reads,
     .holds = [](const Values& v) {
      return bool(v.size(7) >= v.number(0));
    },
     .sentence = [](const Values& v) {
      return sentence("there are keys of P = ", v.size(7), " distances, fewer than the window ", v.number(0));
    }},
};
constexpr InPlacePair kInPlace[] = {
    {3, 1},
    {4, 2},
};
}  // namespace window_relative_attention_cached_row

namespace causal_taylor_shift_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"H", "heads", 0, kMostElements},
    {"d", "head width", 1, 1048576},
    {"e", "value width", 1, 1048576},
    {"F", "features", 0, kMostElements},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[4]};
constexpr const Dimension* kInput3Dims[] = {&kDimensions[2]};
constexpr const Dimension* kInput4Dims[] = {&kDimensions[0], &kDimensions[2], &kDimensions[5], &kDimensions[4]};
constexpr const Dimension* kInput5Dims[] = {&kDimensions[0], &kDimensions[2], &kDimensions[5]};
constexpr const Dimension* kInput6Dims[] = {&kDimensions[0]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[4]};
constexpr const Dimension* kOutput1Dims[] = {&kDimensions[0], &kDimensions[2], &kDimensions[5], &kDimensions[4]};
constexpr const Dimension* kOutput2Dims[] = {&kDimensions[0], &kDimensions[2], &kDimensions[5]};
constexpr RowRange kInput6Rows = {
    .least = [](const Values&) {
      return Number(0_n);
    },
    .most = [](const Values& v) {
      return Number(v.size(1));
    },
    .words = [](const Values& v) {
      return sentence("from 0 to T = ", v.size(1));
    },
    .where = -1,
};
constexpr Port kInputs[] = {
    {"q", ElementType::kT, kInput0Dims},
    {"k", ElementType::kT, kInput1Dims},
    {"v", ElementType::kT, kInput2Dims},
    {"temperature", ElementType::kT, kInput3Dims},
    {"state", ElementType::kFloat32, kInput4Dims},
    {"norm", ElementType::kFloat32, kInput5Dims},
    {"lengths", ElementType::kInt64, kInput6Dims, &kInput6Rows},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
    {"state_out", ElementType::kFloat32, kOutput1Dims},
    {"norm_out", ElementType::kFloat32, kOutput2Dims},
};
constexpr Attribute kAttributes[] = {
    {"normalize", AttributeType::kInt, 0, 1},
};
constexpr const Dimension* kRule0Reads[] = {&kDimensions[3], &kDimensions[5]};
constexpr Rule kRules[] = {
    // F == 1 + d + d*(d+1)//2
    {.reads = kRule0Reads,
     .holds = [](const Values& v) {
      return bool(v.size(5) == ((1_n + v.size(3)) + ((v.size(3) * (v.size(3) + 1_n)) / 2_n)));
    },
     .sentence = [](const Values& v) {
      return sentence("state has F = ", v.size(5), " features, but head width d = ", v.size(3),
                      " needs 1 + d + d(d+1)/2 = ", (1_n + v.size(3)) + ((v.size(3) * (v.size(3) + 1_n)) / 2_n));
    }},
};
constexpr InPlacePair kInPlace[] = {
    {4, 1},
    {5, 2},
};
}  // namespace causal_taylor_shift_row

namespace decayed_linear_attention_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"H", "heads", 0, kMostElements},
    {"K", "key width", 1, 1048576},
    {"V", "value width", 1, 1048576},
    {"G", "decays of a head", 1, 1048576},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[4]};
constexpr const Dimension* kInput3Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[5]};
constexpr const Dimension* kInput4Dims[] = {&kDimensions[0], &kDimensions[2], &kDimensions[3], &kDimensions[4]};
constexpr const Dimension* kInput5Dims[] = {&kDimensions[0]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[4]};
constexpr const Dimension* kOutput1Dims[] = {&kDimensions[0], &kDimensions[2], &kDimensions[3], &kDimensions[4]};
constexpr RowRange kInput5Rows = {
    .least = [](const Values&) {
      return Number(0_n);
    },
    .most = [](const Values& v) {
      return Number(v.size(1));
    },
    .words = [](const Values& v) {
      return sentence("from 0 to T = ", v.size(1));
    },
    .where = -1,
};
constexpr Port kInputs[] = {
    {"q", ElementType::kT, kInput0Dims},
    {"k", ElementType::kT, kInput1Dims},
    {"v", ElementType::kT, kInput2Dims},
    {"log_decay", ElementType::kT, kInput3Dims},
    {"state", ElementType::kFloat32, kInput4Dims},
    {"lengths", ElementType::kInt64, kInput5Dims, &kInput5Rows},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
    {"state_out", ElementType::kFloat32, kOutput1Dims},
};
constexpr Attribute kAttributes[] = {
    {"exclusive", AttributeType::kInt, 0, 1},
};
constexpr const Dimension* kRule0Reads[] = {&kDimensions[3], &kDimensions[5]};
constexpr Rule kRules[] = {
    // G == 1 or G == K
    {.reads = kRule0Reads,
     .holds = [](const Values& v) {
      return bool((v.size(5) == 1_n) || (v.size(5) == v.size(3)));
    },
     .sentence = [](const Values& v) {
      return sentence("log_decay has ", v.size(5), " numbers for each head; it needs 1, or key width K = ", v.size(3));
    }},
};
constexpr InPlacePair kInPlace[] = {
    {4, 1},
};
}  // namespace decayed_linear_attention_row

namespace decayed_delta_rule_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"H", "heads", 0, kMostElements},
    {"K", "key width", 1, 1048576},
    {"V", "value width", 1, 1048576},
    {"G", "decays of a head", 1, 1048576},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[4]};
constexpr const Dimension* kInput3Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[5]};
constexpr const Dimension* kInput4Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput5Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput6Dims[] = {&kDimensions[0], &kDimensions[2], &kDimensions[3], &kDimensions[4]};
constexpr const Dimension* kInput7Dims[] = {&kDimensions[0]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[4]};
constexpr const Dimension* kOutput1Dims[] = {&kDimensions[0], &kDimensions[2], &kDimensions[3], &kDimensions[4]};
constexpr RowRange kInput7Rows = {
    .least = [](const Values&) {
      return Number(0_n);
    },
    .most = [](const Values& v) {
      return Number(v.size(1));
    },
    .words = [](const Values& v) {
      return sentence("from 0 to T = ", v.size(1));
    },
    .where = -1,
};
constexpr Port kInputs[] = {
    {"q", ElementType::kT, kInput0Dims},
    {"k", ElementType::kT, kInput1Dims},
    {"v", ElementType::kT, kInput2Dims},
    {"log_decay", ElementType::kT, kInput3Dims},
    {"a", ElementType::kT, kInput4Dims},
    {"b", ElementType::kT, kInput5Dims},
    {"state", ElementType::kFloat32, kInput6Dims},
    {"lengths", ElementType::kInt64, kInput7Dims, &kInput7Rows},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
    {"state_out", ElementType::kFloat32, kOutput1Dims},
};
constexpr const Dimension* kRule0Reads[] = {&kDimensions[3], &kDimensions[5]};
constexpr Rule kRules[] = {
    // G == 1 or G == K
    {.reads = kRule0Reads,
     .holds = [](const Values& v) {
      return bool((v.size(5) == 1_n) || (v.size(5) == v.size(3)));
    },
     .sentence = [](const Values& v) {
      return sentence("log_decay has ", v.size(5), " numbers for each head; it needs 1, or key width K = ", v.size(3));
    }},
};
constexpr InPlacePair kInPlace[] = {
    {6, 1},
};
}  // namespace decayed_delta_rule_row

namespace expert_matmul_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"D", "width", 0, kMostElements},
    {"H", "heads", 0, kMostElements},
    {"E", "experts", 0, kMostElements},
    {"f", "head width", 0, kMostElements},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[3], &kDimensions[4]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[3], &kDimensions[4], &kDimensions[2], &kDimensions[5]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[3], &kDimensions[5]};
constexpr Port kInputs[] = {
    {"x", ElementType::kT, kInput0Dims},
    {"logits", ElementType::kFloat32, kInput1Dims},
    {"weight", ElementType::kT, kInput2Dims},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
};
constexpr Attribute kAttributes[] = {
    {"k", AttributeType::kInt, 1, std::numeric_limits<std::int64_t>::max()},
};
constexpr const Dimension* kRule0Reads[] = {&kDimensions[3], &kDimensions[4]};
constexpr const Dimension* kRule1Reads[] = {&kDimensions[4]};
constexpr Rule kRules[] = {
    // max(H, 1)*E <= 4194304
    {.reads = kRule0Reads,
     .holds = [](const Values& v) {
      return bool((max_of(v.size(3), 1_n) * v.size(4)) <= 4194304_n);
    },
     .sentence = [](const Values&) {
      return sentence("the H heads must have at most 2^22 experts in all");
    }},
    // k <= E
    {.reads = kRule1Reads,
     .holds = [](const Values& v) {
      return bool(v.number(0) <= v.size(4));
    },
     .sentence = [](const Values& v) {
      return sentence("k = ", v.number(0), " exceeds the number of experts E = ", v.size(4));
    }},
};
}  // namespace expert_matmul_row

namespace expert_matmul_sum_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"H", "heads", 0, kMostElements},
    {"f", "head width", 0, kMostElements},
    {"E", "experts", 0, kMostElements},
    {"D", "width", 0, kMostElements},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[4]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[2], &kDimensions[4], &kDimensions[3], &kDimensions[5]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[5]};
constexpr Port kInputs[] = {
    {"x", ElementType::kT, kInput0Dims},
    {"logits", ElementType::kFloat32, kInput1Dims},
    {"weight", ElementType::kT, kInput2Dims},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
};
constexpr Attribute kAttributes[] = {
    {"k", AttributeType::kInt, 1, std::numeric_limits<std::int64_t>::max()},
};
constexpr const Dimension* kRule0Reads[] = {&kDimensions[2], &kDimensions[4]};
constexpr const Dimension* kRule1Reads[] = {&kDimensions[4]};
constexpr Rule kRules[] = {
    // max(H, 1)*E <= 4194304
    {.reads = kRule0Reads,
     .holds = [](const Values& v) {
      return bool((max_of(v.size(2), 1_n) * v.size(4)) <= 4194304_n);
    },
     .sentence = [](const Values&) {
      return sentence("the H heads must have at most 2^22 experts in all");
    }},
    // k <= E
    {.reads = kRule1Reads,
     .holds = [](const Values& v) {
      return bool(v.number(0) <= v.size(4));
    },
     .sentence = [](const Values& v) {
      return sentence("k = ", v.number(0), " exceeds the number of experts E = ", v.size(4));
    }},
};
}  // namespace expert_matmul_sum_row

namespace expert_mlp_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"D", "width of x", 0, kMostElements},
    {"E", "experts", 0, kMostElements},
    {"w", "width of an expert", 0, kMostElements},
    {"O", "width of y", 0, kMostElements},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[3]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[3], &kDimensions[2], &kDimensions[4]};
constexpr const Dimension* kInput3Dims[] = {&kDimensions[3], &kDimensions[4], &kDimensions[5]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[5]};
constexpr Port kInputs[] = {
    {"x", ElementType::kT, kInput0Dims},
    {"logits", ElementType::kFloat32, kInput1Dims},
    {"up", ElementType::kT, kInput2Dims},
    {"down", ElementType::kT, kInput3Dims},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
};
constexpr Attribute kAttributes[] = {
    {"k", AttributeType::kInt, 1, std::numeric_limits<std::int64_t>::max()},
    {"activation", AttributeType::kInt, 0, 2},
};
constexpr const Dimension* kRule0Reads[] = {&kDimensions[3]};
constexpr const Dimension* kRule1Reads[] = {&kDimensions[3]};
constexpr Rule kRules[] = {
    // E <= 4194304
    {.reads = kRule0Reads,
     .holds = [](const Values& v) {
      return bool(v.size(3) <= 4194304_n);
    },
     .sentence = [](const Values&) {
      return sentence("there must be at most 2^22 experts");
    }},
    // k <= E
    {.reads = kRule1Reads,
     .holds = [](const Values& v) {
      return bool(v.number(0) <= v.size(3));
    },
     .sentence = [](const Values& v) {
      return sentence("k = ", v.number(0), " exceeds the number of experts E = ", v.size(3));
    }},
};
}  // namespace expert_mlp_row

namespace quantized_expert_matmul_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"D", "width", 0, kMostElements},
    {"H", "heads", 0, kMostElements},
    {"E", "experts", 0, kMostElements},
    {"G", "blocks", 1, kMostElements},
    {"R", "bytes of a block", 1, kMostElements},
    {"f", "head width", 0, kMostElements},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[3], &kDimensions[4]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[3], &kDimensions[4], &kDimensions[5], &kDimensions[6], &kDimensions[7]};
constexpr const Dimension* kInput3Dims[] = {&kDimensions[3], &kDimensions[4], &kDimensions[5], &kDimensions[7]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[3], &kDimensions[7]};
constexpr Port kInputs[] = {
    {"x", ElementType::kT, kInput0Dims},
    {"logits", ElementType::kFloat32, kInput1Dims},
    {"weight", ElementType::kUInt8, kInput2Dims},
    {"scales", ElementType::kFloat32, kInput3Dims},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
};
constexpr Attribute kAttributes[] = {
    {"k", AttributeType::kInt, 1, std::numeric_limits<std::int64_t>::max()},
    {"per_byte", AttributeType::kInt, 1, 2},
};
constexpr const Dimension* kRule0Reads[] = {&kDimensions[3], &kDimensions[4]};
constexpr const Dimension* kRule1Reads[] = {&kDimensions[4]};
constexpr const Dimension* kRule2Reads[] = {&kDimensions[2], &kDimensions[5], &kDimensions[6]};
constexpr Rule kRules[] = {
    // max(H, 1)*E <= 4194304
    {.reads = kRule0Reads,
     .holds = [](const Values& v) {
      return bool((max_of(v.size(3), 1_n) * v.size(4)) <= 4194304_n);
    },
     .sentence = [](const Values&) {
      return sentence("the H heads must have at most 2^22 experts in all");
    }},
    // k <= E
    {.reads = kRule1Reads,
     .holds = [](const Values& v) {
      return bool(v.number(0) <= v.size(4));
    },
     .sentence = [](const Values& v) {
      return sentence("k = ", v.number(0), " exceeds the number of experts E = ", v.size(4));
    }},
    // D == G*R*per_byte
    {.reads = kRule2Reads,
     .holds = [](const Values& v) {
      return bool(v.size(2) == ((v.size(5) * v.size(6)) * v.number(1)));
    },
     .sentence = [](const Values& v) {
      return sentence("weight's ", v.size(5), " blocks of ", v.size(6), " bytes must hold the ", v.size(2),
                      " rows of a matrix");
    }},
};
}  // namespace quantized_expert_matmul_row

namespace quantized_expert_matmul_sum_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"H", "heads", 0, kMostElements},
    {"f", "head width", 0, kMostElements},
    {"E", "experts", 0, kMostElements},
    {"G", "blocks", 1, kMostElements},
    {"R", "bytes of a block", 1, kMostElements},
    {"D", "width", 0, kMostElements},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[4]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[2], &kDimensions[4], &kDimensions[5], &kDimensions[6], &kDimensions[7]};
constexpr const Dimension* kInput3Dims[] = {&kDimensions[2], &kDimensions[4], &kDimensions[5], &kDimensions[7]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[7]};
constexpr Port kInputs[] = {
    {"x", ElementType::kT, kInput0Dims},
    {"logits", ElementType::kFloat32, kInput1Dims},
    {"weight", ElementType::kUInt8, kInput2Dims},
    {"scales", ElementType::kFloat32, kInput3Dims},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
};
constexpr Attribute kAttributes[] = {
    {"k", AttributeType::kInt, 1, std::numeric_limits<std::int64_t>::max()},
    {"per_byte", AttributeType::kInt, 1, 2},
};
constexpr const Dimension* kRule0Reads[] = {&kDimensions[2], &kDimensions[4]};
constexpr const Dimension* kRule1Reads[] = {&kDimensions[4]};
constexpr const Dimension* kRule2Reads[] = {&kDimensions[3], &kDimensions[5], &kDimensions[6]};
constexpr Rule kRules[] = {
    // max(H, 1)*E <= 4194304
    {.reads = kRule0Reads,
     .holds = [](const Values& v) {
      return bool((max_of(v.size(2), 1_n) * v.size(4)) <= 4194304_n);
    },
     .sentence = [](const Values&) {
      return sentence("the H heads must have at most 2^22 experts in all");
    }},
    // k <= E
    {.reads = kRule1Reads,
     .holds = [](const Values& v) {
      return bool(v.number(0) <= v.size(4));
    },
     .sentence = [](const Values& v) {
      return sentence("k = ", v.number(0), " exceeds the number of experts E = ", v.size(4));
    }},
    // f == G*R*per_byte
    {.reads = kRule2Reads,
     .holds = [](const Values& v) {
      return bool(v.size(3) == ((v.size(5) * v.size(6)) * v.number(1)));
    },
     .sentence = [](const Values& v) {
      return sentence("weight's ", v.size(5), " blocks of ", v.size(6), " bytes must hold the ", v.size(3),
                      " rows of a matrix");
    }},
};
}  // namespace quantized_expert_matmul_sum_row

namespace token_shift_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"D", "width", 0, kMostElements},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2]};
constexpr Port kInputs[] = {
    {"x", ElementType::kT, kInput0Dims},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
};
constexpr Attribute kAttributes[] = {
    {"shifts", AttributeType::kInts, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()},
};
constexpr const Dimension* kRule0Reads[] = {&kDimensions[2]};
constexpr Rule kRules[] = {
    // D % len(shifts) == 0
    {.reads = kRule0Reads,
     .holds = [](const Values& v) {
      return bool((v.size(2) % len_of(v.list(0))) == 0_n);
    },
     .sentence = [](const Values& v) {
      return sentence("width D = ", v.size(2), " does not split into ", len_of(v.list(0)),
                      " equal groups, one per shift");
    }},
};
}  // namespace token_shift_row

namespace token_shift_cached_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"D", "width", 0, kMostElements},
    {"R", "rows of the ring", 1, kMostElements},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[0], &kDimensions[3], &kDimensions[2]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[0]};
constexpr const Dimension* kInput3Dims[] = {&kDimensions[0]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2]};
constexpr const Dimension* kOutput1Dims[] = {&kDimensions[0], &kDimensions[3], &kDimensions[2]};
constexpr RowRange kInput2Rows = {
    .least = [](const Values&) {
      return Number(0_n);
    },
    .most = [](const Values& v) {
      return Number(9223372036854775807_n - v.size(1));
    },
    .words = [](const Values&) {
      return sentence("from 0 to 2^63 - 1 - T");
    },
    .where = 3,
};
constexpr RowRange kInput3Rows = {
    .least = [](const Values&) {
      return Number(0_n);
    },
    .most = [](const Values& v) {
      return Number(v.size(1));
    },
    .words = [](const Values& v) {
      return sentence("from 0 to T = ", v.size(1));
    },
    .where = -1,
};
constexpr Port kInputs[] = {
    {"x", ElementType::kT, kInput0Dims},
    {"ring", ElementType::kT, kInput1Dims},
    {"position", ElementType::kInt64, kInput2Dims, &kInput2Rows},
    {"lengths", ElementType::kInt64, kInput3Dims, &kInput3Rows},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
    {"ring_out", ElementType::kT, kOutput1Dims},
};
constexpr Attribute kAttributes[] = {
    {"shifts", AttributeType::kInts, 0, std::numeric_limits<std::int64_t>::max()},
};
constexpr const Dimension* kRule0Reads[] = {&kDimensions[2]};
constexpr const Dimension* kRule1Reads[] = {&kDimensions[3]};
constexpr Rule kRules[] = {
    // D % len(shifts) == 0
    {.reads = kRule0Reads,
     .holds = [](const Values& v) {
      return bool((v.size(2) % len_of(v.list(0))) == 0_n);
    },
     .sentence = [](const Values& v) {
      return sentence("width D = ", v.size(2), " does not split into ", len_of(v.list(0)),
                      " equal groups, one per shift");
    }},
    // R >= max(shifts)
    {.reads = kRule1Reads,
     .holds = [](const Values& v) {
      return bool(v.size(3) >= max_of(v.list(0)));
    },
     .sentence = [](const Values& v) {
      return sentence("the ring holds R = ", v.size(3), " rows, fewer than the largest shift ", max_of(v.list(0)));
    }},
};
constexpr InPlacePair kInPlace[] = {
    {1, 1},
};
}  // namespace token_shift_cached_row

namespace shift_mix_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"D", "width", 0, kMostElements},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[2]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[2]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2]};
constexpr Port kInputs[] = {
    {"x", ElementType::kT, kInput0Dims},
    {"alpha", ElementType::kT, kInput1Dims},
    {"beta", ElementType::kT, kInput2Dims},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
};
constexpr Attribute kAttributes[] = {
    {"shifts", AttributeType::kInts, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()},
};
constexpr const Dimension* kRule0Reads[] = {&kDimensions[2]};
constexpr Rule kRules[] = {
    // D % len(shifts) == 0
    {.reads = kRule0Reads,
     .holds = [](const Values& v) {
      return bool((v.size(2) % len_of(v.list(0))) == 0_n);
    },
     .sentence = [](const Values& v) {
      return sentence("width D = ", v.size(2), " does not split into ", len_of(v.list(0)),
                      " equal groups, one per shift");
    }},
};
}  // namespace shift_mix_row

namespace shift_mix_cached_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"D", "width", 0, kMostElements},
    {"R", "rows of the ring", 1, kMostElements},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[2]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[2]};
constexpr const Dimension* kInput3Dims[] = {&kDimensions[0], &kDimensions[3], &kDimensions[2]};
constexpr const Dimension* kInput4Dims[] = {&kDimensions[0]};
constexpr const Dimension* kInput5Dims[] = {&kDimensions[0]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2]};
constexpr const Dimension* kOutput1Dims[] = {&kDimensions[0], &kDimensions[3], &kDimensions[2]};
constexpr RowRange kInput4Rows = {
    .least = [](const Values&) {
      return Number(0_n);
    },
    .most = [](const Values& v) {
      return Number(9223372036854775807_n - v.size(1));
    },
    .words = [](const Values&) {
      return sentence("from 0 to 2^63 - 1 - T");
    },
    .where = 5,
};
constexpr RowRange kInput5Rows = {
    .least = [](const Values&) {
      return Number(0_n);
    },
    .most = [](const Values& v) {
      return Number(v.size(1));
    },
    .words = [](const Values& v) {
      return sentence("from 0 to T = ", v.size(1));
    },
    .where = -1,
};
constexpr Port kInputs[] = {
    {"x", ElementType::kT, kInput0Dims},
    {"alpha", ElementType::kT, kInput1Dims},
    {"beta", ElementType::kT, kInput2Dims},
    {"ring", ElementType::kT, kInput3Dims},
    {"position", ElementType::kInt64, kInput4Dims, &kInput4Rows},
    {"lengths", ElementType::kInt64, kInput5Dims, &kInput5Rows},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
    {"ring_out", ElementType::kT, kOutput1Dims},
};
constexpr Attribute kAttributes[] = {
    {"shifts", AttributeType::kInts, 0, std::numeric_limits<std::int64_t>::max()},
};
constexpr const Dimension* kRule0Reads[] = {&kDimensions[2]};
constexpr const Dimension* kRule1Reads[] = {&kDimensions[3]};
constexpr Rule kRules[] = {
    // D % len(shifts) == 0
    {.reads = kRule0Reads,
     .holds = [](const Values& v) {
      return bool((v.size(2) % len_of(v.list(0))) == 0_n);
    },
     .sentence = [](const Values& v) {
      return sentence("width D = ", v.size(2), " does not split into ", len_of(v.list(0)),
                      " equal groups, one per shift");
    }},
    // R >= max(shifts)
    {.reads = kRule1Reads,
     .holds = [](const Values& v) {
      return bool(v.size(3) >= max_of(v.list(0)));
    },
     .sentence = [](const Values& v) {
      return sentence("the ring holds R = ", v.size(3), " rows, fewer than the largest shift ", max_of(v.list(0)));
    }},
};
constexpr InPlacePair kInPlace[] = {
    {3, 1},
};
}  // namespace shift_mix_cached_row

namespace taylor_shift_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"H", "heads", 0, kMostElements},
    {"d", "head width", 1, 1048576},
    {"e", "value width", 1, 1048576},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[4]};
constexpr const Dimension* kInput3Dims[] = {&kDimensions[2]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[4]};
constexpr Port kInputs[] = {
    {"q", ElementType::kT, kInput0Dims},
    {"k", ElementType::kT, kInput1Dims},
    {"v", ElementType::kT, kInput2Dims},
    {"temperature", ElementType::kT, kInput3Dims},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
};
constexpr Attribute kAttributes[] = {
    {"normalize", AttributeType::kInt, 0, 1},
    {"output_norm", AttributeType::kInt, 0, 1},
};
}  // namespace taylor_shift_row

namespace taylor_shift_masked_row {
constexpr Dimension kDimensions[] = {
    {"B", "rows", 0, kMostElements},
    {"T", "tokens", 0, kMostElements},
    {"H", "heads", 0, kMostElements},
    {"d", "head width", 1, 1048576},
    {"e", "value width", 1, 1048576},
};
constexpr const Dimension* kInput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput1Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[3]};
constexpr const Dimension* kInput2Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[4]};
constexpr const Dimension* kInput3Dims[] = {&kDimensions[2]};
constexpr const Dimension* kInput4Dims[] = {&kDimensions[0]};
constexpr const Dimension* kOutput0Dims[] = {&kDimensions[0], &kDimensions[1], &kDimensions[2], &kDimensions[4]};
constexpr RowRange kInput4Rows = {
    .least = [](const Values&) {
      return Number(1_n);
    },
    .most = [](const Values& v) {
      return Number(v.size(1));
    },
    .words = [](const Values& v) {
      return sentence("from 1 to T = ", v.size(1));
    },
    .where = -1,
};
constexpr Port kInputs[] = {
    {"q", ElementType::kT, kInput0Dims},
    {"k", ElementType::kT, kInput1Dims},
    {"v", ElementType::kT, kInput2Dims},
    {"temperature", ElementType::kT, kInput3Dims},
    {"lengths", ElementType::kInt64, kInput4Dims, &kInput4Rows},
};
constexpr Port kOutputs[] = {
    {"y", ElementType::kT, kOutput0Dims},
};
constexpr Attribute kAttributes[] = {
    {"normalize", AttributeType::kInt, 0, 1},
    {"output_norm", AttributeType::kInt, 0, 1},
};
}  // namespace taylor_shift_masked_row

constexpr Operator kOperators[] = {
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "Attention",
     .dimensions = attention_row::kDimensions,
     .inputs = attention_row::kInputs,
     .outputs = attention_row::kOutputs,
     .attributes = attention_row::kAttributes,
     .rules = attention_row::kRules},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "AttentionCached",
     .dimensions = attention_cached_row::kDimensions,
     .inputs = attention_cached_row::kInputs,
     .outputs = attention_cached_row::kOutputs,
     .attributes = attention_cached_row::kAttributes,
     .rules = attention_cached_row::kRules,
     .in_place = attention_cached_row::kInPlace,
     .list_in_place = list_in_place<attention_cached_row::kInPlace>},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "WindowAttentionCached",
     .dimensions = window_attention_cached_row::kDimensions,
     .inputs = window_attention_cached_row::kInputs,
     .outputs = window_attention_cached_row::kOutputs,
     .attributes = window_attention_cached_row::kAttributes,
     .rules = window_attention_cached_row::kRules,
     .in_place = window_attention_cached_row::kInPlace,
     .list_in_place = list_in_place<window_attention_cached_row::kInPlace>},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "RelativeAttention",
     .dimensions = relative_attention_row::kDimensions,
     .inputs = relative_attention_row::kInputs,
     .outputs = relative_attention_row::kOutputs,
     .attributes = relative_attention_row::kAttributes,
     .rules = relative_attention_row::kRules},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "RelativeAttentionCached",
     .dimensions = relative_attention_cached_row::kDimensions,
     .inputs = relative_attention_cached_row::kInputs,
     .outputs = relative_attention_cached_row::kOutputs,
     .attributes = relative_attention_cached_row::kAttributes,
     .rules = relative_attention_cached_row::kRules,
     .in_place = relative_attention_cached_row::kInPlace,
     .list_in_place = list_in_place<relative_attention_cached_row::kInPlace>},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "WindowRelativeAttentionCached",
     .dimensions = window_relative_attention_cached_row::kDimensions,
     .inputs = window_relative_attention_cached_row::kInputs,
     .outputs = window_relative_attention_cached_row::kOutputs,
     .attributes = window_relative_attention_cached_row::kAttributes,
     .rules = window_relative_attention_cached_row::kRules,
     .in_place = window_relative_attention_cached_row::kInPlace,
     .list_in_place = list_in_place<window_relative_attention_cached_row::kInPlace>},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "CausalTaylorShift",
     .dimensions = causal_taylor_shift_row::kDimensions,
     .inputs = causal_taylor_shift_row::kInputs,
     .outputs = causal_taylor_shift_row::kOutputs,
     .attributes = causal_taylor_shift_row::kAttributes,
     .rules = causal_taylor_shift_row::kRules,
     .in_place = causal_taylor_shift_row::kInPlace,
     .list_in_place = list_in_place<causal_taylor_shift_row::kInPlace>},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "DecayedLinearAttention",
     .dimensions = decayed_linear_attention_row::kDimensions,
     .inputs = decayed_linear_attention_row::kInputs,
     .outputs = decayed_linear_attention_row::kOutputs,
     .attributes = decayed_linear_attention_row::kAttributes,
     .rules = decayed_linear_attention_row::kRules,
     .in_place = decayed_linear_attention_row::kInPlace,
     .list_in_place = list_in_place<decayed_linear_attention_row::kInPlace>},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "DecayedDeltaRule",
     .dimensions = decayed_delta_rule_row::kDimensions,
     .inputs = decayed_delta_rule_row::kInputs,
     .outputs = decayed_delta_rule_row::kOutputs,
     .rules = decayed_delta_rule_row::kRules,
     .in_place = decayed_delta_rule_row::kInPlace,
     .list_in_place = list_in_place<decayed_delta_rule_row::kInPlace>},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "ExpertMatMul",
     .dimensions = expert_matmul_row::kDimensions,
     .inputs = expert_matmul_row::kInputs,
     .outputs = expert_matmul_row::kOutputs,
     .attributes = expert_matmul_row::kAttributes,
     .rules = expert_matmul_row::kRules},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "ExpertMatMulSum",
     .dimensions = expert_matmul_sum_row::kDimensions,
     .inputs = expert_matmul_sum_row::kInputs,
     .outputs = expert_matmul_sum_row::kOutputs,
     .attributes = expert_matmul_sum_row::kAttributes,
     .rules = expert_matmul_sum_row::kRules},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "ExpertMLP",
     .dimensions = expert_mlp_row::kDimensions,
     .inputs = expert_mlp_row::kInputs,
     .outputs = expert_mlp_row::kOutputs,
     .attributes = expert_mlp_row::kAttributes,
     .rules = expert_mlp_row::kRules},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "QuantizedExpertMatMul",
     .dimensions = quantized_expert_matmul_row::kDimensions,
     .inputs = quantized_expert_matmul_row::kInputs,
     .outputs = quantized_expert_matmul_row::kOutputs,
     .attributes = quantized_expert_matmul_row::kAttributes,
     .rules = quantized_expert_matmul_row::kRules},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "QuantizedExpertMatMulSum",
     .dimensions = quantized_expert_matmul_sum_row::kDimensions,
     .inputs = quantized_expert_matmul_sum_row::kInputs,
     .outputs = quantized_expert_matmul_sum_row::kOutputs,
     .attributes = quantized_expert_matmul_sum_row::kAttributes,
     .rules = quantized_expert_matmul_sum_row::kRules},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "TokenShift",
     .dimensions = token_shift_row::kDimensions,
     .inputs = token_shift_row::kInputs,
     .outputs = token_shift_row::kOutputs,
     .attributes = token_shift_row::kAttributes,
     .rules = token_shift_row::kRules},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "TokenShiftCached",
     .dimensions = token_shift_cached_row::kDimensions,
     .inputs = token_shift_cached_row::kInputs,
     .outputs = token_shift_cached_row::kOutputs,
     .attributes = token_shift_cached_row::kAttributes,
     .rules = token_shift_cached_row::kRules,
     .in_place = token_shift_cached_row::kInPlace,
     .list_in_place = list_in_place<token_shift_cached_row::kInPlace>},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "ShiftMix",
     .dimensions = shift_mix_row::kDimensions,
     .inputs = shift_mix_row::kInputs,
     .outputs = shift_mix_row::kOutputs,
     .attributes = shift_mix_row::kAttributes,
     .rules = shift_mix_row::kRules},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "ShiftMixCached",
     .dimensions = shift_mix_cached_row::kDimensions,
     .inputs = shift_mix_cached_row::kInputs,
     .outputs = shift_mix_cached_row::kOutputs,
     .attributes = shift_mix_cached_row::kAttributes,
     .rules = shift_mix_cached_row::kRules,
     .in_place = shift_mix_cached_row::kInPlace,
     .list_in_place = list_in_place<shift_mix_cached_row::kInPlace>},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "TaylorShift",
     .dimensions = taylor_shift_row::kDimensions,
     .inputs = taylor_shift_row::kInputs,
     .outputs = taylor_shift_row::kOutputs,
     .attributes = taylor_shift_row::kAttributes},
    {.domain = "hsm",
     .version = 2,
     .plugin_version = "1",
     .name = "TaylorShiftMasked",
     .dimensions = taylor_shift_masked_row::kDimensions,
     .inputs = taylor_shift_masked_row::kInputs,
     .outputs = taylor_shift_masked_row::kOutputs,
     .attributes = taylor_shift_masked_row::kAttributes},
};

}  // namespace

std::span<const Operator> operators() { return kOperators; }

}  // namespace hsm::opset
