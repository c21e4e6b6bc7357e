"""ExpertMatMul and ExpertMatMulSum: linear maps through the k best of E experts (arXiv:2312.07987).

The bodies run all experts and multiply by gates that are zero for those not chosen: gathering the chosen weights for
each token costs far more memory and time in a runtime without a fused kernel.
"""

from __future__ import annotations

from ..operator import Attribute, Cost, Dimension, Operator, Port, Routing, Rule

# gates (B,T,H,E,1): the sigmoid of the k largest logits, 0 elsewhere. Chosen by logit, because sigmoids saturate and
# tie; ONNX's TopK gives ties to the lower index.
_GATES = """
  logits32 = Cast <to = 1> (logits)
  k_scalar = Constant <value_int: int = @k> ()
  k_vector = Unsqueeze (k_scalar, zero)
  best, chosen = TopK <axis = -1> (logits32, k_vector)
  scores = Sigmoid (best)
  gates_shape = Shape (logits)
  no_gates = Expand (f0, gates_shape)
  gates = ScatterElements <axis = -1> (no_gates, chosen, scores)
  gates_column = Unsqueeze (gates, last)
  x32 = Cast <to = 1> (x)
  weight32 = Cast <to = 1> (weight)
  BT = Shape <start = 0, end = 2> (x)
  H = Shape <start = 0, end = 1> (weight)
  width_in = Shape <start = 2, end = 3> (weight)
  width_out = Shape <start = 3, end = 4> (weight)
"""

_PROJECT = """
  weight_by_input = Transpose <perm = [2, 0, 1, 3]> (weight32)
  matrix_shape = Concat <axis = 0> (width_in, last)
  matrix = Reshape (weight_by_input, matrix_shape)
  products = MatMul (x32, matrix)
  experts_shape = Concat <axis = 0> (gates_shape, width_out)
  experts = Reshape (products, experts_shape)
  gated = Mul (experts, gates_column)
  summed = ReduceSum <keepdims = 0> (gated, three)
  y_shape = Concat <axis = 0> (BT, H, width_out)
  y32 = Reshape (summed, y_shape)
  y = CastLike (y32, x)
"""

_PROJECT_AND_SUM = """
  x_column = Unsqueeze (x32, three)
  gated = Mul (x_column, gates_column)
  gated_shape = Concat <axis = 0> (BT, last)
  gated_rows = Reshape (gated, gated_shape)
  matrix_shape = Concat <axis = 0> (last, width_out)
  matrix = Reshape (weight32, matrix_shape)
  summed = MatMul (gated_rows, matrix)
  y_shape = Concat <axis = 0> (BT, width_out)
  y32 = Reshape (summed, y_shape)
  y = CastLike (y32, x)
"""

_LOGITS = Port("logits", "tensor(float)", ("B", "T", "H", "E"), "Routing logits of each head's experts.")
_K = Attribute("k", "int", "How many experts each token uses in each head, 1 ... E.", least=1, field="active")
_RULES = (
    Rule("max(H, 1)*E <= 4194304", "the H heads must have at most 2^22 experts in all"),
    Rule("k <= E", "k = {k} exceeds the number of experts E = {E}"),
)
# Of the weights, those of experts that some token chose are read.
_COST = Cost(
    "2*k*H*D*f*B*T",
    "2kHDf",
    "B*T*D*T_bytes + 4*B*T*H*E + H*min(E, k*B*T)*D*f*T_bytes + B*T*H*f*T_bytes",
)
_DETAILS = {"heads": "H", "experts": "E", "active": "k", "width": "D", "head_dim": "f"}

EXPERT_MATMUL = Operator(
    name="ExpertMatMul",
    torch_name="expert_matmul",
    description="y[h] = sum over the k experts e of head h of largest logits of sigmoid(logit[h,e]) x weight[h,e].",
    inputs=(
        Port("x", "T", ("B", "T", "D"), "Tokens."),
        _LOGITS,
        Port("weight", "T", ("H", "E", "D", "f"), "One matrix a head and expert."),
    ),
    outputs=(Port("y", "T", ("B", "T", "H", "f"), "The result."),),
    attributes=(_K,),
    body=_GATES + _PROJECT,
    dimensions=(Dimension("D", "inputs", words="width"), Dimension("f", "outputs", words="head width")),
    rules=_RULES,
    cost=_COST,
    routing=Routing("logits", "k"),
    details=_DETAILS,
    constant="weight",
    arguments="ExpertMatMulArgs",
)

EXPERT_MATMUL_SUM = Operator(
    name="ExpertMatMulSum",
    torch_name="expert_matmul_sum",
    description="y = sum over heads h and their k experts e of largest logits of sigmoid(logit[h,e]) x[h] weight[h,e].",
    inputs=(
        Port("x", "T", ("B", "T", "H", "f"), "Tokens by head."),
        _LOGITS,
        Port("weight", "T", ("H", "E", "f", "D"), "One matrix a head and expert."),
    ),
    outputs=(Port("y", "T", ("B", "T", "D"), "The result."),),
    attributes=(_K,),
    body=_GATES + _PROJECT_AND_SUM,
    dimensions=(Dimension("f", "inputs", words="head width"), Dimension("D", "outputs", words="width")),
    rules=_RULES,
    cost=_COST,
    routing=Routing("logits", "k"),
    details=_DETAILS,
    constant="weight",
    arguments="ExpertMatMulArgs",
)

OPERATORS = (EXPERT_MATMUL, EXPERT_MATMUL_SUM)
