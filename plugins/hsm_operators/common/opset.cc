#include "hsm_operators/common/opset.h"

#include <algorithm>
#include <limits>
#include <map>

namespace hsm::opset {
namespace {

using enum ElementType;
using enum AttributeType;

constexpr Port kX{"x", kT, "BTD"};
constexpr Port kAlpha{"alpha", kT, "D"};
constexpr Port kBeta{"beta", kT, "D"};
constexpr Port kRing{"ring", kT, "BRD"};
constexpr Port kPosition{"position", kInt64, "B"};
constexpr Port kLengths{"lengths", kInt64, "B"};
constexpr Port kQ{"q", kT, "BTHd"};
constexpr Port kK{"k", kT, "BTHd"};
constexpr Port kV{"v", kT, "BTHd"};
constexpr Port kTemperature{"temperature", kT, "H"};
constexpr Port kState{"state", kFloat32, "BHFd"};
constexpr Port kNorm{"norm", kFloat32, "BHF"};
constexpr Port kLogits{"logits", kFloat32, "BTHE"};

constexpr Port kModelOutput[] = {{"y", kT, "BTD"}};
constexpr Port kHeadOutput[] = {{"y", kT, "BTHd"}};
constexpr Port kCachedOutputs[] = {{"y", kT, "BTD"}, {"ring_out", kT, "BRD"}};
constexpr Port kCausalOutputs[] = {{"y", kT, "BTHd"}, {"state_out", kFloat32, "BHFd"}, {"norm_out", kFloat32, "BHF"}};
constexpr Port kExpertOutput[] = {{"y", kT, "BTHf"}};

constexpr Port kTokenShift[] = {kX};
constexpr Port kShiftMix[] = {kX, kAlpha, kBeta};
constexpr Port kTokenShiftCached[] = {kX, kRing, kPosition, kLengths};
constexpr Port kShiftMixCached[] = {kX, kAlpha, kBeta, kRing, kPosition, kLengths};
constexpr Port kTaylorShift[] = {kQ, kK, kV, kTemperature};
constexpr Port kTaylorShiftMasked[] = {kQ, kK, kV, kTemperature, kLengths};
constexpr Port kCausalTaylorShift[] = {kQ, kK, kV, kTemperature, kState, kNorm, kLengths};
constexpr Port kExpertMatMul[] = {kX, kLogits, {"weight", kT, "HEDf"}};
constexpr Port kExpertMatMulSum[] = {{"x", kT, "BTHf"}, kLogits, {"weight", kT, "HEfD"}};

constexpr Attribute kShifts[] = {{"shifts", kInts}};
constexpr Attribute kNormalize[] = {{"normalize", kInt}};
constexpr Attribute kNormalizeBoth[] = {{"normalize", kInt}, {"output_norm", kInt}};
constexpr Attribute kActive[] = {{"k", kInt}};

constexpr Operator kOperators[] = {
    {"TokenShift", kTokenShift, kModelOutput, kShifts},
    {"ShiftMix", kShiftMix, kModelOutput, kShifts},
    {"TokenShiftCached", kTokenShiftCached, kCachedOutputs, kShifts},
    {"ShiftMixCached", kShiftMixCached, kCachedOutputs, kShifts},
    {"TaylorShift", kTaylorShift, kHeadOutput, kNormalizeBoth},
    {"TaylorShiftMasked", kTaylorShiftMasked, kHeadOutput, kNormalizeBoth},
    {"CausalTaylorShift", kCausalTaylorShift, kCausalOutputs, kNormalize},
    {"ExpertMatMul", kExpertMatMul, kExpertOutput, kActive},
    {"ExpertMatMulSum", kExpertMatMulSum, kModelOutput, kActive},
};

// Sizes by letter; a negative size is unknown.
using Sizes = std::map<char, std::int64_t>;

std::string joined(std::string_view dims) {
  std::string text = "(";
  for (const char letter : dims) {
    if (text.size() > 1) text += ',';
    text += letter;
  }
  text += ')';
  return text;
}

std::string of(const Operator& op, const Port& port) {
  return std::string(op.name) + ": input " + std::string(port.name);
}

std::optional<std::string> bind(const Operator& op, const Port& port, const Shape& shape, Sizes& sizes) {
  if (shape.size() != port.dims.size()) {
    return of(op, port) + " must have " + std::to_string(port.dims.size()) + " dimensions " + joined(port.dims) +
           ", got " + std::to_string(shape.size());
  }
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    std::int64_t& size = sizes.try_emplace(port.dims[axis], -1).first->second;
    if (shape[axis] < 0) continue;
    if (size >= 0 && size != shape[axis]) {
      return of(op, port) + " has size " + std::to_string(shape[axis]) + " in dimension " + port.dims[axis] + " of " +
             joined(port.dims) + ", but another input has " + std::to_string(size);
    }
    size = shape[axis];
  }
  return std::nullopt;
}

std::span<const std::int64_t> value_of(std::span<const AttributeValue> values, std::string_view name) {
  for (const AttributeValue& value : values) {
    if (value.name == name) return value.ints;
  }
  return {};
}

// Sizes up to which no product that a kernel forms of them leaves 63 bits, not even in bytes or padded to vectors.
constexpr std::int64_t kMaxElements = std::int64_t{1} << 59;
constexpr std::int64_t kMaxHeadWidth = std::int64_t{1} << 20;
constexpr std::int64_t kMaxExperts = std::int64_t{1} << 22;

// Returns the product of the known sizes that are not 0, or `limit` + 1 when it exceeds `limit`.
std::int64_t extent(std::string_view dims, const Sizes& sizes, std::int64_t limit) {
  std::int64_t product = 1;
  for (const char letter : dims) {
    const auto found = sizes.find(letter);
    if (found == sizes.end() || found->second <= 0) continue;
    if (found->second > limit / product) return limit + 1;
    product *= found->second;
  }
  return product;
}

// Refuses sizes that no memory holds: even of an empty tensor, because the products of its sizes must not overflow.
std::optional<std::string> check_extents(const Operator& op, const Sizes& sizes) {
  const std::string name(op.name);
  if (const auto d = sizes.find('d'); d != sizes.end() && (d->second == 0 || d->second > kMaxHeadWidth)) {
    return name + ": head width d must be from 1 to 2^20, got " + std::to_string(d->second);
  }
  if (sizes.contains('E') && extent("HE", sizes, kMaxExperts) > kMaxExperts) {
    return name + ": the H heads must have at most 2^22 experts in all";
  }
  for (const std::span<const Port> ports : {op.inputs, op.outputs}) {
    for (const Port& port : ports) {
      if (extent(port.dims, sizes, kMaxElements) > kMaxElements) {
        return name + ": the sizes " + joined(port.dims) + " of " + std::string(port.name) +
               " multiply to more than 2^59";
      }
    }
  }
  return std::nullopt;
}

// What the letters alone cannot say.
std::optional<std::string> check_sizes(const Operator& op, std::span<const AttributeValue> values, const Sizes& sizes) {
  const auto size = [&](char letter) {
    const auto found = sizes.find(letter);
    return found == sizes.end() ? std::int64_t{-1} : found->second;
  };
  const std::string name(op.name);
  if (const auto shifts = value_of(values, "shifts"); !shifts.empty()) {
    const auto groups = static_cast<std::int64_t>(shifts.size());
    if (size('D') >= 0 && size('D') % groups != 0) {
      return name + ": width D = " + std::to_string(size('D')) + " does not split into " + std::to_string(groups) +
             " equal groups, one per shift";
    }
    const std::int64_t largest = *std::ranges::max_element(shifts);
    if (size('R') >= 0 && size('R') < largest) {
      return name + ": the ring holds R = " + std::to_string(size('R')) + " rows, fewer than the largest shift " +
             std::to_string(largest);
    }
  }
  if (const std::int64_t d = size('d'); size('F') >= 0 && d >= 0 && size('F') != 1 + d + d * (d + 1) / 2) {
    return name + ": state has F = " + std::to_string(size('F')) +
           " features, but head width d = " + std::to_string(d) +
           " needs 1 + d + d(d+1)/2 = " + std::to_string(1 + d + d * (d + 1) / 2);
  }
  if (const auto k = value_of(values, "k"); !k.empty() && size('E') >= 0 && k.front() > size('E')) {
    return name + ": k = " + std::to_string(k.front()) +
           " exceeds the number of experts E = " + std::to_string(size('E'));
  }
  return std::nullopt;
}

std::optional<std::string> check_value(const std::string& where, std::string_view name,
                                       std::span<const std::int64_t> ints) {
  if (name == "shifts") {
    if (ints.empty()) return where + " must be a list of at least one integer";
    for (const std::int64_t shift : ints) {
      if (shift < 1) return where + " must be at least 1, got " + std::to_string(shift);
    }
  } else if (name == "k") {
    if (ints.front() < 1) return where + " must be at least 1, got " + std::to_string(ints.front());
  } else if (ints.front() != 0 && ints.front() != 1) {
    return where + " must be 0 or 1, got " + std::to_string(ints.front());
  }
  return std::nullopt;
}

// Returns the values of the int64 input of that name, one per row; empty when the operator has none.
std::span<const std::int64_t> rows_of(const Operator& op, std::string_view name, std::span<const Shape> shapes,
                                      std::span<const void* const> inputs) {
  const auto found = std::ranges::find(op.inputs, name, &Port::name);
  if (found == op.inputs.end()) return {};
  const auto index = static_cast<std::size_t>(found - op.inputs.begin());
  return {static_cast<const std::int64_t*>(inputs[index]), static_cast<std::size_t>(shapes[index].front())};
}

}  // namespace

std::span<const Operator> operators() { return kOperators; }

const Operator* find(std::string_view name) {
  const auto found = std::ranges::find(kOperators, name, &Operator::name);
  return found == std::end(kOperators) ? nullptr : &*found;
}

std::optional<std::string> check_attributes(const Operator& op, std::span<const AttributeValue> values) {
  for (const Attribute& attribute : op.attributes) {
    const std::string where = std::string(op.name) + ": attribute " + std::string(attribute.name);
    const auto found = std::ranges::find(values, attribute.name, &AttributeValue::name);
    if (found == values.end()) return where + " is missing";
    if (attribute.type == kInt && found->ints.size() != 1) return where + " must be a single integer";
    if (auto problem = check_value(where, attribute.name, found->ints)) return problem;
  }
  return std::nullopt;
}

std::optional<std::string> infer_shapes(const Operator& op, std::span<const AttributeValue> values,
                                        std::span<const Shape> inputs, std::vector<Shape>& outputs) {
  if (inputs.size() != op.inputs.size()) {
    return std::string(op.name) + " takes " + std::to_string(op.inputs.size()) + " inputs, got " +
           std::to_string(inputs.size());
  }
  Sizes sizes;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (auto problem = bind(op, op.inputs[i], inputs[i], sizes)) return problem;
  }
  if (auto problem = check_extents(op, sizes)) return problem;
  if (auto problem = check_sizes(op, values, sizes)) return problem;
  outputs.clear();
  for (const Port& port : op.outputs) {
    Shape shape;
    for (const char letter : port.dims) shape.push_back(sizes.at(letter));
    outputs.push_back(std::move(shape));
  }
  return std::nullopt;
}

std::optional<std::string> check_rows(const Operator& op, std::span<const Shape> shapes,
                                      std::span<const void* const> inputs) {
  const auto lengths = rows_of(op, kLengths.name, shapes, inputs);
  const auto position = rows_of(op, kPosition.name, shapes, inputs);
  const auto refusal = [&](const Port& port, std::size_t row, std::int64_t value, const std::string& range) {
    return of(op, port) + " is " + std::to_string(value) + " in row " + std::to_string(row) + ", but must be " + range;
  };
  for (std::size_t row = 0; row < lengths.size(); ++row) {
    const std::int64_t tokens = shapes.front()[1];
    if (lengths[row] < 0 || lengths[row] > tokens) {
      return refusal(kLengths, row, lengths[row], "from 0 to T = " + std::to_string(tokens));
    }
    const std::int64_t last = std::numeric_limits<std::int64_t>::max() - tokens;
    if (!position.empty() && lengths[row] > 0 && (position[row] < 0 || position[row] > last)) {
      return refusal(kPosition, row, position[row], "from 0 to 2^63 - 1 - T");
    }
  }
  return std::nullopt;
}

}  // namespace hsm::opset
