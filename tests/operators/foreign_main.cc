// Prints what the generated files make of test_generate.py's operators: facts, refusals, and, for each case on standard
// input (seven numbers), what the rules say.
#include <cstdio>
#include <iostream>

#include "gated/bindings.gen.h"
#include "hsm_operators/common/cpu/kernels.h"
#include "hsm_operators/common/definition.h"

namespace {

using namespace hsm;
using namespace hsm::opset;

const Operator& op = *find("GatedSum");

std::vector<AttributeValue> attributes_of(std::int64_t span, std::vector<std::int64_t> steps, std::int64_t is_signed,
                                          float slope = 0.5f) {
  return {{"span", {span}}, {"steps", std::move(steps)}, {"signed", {is_signed}}, {"slope", {}, {slope}}};
}

const std::vector<AttributeValue> kAttributes = attributes_of(2, {1, 2, 3}, 1);
const std::vector<Shape> kShapes{{2, 3, 4}, {5, 4}, {2, 3}, {2}, {2}, {2, 4}, {}, {2, 3}};

void print(const std::optional<std::string>& refusal) { std::puts(refusal.value_or("").c_str()); }

void print_table() {
  int* past = nullptr;
  int* present = nullptr;
  const std::size_t pairs = op.list_in_place(&past, &present);
  std::printf("%s %d %zu %d %d\n", op.domain.data(), op.version, pairs, past[0], present[0]);
  delete[] past;
  delete[] present;
}

void print_kernel() {
  const bool no_cpu = cpu::kernel_of(*find("GatedPlain")) == nullptr;
  std::printf("%d %d\n", no_cpu, definition_of(op) == nullptr);
  float y = 0;
  const void* inputs[8] = {};
  void* outputs[2] = {&y, nullptr};
  cpu::kernel_of(op)->run({DType::kFloat32, kAttributes, kShapes, inputs, outputs}, {});
  const cpu::Packing& packing = cpu::kernel_of(op)->packing;
  const auto packs = [&](const Shape& shape, std::size_t limit) {
    return packing.pack(DType::kFloat32, shape, nullptr, limit) != nullptr;
  };
  std::printf("%g %d %d %d %d\n", y, packing.input, packs({5, 4}, 80), packs({5, 4}, 79), packs({5}, 80));
}

void print_refused_shapes() {
  std::vector<Shape> outputs;
  const auto check = [&](std::size_t input, const Shape& shape) {
    std::vector<Shape> shapes = kShapes;
    shapes[input] = shape;
    print(infer_shapes(op, kAttributes, shapes, outputs));
  };
  check(0, {2, 3, 4}), check(1, {1, 4}), check(1, {5, 5}), check(6, {1});
  print(infer_shapes(op, kAttributes, std::vector<Shape>{{2, 3, 65}, {-1, -1}, {2, 3}, {2}, {2}, {2, 65}, {}, {2, 3}},
                     outputs));
}

void print_refused_rows() {
  using Ints = std::vector<std::int64_t>;
  const auto check = [&](const Ints& ids, const Ints& start, const Ints& lengths) {
    const std::vector<const void*> inputs{nullptr,        nullptr, ids.data(), start.data(),
                                          lengths.data(), nullptr, nullptr,    nullptr};
    print(check_rows(op, kAttributes, kShapes, inputs));
  };
  check({0, 1, 2, 3, 4, 5}, {0, 0}, {1, 1});
  check({0, 1, 2, 3, 4, 0}, {0, 1}, {1, 1});
  check({0, 1, 2, 3, 4, 0}, {0, 1}, {1, 0});
  check({0, 1, 2, 3, 4, 0}, {0, -2}, {1, 3});
}

}  // namespace

int main() {
  print_table();
  print_kernel();
  print(check_attributes(op, attributes_of(1, {0}, 0)));
  print(check_attributes(op, attributes_of(9, {0, -5}, 0)));
  print(check_attributes(op, attributes_of(9, {}, 0)));
  print(check_attributes(op, attributes_of(9, {-4}, 2)));
  print(check_attributes(op, attributes_of(9, {-4}, 1, -0.5f)));
  print(check_attributes(op, attributes_of(9, {-4}, 1)));
  print_refused_shapes();
  print_refused_rows();
  std::int64_t batch, length, key_width, rows, span, is_signed, is_long;
  while (std::cin >> batch >> length >> key_width >> rows >> span >> is_signed >> is_long) {
    const auto attributes = attributes_of(span, is_long ? Shape{-3, 2, 5} : Shape{1}, is_signed);
    std::vector<Shape> outputs;
    const std::vector<Shape> shapes{{batch, length, key_width},
                                    {rows, key_width},
                                    {batch, length},
                                    {batch},
                                    {batch},
                                    {batch, key_width},
                                    {},
                                    {batch, length}};
    print(infer_shapes(op, attributes, shapes, outputs));
  }
}
