"""The operator table: signatures, ranges, rules and in-place pairs as C++ data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .. import expression
from ..operator import INT64, Attribute, Operator, Port, Rule
from .cpp import ATTRIBUTE_TYPES, ELEMENT_TYPES, NOTICE, condition, integer, literal, number, sentence, spelled
from .family import Family, operators_of

_LEAST, _MOST = "std::numeric_limits<std::int64_t>::min()", "std::numeric_limits<std::int64_t>::max()"


def opset(families: Sequence[Family]) -> str:
    """Return opset.gen.cc."""
    operators = [operator for _, operator in operators_of(families)]
    return (
        NOTICE
        + """// clang-format off
#include <limits>

#include "hsm_operators/common/opset.h"

namespace hsm::opset {
namespace {

"""
        + "\n".join(map(_parts, operators))
        + "\nconstexpr Operator kOperators[] = {\n"
        + "".join(map(_row, operators))
        + """};

}  // namespace

std::span<const Operator> operators() { return kOperators; }

}  // namespace hsm::opset
"""
    )


def _array(kind: str, name: str, items: Iterable[str]) -> str:
    """Return an array, or nothing where there are no items, which no array has."""
    lines = "".join(f"    {item},\n" for item in items)
    return f"constexpr {kind} {name}[] = {{\n{lines}}};\n" if lines else ""


def _space(operator: Operator) -> str:
    return f"{operator.torch_name}_row"


def _parts(operator: Operator) -> str:
    """Return the arrays that an operator's row points to."""
    ports = [(port, f"k{kind}{index}") for kind, index, port in _ports(operator)]
    dims = "".join(_dims(operator, port.shape, f"{name}Dims") for port, name in ports)
    ranges = "".join(_rows(operator, port, f"{name}Rows") for port, name in ports if port.rows)
    reads = "".join(_dims(operator, _reads(operator, rule), f"kRule{i}Reads") for i, rule in enumerate(operator.rules))
    pairs = [f"{{{past}, {present}}}" for past, present in operator.in_place.items()]
    return (
        f"namespace {_space(operator)} {{\n"
        + _array("Dimension", "kDimensions", _dimensions(operator))
        + dims
        + ranges
        + _array("Port", "kInputs", (_port(*item) for item in ports[: len(operator.inputs)]))
        + _array("Port", "kOutputs", (_port(*item) for item in ports[len(operator.inputs) :]))
        + _array("Attribute", "kAttributes", map(_attribute, operator.attributes))
        + reads
        + _array("Rule", "kRules", (_rule(operator, rule, i) for i, rule in enumerate(operator.rules)))
        + _array("InPlacePair", "kInPlace", pairs)
        + f"}}  // namespace {_space(operator)}\n"
    )


def _ports(operator: Operator) -> Iterable[tuple[str, int, Port]]:
    yield from (("Input", index, port) for index, port in enumerate(operator.inputs))
    yield from (("Output", index, port) for index, port in enumerate(operator.outputs))


def _dimensions(operator: Operator) -> Iterable[str]:
    for size in operator.sizes.values():
        most = "kMostElements" if size.most == 2**59 else str(size.most)
        yield f"{{{literal(size.name)}, {literal(size.words or size.field)}, {size.least}, {most}}}"


def _dims(operator: Operator, names: Iterable[str], array: str) -> str:
    """Return an array of pointers to the operator's dimensions."""
    places = list(operator.sizes)
    pointers = ", ".join(f"&kDimensions[{places.index(name)}]" for name in names)
    return f"constexpr const Dimension* {array}[] = {{{pointers}}};\n" if pointers else ""


def _port(port: Port, name: str) -> str:
    dims = f"{name}Dims" if port.shape else "{}"
    rows = f", &{name}Rows" if port.rows else ""
    return f"{{{literal(port.name)}, ElementType::{ELEMENT_TYPES[port.type]}, {dims}{rows}}}"


def _rows(operator: Operator, port: Port, array: str) -> str:
    assert port.rows
    names, rows = spelled(operator), port.rows
    return (
        f"constexpr RowRange {array} = {{\n"
        f"    .least = {number(rows.least, names)},\n"
        f"    .most = {number(rows.most, names)},\n"
        f"    .words = {sentence(rows.words, names)},\n"
        f"    .where = {_where(operator, port)},\n"
        f"{_valid(operator, port)}"
        "};\n"
    )


def _where(operator: Operator, port: Port) -> int:
    """Return the index of the input that says where a range holds, -1 where it holds everywhere."""
    assert port.rows
    if not port.rows.where:
        return -1
    where = operator.port(port.rows.where)
    if where.type != INT64 or where.shape != port.shape[: len(where.shape)]:
        raise ValueError(
            f"operator {operator.qualified_name}: the range of {port.name} holds where {where.name} is positive, so "
            f"{where.name} must be int64 and its shape must begin {port.name}'s"
        )
    return operator.inputs.index(where)


def _valid(operator: Operator, port: Port) -> str:
    """Return the member that says which input leaves room above a range; "" where none does."""
    assert port.rows
    if not port.rows.valid:
        return ""
    valid = operator.port(port.rows.valid)
    if valid.type != INT64 or valid.shape != port.shape or valid.rows is None:
        raise ValueError(
            f"operator {operator.qualified_name}: {valid.name} leaves room above the range of {port.name}, so it must "
            f"be int64 of {port.name}'s shape and have a range"
        )
    return f"    .valid = {operator.inputs.index(valid)},\n"


def _attribute(attribute: Attribute) -> str:
    kind = ATTRIBUTE_TYPES[attribute.type]
    least, most = integer(attribute.least, _LEAST), integer(attribute.most, _MOST)
    return f"{{{literal(attribute.name)}, AttributeType::{kind}, {least}, {most}}}"


def _reads(operator: Operator, rule: Rule) -> list[str]:
    """Return the dimensions that a rule's condition reads, in the operator's order."""
    return [name for name in operator.sizes if name in expression.names(rule.condition)]


def _rule(operator: Operator, rule: Rule, index: int) -> str:
    names = spelled(operator)
    for attribute in operator.attributes:
        if attribute.type == "float" and attribute.name in expression.names(rule.condition):
            where = f"operator {operator.qualified_name}: the rule {rule.condition!r}"
            raise ValueError(f"{where} reads the float {attribute.name}; C++ checks rules of whole numbers")
    reads = f"kRule{index}Reads" if _reads(operator, rule) else "{}"
    return (
        f"// {rule.condition}\n"
        f"    {{.reads = {reads},\n"
        f"     .holds = {condition(rule.condition, names)},\n"
        f"     .sentence = {sentence(rule.message, names)}}}"
    )


def _row(operator: Operator) -> str:
    space = _space(operator)
    members = {
        "domain": literal(operator.domain),
        "version": str(operator.version),
        "plugin_version": literal(operator.plugin_version),
        "name": literal(operator.name),
        "dimensions": f"{space}::kDimensions" if operator.sizes else "",
        "inputs": f"{space}::kInputs",
        "outputs": f"{space}::kOutputs",
        "attributes": f"{space}::kAttributes" if operator.attributes else "",
        "rules": f"{space}::kRules" if operator.rules else "",
        "in_place": f"{space}::kInPlace" if operator.in_place else "",
        "list_in_place": f"list_in_place<{space}::kInPlace>" if operator.in_place else "",
    }
    return "    {" + ",\n     ".join(f".{name} = {value}" for name, value in members.items() if value) + "},\n"
