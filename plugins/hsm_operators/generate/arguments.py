"""What kernels take: one structure for the operators that share it, and how a call fills it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..operator import Attribute, Operator, Port
from .cpp import C_TYPES, NOTICE, call, comment, require_identifier
from .family import CPU, NAIVE, Family


@dataclass(frozen=True)
class _Field:
    """A member of a structure. `meaning` is its comment, which may differ between the operators."""

    name: str
    type: str
    default: str
    meaning: str


def _sizes(operator: Operator) -> list[_Field]:
    return [
        _Field(size.field, "std::int64_t", "0", f"{size.name}: {size.words or size.field}.")
        for size in operator.sizes.values()
    ]


def _attributes(operator: Operator) -> list[_Field]:
    return [_attribute(attribute) for attribute in operator.attributes]


def _attribute(attribute: Attribute) -> _Field:
    kind, default = "std::int64_t", str(max(attribute.least or 0, 0))
    if attribute.type == "ints":
        kind, default = "std::span<const std::int64_t>", "{}"
    elif attribute.is_flag:
        kind, default = "bool", "false"
    elif attribute.type == "float":
        kind, default = "float", "0"
    return _Field(attribute.field or attribute.name, kind, default, attribute.description)


def _inputs(operator: Operator) -> list[_Field]:
    return [_pointer(port, f"const {C_TYPES[port.type]}*") for port in operator.inputs]


def _outputs(operator: Operator) -> list[_Field]:
    pairs = [(operator.inputs[past].name, operator.outputs[out].name) for past, out in operator.in_place.items()]
    more = {out: f" May be `{past}` itself." for past, out in pairs}
    return [_pointer(port, f"{C_TYPES[port.type]}*", more.get(port.name, "")) for port in operator.outputs]


def _pointer(port: Port, kind: str, more: str = "") -> _Field:
    shape = f"({','.join(port.shape)})"
    return _Field(port.name, kind, "nullptr", f"{shape} {port.description}{more}")


_Part = Callable[[Operator], list[_Field]]


def _merged(operators: tuple[Operator, ...], part: _Part) -> Iterator[tuple[_Field, dict[str, str]]]:
    """Yield the union of the operators' fields, in the order of the operator that has most, with their meanings."""
    found: dict[str, _Field] = {}
    meanings: dict[str, dict[str, str]] = {}
    for operator in sorted(operators, key=lambda operator: -len(part(operator))):
        for item in part(operator):
            where = f"operator {operator.qualified_name}"
            require_identifier(item.name, where)
            if found.setdefault(item.name, item).type != item.type:
                known = found[item.name].type
                raise ValueError(
                    f"{where}: {operator.arguments}::{item.name} is {item.type} here and {known} in another operator"
                )
            meanings.setdefault(item.name, {})[operator.name] = item.meaning
    return ((item, meanings[item.name]) for item in found.values())


def _member(item: _Field, meanings: dict[str, str], operators: tuple[Operator, ...]) -> str:
    texts = list(dict.fromkeys(meanings.values()))
    if len(texts) == 1:
        text = texts[0]
    else:
        text = " ".join(f"{', '.join(n for n, m in meanings.items() if m == each)}: {each}" for each in texts)
    lacking = [operator.name for operator in operators if operator.name not in meanings]
    if lacking:
        text += f" {_EMPTY.get(item.default, item.default)} in {', '.join(lacking)}."
    default = "" if item.default == "{}" else f" = {item.default}"
    return comment(text, "  ") + f"  {item.type} {item.name}{default};\n"


_EMPTY = {"nullptr": "Null", "{}": "Empty", "false": "False"}


def _structure(family: Family, name: str, operators: tuple[Operator, ...]) -> str:
    parts = [[_member(item, meanings, operators) for item, meanings in _merged(operators, part)] for part in _PARTS]
    sizes, attributes, inputs, outputs = parts
    packed = family.packs(name)
    if packed:
        outputs.append(
            comment(f"What `pack_constant` made of `{packed}`, or null: it is packed in every call.", "  ")
            + "  const float* packed = nullptr;\n"
        )
    names = [line for part in _PARTS for line in (item.name for item, _ in _merged(operators, part))]
    for word in {word for word in names if names.count(word) > 1} | ({"type", "packed"} & set(names)):
        raise ValueError(f"{name}: two members are called {word}; give the dimension or attribute another `field`")
    members = [*sizes, *attributes, "  // T.\n  DType type = DType::kFloat32;\n", *inputs, *outputs]
    described = "".join(comment(f"{operator.name}: {operator.description}") for operator in operators)
    return f"{described}struct {name} {{\n{''.join(members)}}};\n"


_PARTS: tuple[_Part, ...] = (_sizes, _attributes, _inputs, _outputs)


def args_header(family: Family) -> str:
    """Return args.gen.h."""
    pieces = []
    for name, operators in family.structures().items():
        pieces.append(_structure(family, name, operators))
        kernels = [kernel for kernel, structure in family.kernels().items() if structure == name]
        if family.has(NAIVE):
            pieces.append(
                "// Straight from the definition, for tests.\n"
                + "".join(call(f"void {kernel}_naive", (f"const {name}& args",)) for kernel in kernels)
            )
        if family.has(CPU):
            parameters = (f"const {name}& args", "const ParallelFor& parallel_for")
            pieces.append("".join(call(f"void {kernel}", parameters) for kernel in kernels))
        if family.packs(name):
            pieces.append(_packing(family.packs(name), name))
    return _header(("cstddef", "cstdint", "span"), ("hsm_operators/common/types.h",), "hsm", pieces)


def _packing(constant: str, structure: str) -> str:
    return (
        comment(
            f"Packs a constant `{constant}` once, in the order in which the CPU's kernels read it; only `type`, "
            f"`{constant}` and the sizes of its shape are set, and the constant must stay as it is."
        )
        + call("Packed pack_constant", (f"const {structure}& args",))
        + "// How many floats `pack_constant` makes.\n"
        + call("std::size_t packed_count", (f"const {structure}& args",))
    )


def cuda_header(family: Family, prefix: str) -> str:
    """Return cuda.gen.h."""
    pieces = [
        comment(
            "Pointers in the arguments are device pointers; lists of attributes are in host memory. A tactic is an "
            "implementation or a tile shape, an index into the tactics' names. Nothing allocates, waits for the "
            "device, or throws."
        )
    ]
    for kernel, structure in family.kernels().items():
        args, tactic, device = f"const {structure}& args", "int tactic", "const Device& device"
        pieces.append(
            call(f"std::span<const std::string_view> {kernel}_tactics", (), " noexcept;")
            + "// Whether a tactic can run this call on this device; reads sizes and attributes only.\n"
            + call(f"bool {kernel}_supports", (args, tactic, device), " noexcept;")
            + call(f"int {kernel}_default_tactic", (args, device), " noexcept;")
            + "// Bytes of device memory beside the arguments; grows with the sizes.\n"
            + call(f"std::size_t {kernel}_workspace", (args, tactic, device), " noexcept;")
            + "// Puts the work into the stream. Returns 0 or a cudaError_t.\n"
            + call(f"int {kernel}_launch", (args, tactic, device, "void* workspace", "Stream stream"), " noexcept;")
        )
    includes = ("hsm_operators/common/cuda/device.h", f"{prefix}{family.name}/args.gen.h")
    return _header(("cstddef", "span", "string_view"), includes, "hsm::cuda", pieces)


def bindings_header(family: Family, prefix: str) -> str:
    """Return bindings.gen.h."""
    pieces = ["// The arguments point into the calls' attributes and tensors.\n"]
    for operator in family.operators:
        pieces.append(
            f"inline {operator.arguments} {operator.torch_name}_args(const Call& call) {{\n"
            f"  return {{\n{_bindings(family, operator)}  }};\n}}\n"
        )
        if operator.constant and family.has(CPU):
            pieces.append(_constant_binding(family, operator))
    includes = ("hsm_operators/common/call.h", f"{prefix}{family.name}/args.gen.h")
    return _header((), includes, "hsm", pieces)


def _bindings(family: Family, operator: Operator) -> str:
    """Return the arguments of one operator that a call fills."""
    values = dict(_values(operator))
    if family.packs(operator.arguments):
        values["packed"] = "call.packed"
    return _designated(family, operator, values)


def _designated(family: Family, operator: Operator, values: dict[str, str]) -> str:
    """Return initialisers of members, in the structure's order."""
    sharing = family.structures()[operator.arguments]
    sizes, attributes, inputs, outputs = ([item.name for item, _ in _merged(sharing, part)] for part in _PARTS)
    names = (*sizes, *attributes, "type", *inputs, *outputs, "packed")
    return "".join(f"      .{name} = {values[name]},\n" for name in names if name in values)


def _values(operator: Operator) -> Iterator[tuple[str, str]]:
    for size in operator.sizes.values():
        index, port = next((i, port) for i, port in enumerate(operator.inputs) if size.name in port.shape)
        yield size.field, f"call.shapes[{index}][{port.shape.index(size.name)}]"
    for index, attribute in enumerate(operator.attributes):
        numbers = f"call.attributes[{index}].{'floats' if attribute.type == 'float' else 'ints'}"
        number = f"{numbers}.front()" + " != 0" * attribute.is_flag
        yield attribute.field or attribute.name, numbers if attribute.type == "ints" else number
    yield "type", "call.type"
    for index, port in enumerate(operator.inputs):
        yield port.name, _cast(f"const {C_TYPES[port.type]}*", port, f"call.inputs[{index}]")
    for index, port in enumerate(operator.outputs):
        yield port.name, _cast(f"{C_TYPES[port.type]}*", port, f"call.outputs[{index}]")


def _cast(kind: str, port: Port, value: str) -> str:
    return value if port.type == "T" else f"static_cast<{kind}>({value})"


def _constant_binding(family: Family, operator: Operator) -> str:
    """Return the arguments of pack_constant, from the constant alone."""
    port = operator.port(operator.constant)
    values = {operator.sizes[name].field: f"shape[{axis}]" for axis, name in enumerate(port.shape)}
    values |= {"type": "type", port.name: _cast(f"const {C_TYPES[port.type]}*", port, "data")}
    head = f"inline {operator.arguments} {operator.torch_name}_constant"
    parameters = ("DType type", "const opset::Shape& shape", "const void* data")
    return call(head, parameters, " {") + f"  return {{\n{_designated(family, operator, values)}  }};\n}}\n"


def _header(standard: Iterable[str], own: Iterable[str], namespace: str, pieces: Iterable[str]) -> str:
    return (
        NOTICE
        + "// clang-format off\n#pragma once\n\n"
        + "".join(f"#include <{name}>\n" for name in standard)
        + ("\n" if standard else "")
        + "".join(f'#include "{name}"\n' for name in own)
        + f"\nnamespace {namespace} {{\n\n"
        + "\n".join(pieces)
        + f"\n}}  // namespace {namespace}\n"
    )
