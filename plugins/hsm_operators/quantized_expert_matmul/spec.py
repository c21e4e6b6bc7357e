"""QuantizedExpertMatMul and QuantizedExpertMatMulSum: products with chosen experts whose matrices have 8 or 4 bits.

The bodies make float32 of the matrices and go on as those of ExpertMatMul and ExpertMatMulSum; a runtime that folds
constants does so once. What is packed is arithmetic in a body: 256 = 496 - 240 levels in a byte that holds one number,
16 = 496 - 480 in each half of one that holds two.
"""

from __future__ import annotations

from ..expert_matmul.spec import EXPERT_MATMUL, EXPERT_MATMUL_SUM
from ..operator import UINT8, Attribute, Cost, Dimension, Operator, Port, Rule

_WIDE = "  weight32 = Cast <to = 1> (weight)\n"
_UNPACKED = """
  bytes = Cast <to = 1> (weight)
  per_byte_scalar = Constant <value_int: int = @per_byte> ()
  per_byte_vector = Unsqueeze (per_byte_scalar, zero)
  per_byte32 = Cast <to = 1> (per_byte_scalar)
  all_levels = Constant <value_float = 496.0> ()
  fewer_levels = Constant <value_float = 240.0> ()
  fewer = Mul (per_byte32, fewer_levels)
  levels = Sub (all_levels, fewer)
  middle = Mul (levels, half)
  shifted = Div (bytes, levels)
  high = Floor (shifted)
  high_levels = Mul (high, levels)
  low = Sub (bytes, high_levels)
  four = Constant <value_ints = [4]> ()
  low_column = Unsqueeze (low, four)
  high_column = Unsqueeze (high, four)
  both = Concat <axis = 4> (low_column, high_column)
  stored = Slice (both, zero, per_byte_vector, four)
  whole = Sub (stored, middle)
  groups = Shape <start = 0, end = 3> (weight)
  columns = Shape <start = 4, end = 5> (weight)
  group_shape = Concat <axis = 0> (groups, last, columns)
  rows = Reshape (whole, group_shape)
  scale_rows = Unsqueeze (scales, three)
  scaled = Mul (rows, scale_rows)
  matrices = Shape <start = 0, end = 2> (weight)
  matrix_sizes = Concat <axis = 0> (matrices, last, columns)
  weight32 = Reshape (scaled, matrix_sizes)
"""
_WIDTH_OUT = "  width_out = Shape <start = 3, end = 4> (weight)\n"

_PER_BYTE = Attribute(
    "per_byte", "int", "Numbers in a byte: 1 of 8 bits, or 2 of 4 bits, the earlier row in the lower half.", 1, 2
)
_GROUPS = (
    Dimension("G", "groups", 1, words="blocks"),
    Dimension("R", "group_bytes", 1, words="bytes of a block"),
)


def _body(plain: str) -> str:
    """Return a body of the plain operator for a packed weight."""
    assert _WIDE in plain and _WIDTH_OUT in plain
    unpacked = plain.replace(_WIDE, _UNPACKED).replace(_WIDTH_OUT, "  width_out = Identity (columns)\n")
    return unpacked.replace(
        "  width_in = Shape <start = 2, end = 3> (weight)\n", "  width_in = Shape <start = 2, end = 3> (weight32)\n"
    )


def _quantized(plain: Operator, inner: str, outer: str) -> Operator:
    """Return the operator that multiplies by packed matrices (inner, outer)."""
    x, logits, _ = plain.inputs
    cost = plain.cost
    assert cost is not None
    packed = f"H*min(E, k*B*T)*(D*f//per_byte + 4*G*{outer})"
    return Operator(
        name=f"Quantized{plain.name}",
        torch_name=f"quantized_{plain.torch_name}",
        description=plain.description.replace("weight[h,e]", "W[h,e]")
        + " W is (weight - middle) times scales, the middle of 8 bits being 128 and of 4 bits 8.",
        inputs=(
            x,
            logits,
            Port("weight", UINT8, ("H", "E", "G", "R", outer), "One matrix a head and expert, its rows in blocks."),
            Port("scales", "tensor(float)", ("H", "E", "G", outer), "A scale for each block and column."),
        ),
        outputs=plain.outputs,
        attributes=(*plain.attributes, _PER_BYTE),
        body=_body(plain.body),
        dimensions=(*plain.dimensions, *_GROUPS),
        rules=(
            *plain.rules,
            Rule(
                f"{inner} == G*R*per_byte",
                f"weight's {{G}} blocks of {{R}} bytes must hold the {{{inner}}} rows of a matrix",
            ),
        ),
        cost=Cost(cost.flops, cost.formula, cost.bytes.replace("H*min(E, k*B*T)*D*f*T_bytes", packed)),
        routing=plain.routing,
        details={**plain.details, "per_byte": "per_byte"},
        plugin=False,
        arguments="QuantizedExpertMatMulArgs",
    )


QUANTIZED_EXPERT_MATMUL = _quantized(EXPERT_MATMUL, "D", "f")
QUANTIZED_EXPERT_MATMUL_SUM = _quantized(EXPERT_MATMUL_SUM, "f", "D")

OPERATORS = (QUANTIZED_EXPERT_MATMUL, QUANTIZED_EXPERT_MATMUL_SUM)
