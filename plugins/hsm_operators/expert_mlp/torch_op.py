"""A mixture of experts: each token through the k best of E small MLPs (sigma-MoE, arXiv:2310.10837, eq. 12).

The k experts with the largest logits are taken, ties going to the lower index; their gates are sigmoid(logit), not
renormalised. Only the chosen experts are computed, each on the block of tokens that chose it, so that S = B·T·k rows
of hidden units are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..expert_matmul.selection import Selection, blockwise, blockwise_outer, select
from ..precision import accumulator
from ..registration import register, require
from ..routing import observe

# Names of the activations in the order of their numbers.
ACTIVATIONS = ("relu", "gelu", "gelu_tanh")


def expert_mlp(x: Tensor, logits: Tensor, up: Tensor, down: Tensor, k: int, activation: int) -> Tensor:
    """Return y[b,t] = sum over the top-k e of sigmoid(l[b,t,e]) activation(x[b,t] up[e]) down[e].

    Args:
        x: (B,T,D).
        logits: (B,T,E), float32 (float64 for float64 x).
        up: (E,D,w) of x's dtype.
        down: (E,w,O) of x's dtype.
        k: experts taken, 1..E.
        activation: 0 is ReLU, 1 is GELU, 2 is GELU's approximation by tanh: an index into `ACTIVATIONS`.

    Returns:
        (B,T,O) of x's dtype.

    Raises:
        ValueError: shapes or dtypes that contradict each other, k outside 1..E, or another activation.
    """
    _check(x, logits, up, down, k, activation)
    return _expert_mlp(x, observe(logits, k), up, down, k, activation)


def _check(x: Tensor, logits: Tensor, up: Tensor, down: Tensor, k: int, activation: int) -> None:
    tensors = (("x", x, "B,T,D"), ("logits", logits, "B,T,E"), ("up", up, "E,D,w"), ("down", down, "E,w,O"))
    for name, value, axes in tensors:
        require(value.dim() == 3, f"{name} must be ({axes}), got shape {tuple(value.shape)}")
    wide = accumulator(x.dtype)
    require(logits.dtype == wide, f"logits must be {wide} for x of {x.dtype}, got {logits.dtype}")
    for name, value in (("up", up), ("down", down)):
        require(value.dtype == x.dtype, f"{name} must be {x.dtype} like x, got {value.dtype}")
        require(
            value.shape[0] == logits.shape[2],
            f"{name} {tuple(value.shape)} does not have the logits' {logits.shape[2]} experts",
        )
    require(up.shape[1] == x.shape[2], f"up {tuple(up.shape)} does not fit x of width {x.shape[2]}")
    require(down.shape[1] == up.shape[2], f"down {tuple(down.shape)} does not fit experts of width {up.shape[2]}")
    require(
        tuple(logits.shape[:2]) == tuple(x.shape[:2]),
        # Whole shapes in the message: a single size would tie compiled models to it.
        f"logits {tuple(logits.shape)} do not have the rows and tokens of x {tuple(x.shape)}",
    )
    require(1 <= k <= up.shape[0], f"k = {k} must lie between 1 and the number of experts {up.shape[0]}")
    require(0 <= activation < len(ACTIVATIONS), f"activation must be 0, 1 or 2, got {activation}")


def _gelu(approximate: str) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]:
    backward = torch.ops.aten.gelu_backward

    def differentiate(grad: Tensor, h: Tensor) -> Tensor:
        result: Tensor = backward(grad, h, approximate=approximate)
        return result

    return lambda h: F.gelu(h, approximate=approximate), differentiate


# Each activation with its gradient.
_ACTIVATIONS: tuple[tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]], ...] = (
    (F.relu, lambda grad, h: grad * (h > 0)),
    _gelu("none"),
    _gelu("tanh"),
)


def activate(hidden: Tensor, activation: int) -> Tensor:
    """Apply the activation of that number."""
    return _ACTIVATIONS[activation][0](hidden)


def _hidden(x: Tensor, logits: Tensor, up: Tensor, k: int) -> tuple[Selection, Tensor, Tensor]:
    """Return the choices, their rows of x (S,D), and those times the expert's first matrix (S,w), all by expert."""
    selection = select(logits.unsqueeze(2), k)
    read = x.flatten(0, 1).to(accumulator(x.dtype))[selection.order // k]
    return selection, read, blockwise(read, up, selection.sizes)


def _reference(x: Tensor, logits: Tensor, up: Tensor, down: Tensor, k: int, activation: int) -> Tensor:
    selection, _, hidden = _hidden(x, logits, up, k)
    product = blockwise(activate(hidden, activation), down, selection.sizes)[selection.inverse]
    tokens = x.shape[0] * x.shape[1]
    summed = torch.bmm(selection.gates.view(tokens, 1, k), product.view(tokens, k, down.shape[2]))
    return summed.view(*x.shape[:2], down.shape[2]).to(x.dtype)


def _gradient(
    output_gradient: Tensor,
    needed: list[int],
    x: Tensor,
    logits: Tensor,
    up: Tensor,
    down: Tensor,
    k: int,
    activation: int,
) -> dict[int, Tensor]:
    """Return the gradients of x, logits, up and down; one product grad @ downᵀ serves the gates and all before them."""
    selection, read, hidden = _hidden(x, logits, up, k)
    gates = selection.gates
    ordered_gates = gates[selection.order].unsqueeze(1)
    active = activate(hidden, activation)
    arrived = output_gradient.flatten(0, 1).to(read.dtype)[selection.order // k]
    back = blockwise(arrived, down.transpose(1, 2), selection.sizes)
    of_gates = (back * active).sum(-1)[selection.inverse] * gates * (1 - gates)
    of_logits = torch.zeros_like(logits).scatter_(-1, selection.chosen.squeeze(2), of_gates.view(*logits.shape[:2], k))
    of_hidden = _ACTIVATIONS[activation][1](back * ordered_gates, hidden)
    of_read = blockwise(of_hidden, up.transpose(1, 2), selection.sizes)[selection.inverse]
    return {
        0: of_read.view(*x.shape[:2], k, x.shape[2]).sum(2),
        1: of_logits,
        2: blockwise_outer(read, of_hidden, selection.sizes),
        3: blockwise_outer(active, arrived * ordered_gates, selection.sizes),
    }


def _fake(x: Tensor, logits: Tensor, up: Tensor, down: Tensor, k: int, activation: int) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1], down.shape[2]))


_SCHEMA = "(Tensor x, Tensor logits, Tensor up, Tensor down, int k, int activation) -> Tensor"
_expert_mlp = register("expert_mlp", _SCHEMA, _reference, _fake, _gradient)
