"""Functions of PyTorch that torch.onnx lacks or writes wrongly, in others that it writes right."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def missing_forms() -> dict[Any, Callable[..., Any]]:
    """Return the forms by the functions that they stand for; a form gives None where PyTorch's own serves."""
    import torch

    found: dict[Any, Callable[..., Any]] = {
        torch.nn.functional.cross_entropy: _cross_entropy,
        torch.nn.functional.cosine_embedding_loss: _cosine_embedding_loss,
        torch.nn.functional.binary_cross_entropy_with_logits: _binary_cross_entropy,
        torch.nn.functional.logsigmoid: _log_sigmoid,
        torch.nn.functional.interpolate: _aligned,
        torch.linspace: _spaced,
        torch.searchsorted: _searched,
    }
    forms: dict[str, Callable[..., Any]] = {
        "cumprod": _running_product,
        "cummax": _running_extreme(largest=True),
        "cummin": _running_extreme(largest=False),
        "logcumsumexp": _running_log_sum,
        "kthvalue": _kth,
        "median": _median,
        "remainder": _remainder,
        "take_along_dim": _along,
        "tensor_split": _split,
    }
    found[torch.Tensor.__mod__] = _remainder
    for name in ("scatter", "scatter_add", "scatter_reduce"):
        forms[name] = _scattered(name)
        forms[f"{name}_"] = _scattered(f"{name}_")
    for name, form in forms.items():
        for place in (torch, torch.Tensor):
            if hasattr(place, name):
                found[getattr(place, name)] = form
    return found


def _earlier(input: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the elements (...,1,L) of a dimension, and which of them each place counts, bool (L,L)."""
    import torch

    moved = input.movedim(dim, -1)
    place = torch.arange(moved.shape[-1])
    return moved.unsqueeze(-2), place <= place[:, None]


def _running_product(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor | None:
    if not input.dim():
        return None
    rows, counted = _earlier(input if dtype is None else input.to(dtype), dim)
    return rows.masked_fill(~counted, 1).prod(-1).movedim(-1, dim)


def _running_extreme(largest: bool) -> Callable[..., Any]:
    def form(input: Tensor, dim: int) -> Any:
        import torch

        if not input.dim() or input.dtype is torch.bool:
            return None
        rows, counted = _earlier(input, dim)
        limits: Any = torch.finfo(input.dtype) if input.is_floating_point() else torch.iinfo(input.dtype)
        extreme = (
            (-torch.inf if largest else torch.inf)
            if input.is_floating_point()
            else (limits.min if largest else limits.max)
        )
        masked = rows.masked_fill(~counted, extreme)
        values = masked.amax(-1) if largest else masked.amin(-1)
        # Of several equal ones PyTorch names the last.
        place = torch.arange(counted.shape[-1])
        found = (rows == values.unsqueeze(-1)) & counted
        indices = torch.where(found, place, 0).amax(-1)
        pair = torch.return_types.cummax if largest else torch.return_types.cummin
        return pair((values.movedim(-1, dim), indices.movedim(-1, dim)))

    return form


def _running_log_sum(input: Tensor, dim: int) -> Tensor | None:
    import torch

    if not input.dim():
        return None
    rows, counted = _earlier(input, dim)
    return rows.masked_fill(~counted, -torch.inf).logsumexp(-1).movedim(-1, dim)


def _kth(input: Tensor, k: Any, dim: int = -1, keepdim: bool = False) -> Any:
    """Return the k-th smallest number and where it stands."""
    import torch

    if not input.dim():
        return None
    values, indices = input.topk(k, dim, largest=False)
    found = values.select(dim, -1), indices.select(dim, -1)
    kept = found[0].unsqueeze(dim), found[1].unsqueeze(dim)
    return torch.return_types.kthvalue(kept if keepdim else found)


def _along(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """Return the elements that indices name along a dimension; all others are broadcast."""
    import torch

    if dim is None:
        return input.flatten().gather(0, indices.flatten()).reshape(indices.shape)
    dim = dim % input.dim()
    for other in range(input.dim()):
        if other != dim and input.shape[other] == 1:
            input = input.expand([-1] * other + [indices.shape[other]] + [-1] * (input.dim() - other - 1))
        elif other != dim and indices.shape[other] == 1 and input.shape[other] != 1:
            indices = indices.expand([-1] * other + [input.shape[other]] + [-1] * (input.dim() - other - 1))
        if other != dim:
            torch._check(input.shape[other] == indices.shape[other])  # type: ignore[no-untyped-call]
    return input.gather(dim, indices)


def _remainder(input: Any, other: Any) -> Tensor | None:
    """Return what division leaves, of the divisor's sign: exact as fmod is, where x - floor(x / y) y rounds."""
    import torch

    if not isinstance(input, torch.Tensor) or not input.is_floating_point():
        return None
    if isinstance(other, torch.Tensor) and not other.is_floating_point():
        return None
    if not isinstance(other, (torch.Tensor, int, float)):
        return None
    left = torch.fmod(input, other)
    return torch.where((left != 0) & ((left < 0) != (other < 0)), left + other, left)


def _median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """Return the lower of the two numbers in the middle, and where it stands."""
    import torch

    if not input.dim():
        return None
    if dim is None:
        return input.flatten().sort().values.select(0, (input.numel() - 1) // 2)
    values, indices = input.sort(dim)
    middle = (input.shape[dim] - 1) // 2
    found = values.select(dim, middle), indices.select(dim, middle)
    kept = found[0].unsqueeze(dim), found[1].unsqueeze(dim)
    return torch.return_types.median(kept if keepdim else found)


def _split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...] | None:
    """Cut a dimension of dynamic size into parts of nearly equal sizes: part j has ceil((n - j) / parts)."""
    size: Any = input.shape[dim]
    parts = indices_or_sections
    if isinstance(size, int) or not isinstance(parts, int):
        return None
    found, start = [], size * 0
    for part in range(parts):
        width = (size + (parts - 1 - part)) // parts
        found.append(input.narrow(dim, start, width))
        start = start + width
    return tuple(found)


def _aligned(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
    **rest: Any,
) -> Tensor | None:
    """Return aligned corners of dynamic sizes, of which PyTorch's trace divides by zero where a size is 1.

    Two elements are computed in its place, of which the first is the one.
    """
    import torch

    sizes = [size] * (input.dim() - 2) if not isinstance(size, (list, tuple)) else list(size)
    if not align_corners or scale_factor is not None or all(isinstance(item, int) for item in sizes):
        return None
    least = [item if isinstance(item, int) else torch.sym_max(item, 2) for item in sizes]  # type: ignore[no-untyped-call]
    y = torch.nn.functional.interpolate(input, least, mode=mode, align_corners=True, **rest)
    for dim, item in enumerate(sizes, 2):
        y = y if isinstance(item, int) else y.narrow(dim, 0, item)
    return y


def _spaced(start: Any, end: Any, steps: Any, *, dtype: Any = None, **options: Any) -> Tensor | None:
    """Return a dynamic number of values from start to end, which PyTorch's own would fix."""
    import torch

    if isinstance(steps, int) or any(value is not None for value in options.values()):
        return None
    place = torch.arange(steps)
    wide = dtype or torch.get_default_dtype()
    last = place[-1:].clamp(min=1).to(wide)
    # From the nearer end, so that both are exact.
    first = start + (end - start) * (place.to(wide) / last)
    behind = end - (end - start) * ((place[-1:] - place).to(wide) / last)
    return torch.where(2 * place < place[-1:] + 1, first, behind)


def _searched(
    sorted_sequence: Tensor, input: Any, *, right: bool = False, side: str | None = None, **options: Any
) -> Any:
    """Return how many elements of a sorted sequence are below each number."""
    import torch

    if not isinstance(input, torch.Tensor) or any(options.values()):
        return None
    values = input.unsqueeze(-1)
    rows = sorted_sequence if sorted_sequence.dim() == 1 else sorted_sequence.unsqueeze(-2)
    return (rows <= values if right or side == "right" else rows < values).sum(-1)


def _log_sigmoid(input: Tensor) -> Tensor:
    """Return log(1 / (1 + exp(-x))), which torch.onnx takes by a sigmoid that is 0 below -104."""
    return input.clamp(max=0) - input.abs().neg().exp().log1p()


def _binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor | None:
    """Return -w (p y log s(x) + (1 - y) log(1 - s(x))), s the sigmoid and p the weight of positive ones."""
    if size_average is not None or reduce is not None:
        return None
    positive = target if pos_weight is None else target * pos_weight
    each = (1 - target) * input - (positive + 1 - target) * _log_sigmoid(input)
    each = each if weight is None else each * weight
    return each if reduction == "none" else each.sum() if reduction == "sum" else each.mean()


def _cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0.0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor | None:
    """Return 1 - cos where the target is 1, and what the cosine exceeds the margin by where it is -1."""
    import torch

    if size_average is not None or reduce is not None:
        return None
    squares = [(value * value).sum(-1) + 1e-12 for value in (input1, input2)]
    cosine = (input1 * input2).sum(-1) / (squares[0] * squares[1]).sqrt()
    apart = torch.where(target == -1, (cosine - margin).clamp(min=0), torch.zeros_like(cosine))
    each = torch.where(target == 1, 1 - cosine, apart)
    return each if reduction == "none" else each.sum() if reduction == "sum" else each.mean()


def _scattered(name: str) -> Callable[..., Any]:
    """Return the form of a scatter, whose source may be larger than its index: ONNX wants equal sizes."""

    def form(input: Tensor, dim: int, index: Tensor, src: Any = None, *rest: Any, **options: Any) -> Any:
        import torch

        src = options.pop("value", src) if src is None else src
        if not isinstance(src, torch.Tensor) or not src.dim() or src.dim() != index.dim():
            return None
        cut = src
        for place, (size, own) in enumerate(zip(index.shape, src.shape, strict=True)):
            if size is not own and not _equal(size, own):
                cut = cut.narrow(place, 0, size)
        if cut is src:
            return None
        return getattr(torch.Tensor, name)(input, dim, index, cut, *rest, **options)

    return form


def _equal(first: Any, second: Any) -> bool:
    """Say whether two sizes are known to be equal, without deciding that they are."""
    if isinstance(first, int) and isinstance(second, int):
        return first == second
    expressions = [getattr(getattr(size, "node", None), "expr", size) for size in (first, second)]
    return bool(expressions[0] == expressions[1])


def _cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor | None:
    """Return the cross entropy of classes with smoothed labels, of which torch.onnx forgets some; else None."""
    if not label_smoothing or target.is_floating_point() or size_average is not None or reduce is not None:
        return None
    channel = 0 if input.dim() == 1 else 1
    logs = input.log_softmax(channel)
    counted = target != ignore_index
    safe = target.masked_fill(~counted, 0)
    picked = -logs.gather(channel, safe.unsqueeze(channel)).squeeze(channel)
    shape = [-1 if place == channel else 1 for place in range(input.dim())]
    weighted = logs if weight is None else logs * weight.reshape(shape)
    each = counted.to(input.dtype) if weight is None else weight[safe] * counted
    smooth = -weighted.sum(channel) * counted
    total = (1 - label_smoothing) * picked * each + label_smoothing / input.shape[channel] * smooth
    if reduction == "none":
        return total
    return total.sum() if reduction == "sum" else total.sum() / each.sum()
