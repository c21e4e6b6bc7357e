#include "hsm_operators/common/opset.h"

#include <bit>
#include <limits>

namespace hsm::opset {
namespace {

constexpr std::int64_t kLeastInt = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t kMostInt = std::numeric_limits<std::int64_t>::max();

// The sizes of an operator's dimensions; a negative size is unknown.
class Sizes {
 public:
  explicit Sizes(const Operator& op) : dimensions_(op.dimensions), sizes_(op.dimensions.size(), -1) {}

  std::int64_t& operator[](const Dimension* dim) { return sizes_[index(dim)]; }
  std::int64_t operator[](const Dimension* dim) const { return sizes_[index(dim)]; }
  std::span<const std::int64_t> all() const { return sizes_; }

 private:
  std::size_t index(const Dimension* dim) const { return static_cast<std::size_t>(dim - dimensions_.data()); }

  std::span<const Dimension> dimensions_;
  std::vector<std::int64_t> sizes_;
};

std::string joined(DimensionList dims) {
  std::string text = "(";
  for (const Dimension* dim : dims) text += (text.size() > 1 ? "," : "") + std::string(dim->name);
  return text + ")";
}

std::string of(const Operator& op, const Port& port) {
  return std::string(op.name) + ": input " + std::string(port.name);
}

// A bound as people write it: 2^20, but 1024.
std::string bound(std::int64_t value) {
  const bool is_power = value > 65535 && std::has_single_bit(static_cast<std::uint64_t>(value));
  return is_power ? "2^" + std::to_string(std::bit_width(static_cast<std::uint64_t>(value)) - 1)
                  : std::to_string(value);
}

std::optional<std::string> bind(const Operator& op, const Port& port, const Shape& shape, Sizes& sizes) {
  if (shape.size() != port.dims.size()) {
    return of(op, port) + " must have " + std::to_string(port.dims.size()) + " dimensions " + joined(port.dims) +
           ", got " + std::to_string(shape.size());
  }
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    std::int64_t& size = sizes[port.dims[axis]];
    if (shape[axis] < 0) continue;
    if (size >= 0 && size != shape[axis]) {
      return of(op, port) + " has size " + std::to_string(shape[axis]) + " in dimension " +
             std::string(port.dims[axis]->name) + " of " + joined(port.dims) + ", but another input has " +
             std::to_string(size);
    }
    size = shape[axis];
  }
  return std::nullopt;
}

// A size beyond kMostElements is refused with its tensor.
std::optional<std::string> check_ranges(const Operator& op, const Sizes& sizes) {
  for (const Dimension& dim : op.dimensions) {
    const std::int64_t size = sizes[&dim];
    const bool is_too_large = size > dim.most && dim.most < kMostElements;
    if (size < 0 || (size >= dim.least && !is_too_large)) continue;
    const std::string range = dim.most < kMostElements ? "from " + bound(dim.least) + " to " + bound(dim.most)
                                                       : "at least " + bound(dim.least);
    return std::string(op.name) + ": " + std::string(dim.words) + " " + std::string(dim.name) + " must be " + range +
           ", got " + std::to_string(size);
  }
  return std::nullopt;
}

// Whether the known sizes that are not 0 multiply to more than kMostElements.
bool is_too_large(DimensionList dims, const Sizes& sizes) {
  std::int64_t product = 1;
  for (const Dimension* dim : dims) {
    if (sizes[dim] <= 0) continue;
    if (sizes[dim] > kMostElements / product) return true;
    product *= sizes[dim];
  }
  return false;
}

// Refuses sizes that no memory holds: even of an empty tensor, because the products of its sizes must not overflow.
std::optional<std::string> check_extents(const Operator& op, const Sizes& sizes) {
  for (const std::span<const Port> ports : {op.inputs, op.outputs}) {
    for (const Port& port : ports) {
      if (!is_too_large(port.dims, sizes)) continue;
      return std::string(op.name) + ": the sizes " + joined(port.dims) + " of " + std::string(port.name) +
             " multiply to more than " + bound(kMostElements);
    }
  }
  return std::nullopt;
}

std::optional<std::string> check_rules(const Operator& op, std::span<const AttributeValue> attributes,
                                       const Sizes& sizes) {
  const Values values(sizes.all(), attributes);
  for (const Rule& rule : op.rules) {
    const bool is_known = std::ranges::all_of(rule.reads, [&](const Dimension* dim) { return sizes[dim] >= 0; });
    if (is_known && !rule.holds(values)) return std::string(op.name) + ": " + rule.sentence(values);
  }
  return std::nullopt;
}

std::string range_of(const Attribute& attribute) {
  if (attribute.least == 0 && attribute.most == 1) return "0 or 1";
  if (attribute.most == kMostInt) return "at least " + std::to_string(attribute.least);
  if (attribute.least == kLeastInt) return "at most " + std::to_string(attribute.most);
  return "from " + std::to_string(attribute.least) + " to " + std::to_string(attribute.most);
}

template <typename T>
std::optional<std::string> check_numbers(const std::string& where, const Attribute& attribute,
                                         std::span<const T> numbers) {
  for (const T number : numbers) {
    const bool is_high = attribute.least == kLeastInt || number >= static_cast<T>(attribute.least);
    const bool is_low = attribute.most == kMostInt || number <= static_cast<T>(attribute.most);
    if (!is_high || !is_low) return where + " must be " + range_of(attribute) + ", got " + std::to_string(number);
  }
  return std::nullopt;
}

std::optional<std::string> check_attribute(const std::string& where, const Attribute& attribute,
                                           const AttributeValue& value) {
  switch (attribute.type) {
    case AttributeType::kFloat:
      if (value.floats.size() != 1) return where + " must be a single float";
      return check_numbers<float>(where, attribute, value.floats);
    case AttributeType::kInt:
      if (value.ints.size() != 1) return where + " must be a single integer";
      break;
    case AttributeType::kInts:
      if (value.ints.empty()) return where + " must be a list of at least one integer";
      break;
  }
  return check_numbers<std::int64_t>(where, attribute, value.ints);
}

std::int64_t product(std::span<const std::int64_t> sizes) {
  std::int64_t count = 1;
  for (const std::int64_t size : sizes) count *= size;
  return count;
}

// One int64 input of a call.
struct Rows {
  const Operator& op;
  std::size_t input;
  std::span<const Shape> shapes;
  std::span<const void* const> inputs;

  const Port& port() const { return op.inputs[input]; }
  std::int64_t count(std::size_t of_input) const { return product(shapes[of_input]); }
  std::int64_t at(std::size_t of_input, std::int64_t index) const {
    return static_cast<const std::int64_t*>(inputs[of_input])[index];
  }
  // Whether the range holds for an element: `where` has one number for each, or for each group of them.
  bool is_active(std::int64_t index) const {
    if (port().rows->where < 0) return true;
    const auto where = static_cast<std::size_t>(port().rows->where);
    return at(where, index / (count(input) / count(where))) > 0;
  }
  // By how much a number may be larger than `most`.
  Number spare(std::int64_t index, const Values& values) const {
    if (port().rows->valid < 0) return Number(0);
    const auto valid = static_cast<std::size_t>(port().rows->valid);
    return op.inputs[valid].rows->most(values) - Number(at(valid, index));
  }
  // "row 2", or "element (2,0)" where a row has several.
  std::string place(std::int64_t index) const {
    const Shape& shape = shapes[input];
    if (shape.size() < 2) return "row " + std::to_string(index);
    std::string text = ")";
    for (std::size_t axis = shape.size(); axis-- > 0; index /= shape[axis]) {
      text = (axis > 0 ? "," : "(") + std::to_string(index % shape[axis]) + text;
    }
    return "element " + text;
  }
};

std::optional<std::string> check_range(const Rows& rows, const Values& values) {
  const RowRange& range = *rows.port().rows;
  const Number least = range.least(values);
  const Number most = range.most(values);
  for (std::int64_t i = 0; i < rows.count(rows.input); ++i) {
    const std::int64_t value = rows.at(rows.input, i);
    if (value >= least && value <= most) continue;
    if (!rows.is_active(i) || (value >= least && value <= most + rows.spare(i, values))) continue;
    return of(rows.op, rows.port()) + " is " + std::to_string(value) + " in " + rows.place(i) + ", but must be " +
           range.words(values);
  }
  return std::nullopt;
}

Sizes sizes_of(const Operator& op, std::span<const Shape> shapes) {
  Sizes sizes(op);
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    for (std::size_t axis = 0; axis < shapes[i].size(); ++axis) sizes[op.inputs[i].dims[axis]] = shapes[i][axis];
  }
  return sizes;
}

}  // namespace

const Operator* find(std::string_view name) {
  const auto all = operators();
  const auto found = std::ranges::find(all, name, &Operator::name);
  return found == all.end() ? nullptr : &*found;
}

std::optional<std::string> check_attributes(const Operator& op, std::span<const AttributeValue> values) {
  for (std::size_t i = 0; i < op.attributes.size(); ++i) {
    const Attribute& attribute = op.attributes[i];
    const std::string where = std::string(op.name) + ": attribute " + std::string(attribute.name);
    if (i >= values.size() || values[i].name != attribute.name) return where + " is missing";
    if (auto problem = check_attribute(where, attribute, values[i])) return problem;
  }
  return std::nullopt;
}

std::optional<std::string> infer_shapes(const Operator& op, std::span<const AttributeValue> values,
                                        std::span<const Shape> inputs, std::vector<Shape>& outputs) {
  if (inputs.size() != op.inputs.size()) {
    return std::string(op.name) + " takes " + std::to_string(op.inputs.size()) + " inputs, got " +
           std::to_string(inputs.size());
  }
  Sizes sizes(op);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (auto problem = bind(op, op.inputs[i], inputs[i], sizes)) return problem;
  }
  if (auto problem = check_ranges(op, sizes)) return problem;
  if (auto problem = check_extents(op, sizes)) return problem;
  if (auto problem = check_rules(op, values, sizes)) return problem;
  outputs.clear();
  for (const Port& port : op.outputs) {
    Shape shape;
    for (const Dimension* dim : port.dims) shape.push_back(sizes[dim]);
    outputs.push_back(std::move(shape));
  }
  return std::nullopt;
}

std::optional<std::string> check_rows(const Operator& op, std::span<const AttributeValue> values,
                                      std::span<const Shape> shapes, std::span<const void* const> inputs) {
  const Sizes sizes = sizes_of(op, shapes);
  for (std::size_t i = 0; i < op.inputs.size(); ++i) {
    if (op.inputs[i].rows == nullptr) continue;
    if (auto problem = check_range({op, i, shapes, inputs}, Values(sizes.all(), values))) return problem;
  }
  return std::nullopt;
}

}  // namespace hsm::opset
