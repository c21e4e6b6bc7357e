"""ExpertMLP: a mixture of experts as one operator, each token through the k best of E small MLPs (arXiv:2310.10837).

The body puts the tokens that chose one expert into blocks of M rows, as MegaBlocks does, and multiplies block by block:
it computes the chosen experts only, and what it holds grows with the tokens and not with the experts. How many blocks
there are follows from sizes alone: g experts that some token chose need at most g + (S - g) / M blocks for S = N·k
choices, which is largest where g = min(E, S). Blocks that nobody needs compute token 0 with expert 0, unread.
"""

from __future__ import annotations

from ..operator import Attribute, Cost, Dimension, Operator, Port, Routing, Rule

# Equal parts that the blocks are computed in, one after the other: the gathered weights of one part are in memory at a
# time. Measured at E = 155, T = 1024: 1 part takes 153 MB, 4 take 56 MB and 16 take 40 MB; many cost time at T = 1.
_PARTS = 4

# The N = B·T tokens as rows, and their k best experts with the sigmoids of their logits: (N,k). Chosen by logit,
# because sigmoids saturate and tie; ONNX's TopK gives ties to the lower index.
_CHOICE = """
  BT = Shape <start = 0, end = 2> (x)
  D = Shape <start = 2, end = 3> (x)
  E = Shape <start = 2, end = 3> (logits)
  O = Shape <start = 2, end = 3> (down)
  x_rows_shape = Concat <axis = 0> (last, D)
  x_rows = Reshape (x, x_rows_shape)
  logits32 = Cast <to = 1> (logits)
  logits_shape = Concat <axis = 0> (last, E)
  logits_rows = Reshape (logits32, logits_shape)
  k_scalar = Constant <value_int: int = @k> ()
  k_vector = Unsqueeze (k_scalar, zero)
  best, chosen = TopK <axis = -1> (logits_rows, k_vector)
  gates = Sigmoid (best)
"""

# M rows to a block: what an expert gets on average, so that few rows are wasted.
_SIZES = f"""
  N = Shape <start = 0, end = 1> (logits_rows)
  S = Mul (N, k_vector)
  G = Min (E, S)
  S_and_G = Add (S, G)
  S_and_G_1 = Sub (S_and_G, one)
  M = Div (S_and_G_1, G)
  S_without_G = Sub (S, G)
  more_blocks = Div (S_without_G, M)
  blocks = Add (G, more_blocks)
  parts = Constant <value_ints = [{_PARTS}]> ()
  parts_1 = Sub (parts, one)
  blocks_and_parts_1 = Add (blocks, parts_1)
  part_blocks = Div (blocks_and_parts_1, parts)
  all_blocks = Mul (part_blocks, parts)
  slots = Mul (all_blocks, M)
"""

# slot (N,k): the row, counted over all blocks, that each choice gets. `seen` counts the tokens up to this one that
# chose an expert; an expert's rows start where the blocks of those before it end.
_SLOTS = """
  mask_shape = Shape (logits_rows)
  no_mask = Expand (i0, mask_shape)
  choice_shape = Shape (chosen)
  ones = Expand (i1, choice_shape)
  mask = ScatterElements <axis = 1> (no_mask, chosen, ones)
  seen = CumSum (mask, i0)
  counts = ReduceSum <keepdims = 0> (mask, zero)
  counts_and_M = Add (counts, M)
  counts_and_M_1 = Sub (counts_and_M, one)
  expert_blocks = Div (counts_and_M_1, M)
  end_blocks = CumSum (expert_blocks, i0)
  first_blocks = Sub (end_blocks, expert_blocks)
  first_slots = Mul (first_blocks, M)
  first_slots_1 = Sub (first_slots, one)
  places = Add (seen, first_slots_1)
  places_flat = Reshape (places, last)
  N_scalar = Squeeze (N)
  rows = Range (i0, N_scalar, i1)
  row_column = Unsqueeze (rows, one)
  row_starts = Mul (row_column, E)
  place_index = Add (row_starts, chosen)
  slot = Gather (places_flat, place_index)
"""

# Which token (all_blocks,M) and which expert (all_blocks) is where: every block that is used has its first row filled.
_BLOCKS = """
  slot_flat = Reshape (slot, last)
  tokens = Expand (row_column, choice_shape)
  tokens_flat = Reshape (tokens, last)
  chosen_flat = Reshape (chosen, last)
  empty = Expand (i0, slots)
  slot_token = ScatterElements <axis = 0> (empty, slot_flat, tokens_flat)
  slot_expert = ScatterElements <axis = 0> (empty, slot_flat, chosen_flat)
  part_slots = Concat <axis = 0> (parts, last)
  part_tokens = Reshape (slot_token, part_slots)
  block_slots = Concat <axis = 0> (parts, part_blocks, M)
  block_experts = Reshape (slot_expert, block_slots)
  part_experts = Gather <axis = 2> (block_experts, i0)
  x_blocks_shape = Concat <axis = 0> (part_blocks, M, D)
  y_rows_shape = Concat <axis = 0> (last, O)
"""

# How the activation is chosen: x·Φ(x), x·Φ(x) with Φ by tanh, or max(x, 0).
_KIND = """
  kind = Constant <value_int: int = @activation> ()
  is_relu = Equal (kind, i0)
  is_tanh = Equal (kind, i2)
  root_half = Constant <value_float = 0.70710678118654752> ()
  root_two_over_pi = Constant <value_float = 0.79788456080286536> ()
  cube_factor = Constant <value_float = 0.044715> ()
"""


# One part; the names of its values end in its number, in place of #.
_PART = """
  number# = Constant <value_int = #> ()
  token# = Gather (part_tokens, number#)
  expert# = Gather (part_experts, number#)
  x_gathered# = Gather (x_rows, token#)
  x32# = Cast <to = 1> (x_gathered#)
  x_blocks# = Reshape (x32#, x_blocks_shape)
  up_gathered# = Gather (up, expert#)
  up32# = Cast <to = 1> (up_gathered#)
  h# = MatMul (x_blocks#, up32#)
  h_scaled# = Mul (h#, root_half)
  h_erf# = Erf (h_scaled#)
  h_squared# = Mul (h#, h#)
  h_squared_scaled# = Mul (h_squared#, cube_factor)
  h_squared_scaled_1# = Add (h_squared_scaled#, f1)
  h_cubic# = Mul (h#, h_squared_scaled_1#)
  h_cubic_scaled# = Mul (h_cubic#, root_two_over_pi)
  h_tanh# = Tanh (h_cubic_scaled#)
  h_sign# = Where (is_tanh, h_tanh#, h_erf#)
  h_sign_1# = Add (h_sign#, f1)
  h_half# = Mul (h#, half)
  h_gelu# = Mul (h_half#, h_sign_1#)
  h_relu# = Relu (h#)
  h_active# = Where (is_relu, h_relu#, h_gelu#)
  down_gathered# = Gather (down, expert#)
  down32# = Cast <to = 1> (down_gathered#)
  y_blocks# = MatMul (h_active#, down32#)
  y_rows# = Reshape (y_blocks#, y_rows_shape)
"""

# Each choice's row, times its gate, summed over the k choices of a token.
_OUTPUT = f"""
  y_rows = Concat <axis = 0> ({", ".join(f"y_rows{number}" for number in range(_PARTS))})
  y_chosen = Gather (y_rows, slot)
  gate_column = Unsqueeze (gates, last)
  y_gated = Mul (y_chosen, gate_column)
  y_summed = ReduceSum <keepdims = 0> (y_gated, one)
  y_shape = Concat <axis = 0> (BT, O)
  y32 = Reshape (y_summed, y_shape)
  y = CastLike (y32, x)
"""

EXPERT_MLP = Operator(
    name="ExpertMLP",
    description="y = sum over the k experts e of largest logits of sigmoid(logit[e]) activation(x up[e]) down[e].",
    inputs=(
        Port("x", "T", ("B", "T", "D"), "Tokens."),
        Port("logits", "tensor(float)", ("B", "T", "E"), "Routing logits."),
        Port("up", "T", ("E", "D", "w"), "First matrix of each expert."),
        Port("down", "T", ("E", "w", "O"), "Second matrix of each expert."),
    ),
    outputs=(Port("y", "T", ("B", "T", "O"), "The result."),),
    attributes=(
        Attribute("k", "int", "How many experts each token uses, 1 ... E.", least=1, field="active"),
        Attribute("activation", "int", "0 is ReLU, 1 is GELU, 2 is GELU's approximation by tanh.", least=0, most=2),
    ),
    body=_CHOICE
    + _SIZES
    + _SLOTS
    + _BLOCKS
    + _KIND
    + "".join(_PART.replace("#", str(number)) for number in range(_PARTS))
    + _OUTPUT,
    dimensions=(
        Dimension("D", "inputs", words="width of x"),
        Dimension("w", "hidden", words="width of an expert"),
        Dimension("O", "outputs", words="width of y"),
    ),
    rules=(
        Rule("E <= 4194304", "there must be at most 2^22 experts"),
        Rule("k <= E", "k = {k} exceeds the number of experts E = {E}"),
    ),
    # Of the weights, those of experts that some token chose are read.
    cost=Cost(
        "2*k*w*(D + O)*B*T",
        "2kw(D+O)",
        "B*T*D*T_bytes + 4*B*T*E + min(E, k*B*T)*w*(D + O)*T_bytes + B*T*O*T_bytes",
    ),
    routing=Routing("logits", "k"),
    details={"experts": "E", "active": "k", "width": "D", "expert_width": "w"},
)

OPERATORS = (EXPERT_MLP,)
