// Prints the operator table as JSON, for the test that compares it with Python's.
#include <cstdio>
#include <string>

#include "hsm_operators/common/opset.h"

namespace {

using namespace hsm::opset;

std::string quoted(std::string_view text) { return '"' + std::string(text) + '"'; }

template <typename T>
std::string to_json(std::span<const T> items);

std::string to_json(const Dimension* dim) { return quoted(dim->name); }

std::string to_json(const Dimension& dim) {
  return "{\"name\": " + quoted(dim.name) + ", \"least\": " + std::to_string(dim.least) +
         ", \"most\": " + std::to_string(dim.most) + "}";
}

std::string to_json(const InPlacePair& pair) {
  return "[" + std::to_string(pair.input) + ", " + std::to_string(pair.output) + "]";
}

std::string to_json(const Port& port) {
  static constexpr std::string_view kTypes[] = {"T", "tensor(float)", "tensor(int64)", "tensor(bool)", "tensor(uint8)"};
  return "{\"name\": " + quoted(port.name) + ", \"type\": " + quoted(kTypes[static_cast<int>(port.type)]) +
         ", \"dims\": " + to_json(port.dims) + "}";
}

std::string to_json(const Attribute& attribute) {
  static constexpr std::string_view kTypes[] = {"int", "ints", "float"};
  return "{\"name\": " + quoted(attribute.name) + ", \"type\": " + quoted(kTypes[static_cast<int>(attribute.type)]) +
         ", \"least\": " + std::to_string(attribute.least) + ", \"most\": " + std::to_string(attribute.most) + "}";
}

std::string to_json(const Operator& op);

template <typename T>
std::string to_json(std::span<const T> items) {
  std::string text = "[";
  for (const T& item : items) text += (text.size() > 1 ? ", " : "") + to_json(item);
  return text + "]";
}

std::string to_json(const Operator& op) {
  return "{\"domain\": " + quoted(op.domain) + ", \"version\": " + std::to_string(op.version) +
         ", \"name\": " + quoted(op.name) + ", \"dimensions\": " + to_json(op.dimensions) +
         ", \"inputs\": " + to_json(op.inputs) + ", \"outputs\": " + to_json(op.outputs) +
         ", \"attributes\": " + to_json(op.attributes) + ", \"in_place\": " + to_json(op.in_place) +
         ", \"rules\": " + std::to_string(op.rules.size()) + "}";
}

}  // namespace

int main() { std::printf("%s\n", to_json(operators()).c_str()); }
