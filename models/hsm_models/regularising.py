"""What acts on a model in training only: dropout on its branches, and the regulariser of expert choices."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .experts import Router
from .layers import Layer


class Regulariser:
    """Hooks on a model that work inside a `with` block: nothing of it is in the model, its file or its evaluation.

    Args:
        model: any module; dropout acts on the branches of its `Layer`s, the entropy on its `Router`s.
        dropout: fraction of each branch's output that is dropped.
        entropy: weight of the penalty.
    """

    def __init__(self, model: nn.Module, dropout: float = 0.0, entropy: float = 0.0) -> None:
        self.dropout, self.entropy = dropout, entropy
        layers = [module for module in model.modules() if isinstance(module, Layer)]
        branches = [branch for layer in layers for branch in (layer.mixer, layer.feed_forward)]
        self._branches = [branch for branch in branches if branch is not None] if dropout else []
        self._routers = [module for module in model.modules() if isinstance(module, Router)] if entropy else []
        self._logits: list[Tensor] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> None:
        self._logits = []
        self._hooks = [branch.register_forward_hook(self._drop) for branch in self._branches]
        self._hooks += [router.register_forward_hook(self._keep) for router in self._routers]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def penalty(self) -> Tensor | float:
        """Return the weighted sum over the routers of what `choice_entropy` lacks; 0 without any."""
        return -self.entropy * sum(choice_entropy(logits) for logits in self._logits) if self._logits else 0.0

    def _drop(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return F.dropout(output, self.dropout)

    def _keep(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._logits.append(output)


def choice_entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the mean of softmax(logits) over a sequence's tokens and heads, in nats.

    Large where all experts are used equally (arXiv:2312.07987, section 2; arXiv:2310.10837, eq. 21).

    Args:
        logits: (B,T,H,E), averaged over the rows' entropies, or (B,T,E), a single mean over all tokens of the batch.

    Returns:
        A scalar.
    """
    rows = logits.flatten(1, 2) if logits.dim() == 4 else logits.flatten(0, 1).unsqueeze(0)
    mean = torch.logsumexp(F.log_softmax(rows, dim=-1), dim=1) - math.log(rows.shape[1])
    return -(mean.exp() * mean).sum(dim=-1).mean()
