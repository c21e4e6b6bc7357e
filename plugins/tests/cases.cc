#include "tests/cases.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace hsm::testing {
namespace {

constexpr std::int64_t kWidestRange = 300;

}  // namespace

const Case& small_case(const opset::Operator& op) {
  const Case* found = opset::row_of(small_cases(), op);
  if (found == nullptr) throw std::logic_error(std::string(op.name) + ": SMALL in its cases.py does not have it");
  return *found;
}

Sizes small_sizes(const opset::Operator& op, std::int64_t batch, std::int64_t length) {
  const Case& small = small_case(op);
  Sizes sizes = small.sizes;
  sizes["B"] = batch;
  sizes["T"] = length;
  adjust(op, small.attributes, sizes);
  return sizes;
}

opset::Shape shape_of(const opset::Port& port, const Sizes& sizes) {
  opset::Shape shape;
  for (const opset::Dimension* dim : port.dims) shape.push_back(sizes.at(dim->name));
  return shape;
}

DType type_of(const opset::Port& port, DType t) {
  if (port.type == opset::ElementType::kFloat32) return DType::kFloat32;
  if (port.type == opset::ElementType::kUInt8) return DType::kUInt8;
  return port.type == opset::ElementType::kInt64 ? DType::kInt64 : t;
}

std::vector<std::int64_t> in_order(const opset::Operator& op, const Sizes& sizes) {
  std::vector<std::int64_t> ordered;
  for (const opset::Dimension& dim : op.dimensions) ordered.push_back(sizes.at(dim.name));
  return ordered;
}

void adjust(const opset::Operator& op, std::span<const opset::AttributeValue> attributes, Sizes& sizes) {
  for (const Adjustment& adjustment : opset::row_of(facts(), op)->adjustments) {
    const std::vector<std::int64_t> ordered = in_order(op, sizes);
    sizes[op.dimensions[adjustment.dimension].name] = adjustment.value(opset::Values(ordered, attributes)).clamped();
  }
}

double flops_of(const opset::Operator& op, std::span<const opset::AttributeValue> attributes, const Sizes& sizes) {
  const std::vector<std::int64_t> ordered = in_order(op, sizes);
  return static_cast<double>(opset::row_of(facts(), op)->flops(opset::Values(ordered, attributes)).clamped());
}

std::pair<std::int64_t, std::int64_t> row_range(const opset::Operator& op, const opset::Port& port,
                                                std::span<const opset::AttributeValue> attributes, const Sizes& sizes) {
  if (port.rows == nullptr) return {0, kWidestRange};
  const std::vector<std::int64_t> ordered = in_order(op, sizes);
  const opset::Values values(ordered, attributes);
  const std::int64_t least = port.rows->least(values).clamped();
  return {least, std::min(port.rows->most(values).clamped(), least + kWidestRange)};
}

void draw(const opset::Operator& op, std::size_t input, const opset::Shape& shape, std::mt19937& random,
          const std::function<void(std::size_t, double)>& set) {
  std::size_t count = 1;
  for (const std::int64_t size : shape) count *= static_cast<std::size_t>(size);
  const Case& small = small_case(op);
  if (const auto start = std::ranges::find(small.starts, input, &Start::input); start != small.starts.end()) {
    const auto width = static_cast<std::size_t>(shape.back());
    for (std::size_t i = 0; i < count; ++i) set(i, i % width == 0 ? start->first : 0.0);
    return;
  }
  std::normal_distribution<double> normal;
  const auto range = std::ranges::find(small.ranges, input, &Range::input);
  const bool is_bound = range != small.ranges.end();
  std::uniform_real_distribution<double> between(is_bound ? range->least : 0, is_bound ? range->most : 1);
  for (std::size_t i = 0; i < count; ++i) set(i, is_bound ? between(random) : normal(random));
}

std::size_t valid_elements(const opset::Operator& op, std::size_t output, const opset::Shape& shape,
                           std::span<const void* const> inputs, std::size_t row) {
  std::size_t elements = 1;
  for (const std::int64_t size : std::span(shape).subspan(1)) elements *= static_cast<std::size_t>(size);
  const auto dims = op.outputs[output].dims;
  const auto lengths = std::ranges::find(op.inputs, "lengths", &opset::Port::name);
  if (elements == 0 || dims.size() < 2 || dims[1]->name != "T" || lengths == op.inputs.end()) return elements;
  const auto* valid = static_cast<const std::int64_t*>(inputs[static_cast<std::size_t>(lengths - op.inputs.begin())]);
  return elements / static_cast<std::size_t>(shape[1]) * static_cast<std::size_t>(valid[row]);
}

}  // namespace hsm::testing
