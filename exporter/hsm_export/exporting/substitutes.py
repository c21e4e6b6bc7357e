"""What stands in the place of PyTorch's own code while a module is traced: the same maths in a form that ONNX can say.

* Recurrent layers are one operator each (`recurrent`).
* Adaptive pools over a size that is dynamic: torch.onnx writes the bins of the example's size. Here an average is a
  product with the matrix of the bins, which a run computes from its size, and a maximum is one over the masked bins.
* Bags of embeddings with offsets, which torch.onnx writes wrongly, are products with the matrix of who is in which bag.
* `torch.cdist`, which ONNX has not, is the norm of all differences.
* Fourier transforms are products (`fourier`).
* What torch.onnx lacks or writes wrongly besides, such as running products (`missing_forms`).
* Transformers compare a mask with the causal one to take a quicker way, which is a decision on values; here the mask
  counts as it is. Their fused kernels for inference, which ONNX does not know, are switched off.
* In float64, what ONNX keeps in attributes, which are float32, is written with tensors (`float64_forms`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..runtimes.reference_maths import without_fast_path
from .float64_forms import attention_in_float64, float64_forms
from .fourier import fourier_forms
from .missing_forms import missing_forms
from .recurrent import kept_recurrent

if TYPE_CHECKING:
    from torch import Tensor


@contextlib.contextmanager
def substituted() -> Iterator[None]:
    """Trace inside the block with the substitutes."""
    import torch
    from torch.overrides import TorchFunctionMode

    wide = float64_forms()
    always: dict[Any, Callable[..., Any]] = {
        **_pools(),
        torch.cdist: _distances,
        torch.nn.functional.embedding_bag: _bags,
        **fourier_forms(),
        **missing_forms(),
    }

    class Substitutes(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            form = always.get(function)
            if form is not None and (found := form(*args, **(kwargs or {}))) is not None:
                return found
            form = wide.get(function)
            if form is not None and args and args[0].dtype is torch.float64:
                found = form(*args, **(kwargs or {}))
                if found is not None:
                    return found
            return function(*args, **(kwargs or {}))

    kept = kept_recurrent(), _masks_as_given(), attention_in_float64()
    with without_fast_path(), kept[0], kept[1], kept[2], Substitutes():
        yield


def _bags(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor | None:
    """Return the sum, mean or maximum of the embeddings of each bag, (bags, features); None where PyTorch decides.

    A bag is a row of indices (B,N), or in indices (N,) begins at an offset. An empty one is zero.
    """
    import torch

    if max_norm is not None:
        return None
    rows = torch.nn.functional.embedding(input, weight)
    if padding_idx is not None and padding_idx < 0:
        padding_idx += weight.shape[0]
    counted = torch.ones_like(input, dtype=torch.bool) if padding_idx is None else input != padding_idx
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[..., None]
    if offsets is None:
        inside = counted[:, None]  # (B,1,N)
    else:
        starts = offsets[:-1] if include_last_offset else offsets
        place = torch.arange(input.shape[0])
        ends = torch.cat((starts[1:], torch.full_like(starts[:1], 0) + input.shape[0]))
        inside = (place >= starts[:, None]) & (place < ends[:, None]) & counted
    if mode == "max":
        found = rows.unsqueeze(-3).masked_fill(~inside[..., None], -torch.inf).amax(-2)
        found = found.masked_fill(~inside.any(-1, keepdim=True), 0.0)
    else:
        found = inside.to(rows.dtype) @ rows
        if mode == "mean":
            found = found / inside.sum(-1, keepdim=True).clamp(min=1)
    return found.squeeze(-2) if offsets is None else found


def _distances(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    """Return the distances of x1 (...,M,D) and x2 (...,N,D) in the norm p: (...,M,N)."""
    import torch

    found: Tensor = torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, dim=-1)
    return found


@contextlib.contextmanager
def _masks_as_given() -> Iterator[None]:
    """Keep PyTorch's transformers from looking whether a mask is the causal one."""
    from torch.nn.modules import transformer

    own = transformer._detect_is_causal_mask
    transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: bool(is_causal)
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = own


def _pools() -> dict[Any, Callable[..., Tensor | None]]:
    """Return the substitutes of adaptive pools by PyTorch's functions."""
    import torch
    from torch.nn import functional

    found: dict[Any, Callable[..., Tensor | None]] = {}
    for dims in (1, 2, 3):
        name = f"adaptive_avg_pool{dims}d"
        names = [(functional, name), (torch, name), (torch._C._nn, name)]
        for place, own in names:
            if hasattr(place, own):
                found[getattr(place, own)] = _pool(dims, _averages)
        for own in (f"adaptive_max_pool{dims}d", f"_adaptive_max_pool{dims}d"):
            found[getattr(functional, own)] = _pool(dims, _maxima)
    return found


def _pool(dims: int, pooled: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor | None]:
    """Return the pool over the last dimensions, which gives None where PyTorch's own can be traced."""
    import torch

    def pool(input: Tensor, output_size: Any, return_indices: bool = False) -> Tensor | None:
        wished = [output_size] * dims if isinstance(output_size, int) else list(output_size)
        sizes: list[Any] = list(input.shape[-dims:])
        wanted = [size if wish is None else wish for size, wish in zip(sizes, wished, strict=True)]
        open_ = [
            isinstance(size, torch.SymInt) and wish not in (None, 1) for size, wish in zip(sizes, wished, strict=True)
        ]
        if return_indices or not any(open_):
            return None
        for dim, (size, wish, count) in enumerate(zip(sizes, wished, wanted, strict=True), start=-dims):
            if wish is not None:
                input = pooled(input.movedim(dim, -1), _bins(size, count)).movedim(-1, dim)
        return input

    return pool


def _bins(size: Any, count: int) -> Tensor:
    """Return which of the elements each bin has, bool (size, count): floor(i L / N) to ceil((i + 1) L / N)."""
    import torch

    element, index = torch.arange(size)[:, None], torch.arange(count)
    first, behind = index * size // count, ((index + 1) * size + (count - 1)) // count
    inside: Tensor = (element >= first) & (element < behind)
    return inside


def _averages(x: Tensor, bins: Tensor) -> Tensor:
    """Return the means of x (...,L) over bins (L,N)."""
    weights = bins.to(x.dtype)
    return x @ (weights / weights.sum(0))


def _maxima(x: Tensor, bins: Tensor) -> Tensor:
    """Return the largest of x (...,L) in bins (L,N)."""
    import torch

    lowest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    return x[..., None].masked_fill(~bins, lowest).amax(-2)
