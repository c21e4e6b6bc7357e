// Prints the operator table as JSON, for the test that compares it with Python's.
#include <cstdio>
#include <string>

#include "hsm_operators/common/opset.h"

namespace {

using namespace hsm::opset;

std::string quoted(std::string_view text) { return '"' + std::string(text) + '"'; }

std::string to_json(const Port& port) {
  static constexpr std::string_view kTypes[] = {"T", "tensor(float)", "tensor(int64)"};
  return "{\"name\": " + quoted(port.name) + ", \"type\": " + quoted(kTypes[static_cast<int>(port.type)]) +
         ", \"dims\": " + quoted(port.dims) + "}";
}

std::string to_json(const Attribute& attribute) {
  return "{\"name\": " + quoted(attribute.name) +
         ", \"type\": " + quoted(attribute.type == AttributeType::kInt ? "int" : "ints") + "}";
}

std::string to_json(const Operator& op);

template <typename T>
std::string to_json(std::span<const T> items) {
  std::string text = "[";
  for (const T& item : items) text += (text.size() > 1 ? ", " : "") + to_json(item);
  return text + "]";
}

std::string to_json(const Operator& op) {
  return "{\"name\": " + quoted(op.name) + ", \"inputs\": " + to_json(op.inputs) +
         ", \"outputs\": " + to_json(op.outputs) + ", \"attributes\": " + to_json(op.attributes) + "}";
}

}  // namespace

int main() {
  std::printf("{\"domain\": %s, \"version\": %d, \"operators\": %s}\n", quoted(kDomain).c_str(), kVersion,
              to_json(operators()).c_str());
}
