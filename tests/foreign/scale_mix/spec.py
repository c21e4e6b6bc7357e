"""The operator that stands for anyone's: y = times gain x."""

from __future__ import annotations

from hsm_operators import Attribute, Cost, Dimension, Operator, Port

SCALE_MIX = Operator(
    name="ScaleMix",
    domain="foreign",
    version=1,
    description="y = times gain x.",
    inputs=(
        Port("x", "T", ("B", "T", "D"), "Tokens."),
        Port("gain", "T", ("D",), "A factor for each channel."),
    ),
    outputs=(Port("y", "T", ("B", "T", "D"), "The result."),),
    attributes=(Attribute("times", "int", "A factor for all.", least=1, most=99),),
    dimensions=(Dimension("D", "width", 1, words="width"),),
    body="""
      x32 = Cast <to = 1> (x)
      gain32 = Cast <to = 1> (gain)
      times_int = Constant <value_int: int = @times> ()
      times = Cast <to = 1> (times_int)
      factor = Mul (gain32, times)
      scaled = Mul (x32, factor)
      y = CastLike (scaled, x)
    """,
    cost=Cost("B*T*D", "D"),
)
OPERATORS = (SCALE_MIX,)
