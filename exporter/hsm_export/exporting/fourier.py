"""Fourier transforms as products with the matrix of cosines and sines, while a module is traced.

ONNX Runtime's DFT of a size that is no power of two errs by twice that size in units in the last place (a size of 400:
1e-4 of the largest number), and few other runtimes have the operator at all. A product errs as any other does. Large
powers of two stay transforms.

    forward:  X_k = sum_t x_t exp(-2 pi i k t / n)        inverse:  x_t = 1/n sum_k X_k exp(2 pi i k t / n)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# Static sizes up to this are products, and so are those that are dynamic or no powers of two.
_SMALL = 1024


def fourier_forms() -> dict[Any, Callable[..., Any]]:
    """Return the forms by PyTorch's functions that they stand for; a form gives None where that itself serves."""
    import torch

    fft = torch.fft
    found: dict[Any, Callable[..., Any]] = {torch.stft: _stft}
    for kind in ("fft", "ifft", "rfft", "irfft"):
        found[getattr(fft, kind)] = _one(kind)
        for several in ("2", "n"):
            found[getattr(fft, kind + several)] = _several(kind, (-2, -1) if several == "2" else None)
    return found


def _one(kind: str) -> Callable[..., Any]:
    def transform(input: Tensor, n: Any = None, dim: int = -1, norm: str | None = None, *, out: Any = None) -> Any:
        return _transformed(kind, input, None if n is None else [n], [dim], norm)

    return transform


def _several(kind: str, default: Sequence[int] | None) -> Callable[..., Any]:
    def transform(input: Tensor, s: Any = None, dim: Any = default, norm: str | None = None, *, out: Any = None) -> Any:
        if dim is None:
            dim = range(-(input.dim() if s is None else len(s)), 0)
        return _transformed(kind, input, s, list(dim), norm)

    return transform


def _transformed(kind: str, x: Tensor, sizes: Any, dims: Sequence[int], norm: str | None) -> Any:
    """Transform over each of the dimensions; None where PyTorch's own is as good or refuses the arguments."""
    import torch

    inverse, real = kind.startswith("i"), "r" in kind
    if not x.dim() or (kind == "rfft" and x.is_complex()) or (sizes is not None and len(sizes) != len(dims)):
        return None
    sizes = [None] * len(dims) if sizes is None else [None if size == -1 else size for size in sizes]
    own = [x.shape[dim] if size is None else size for dim, size in zip(dims, sizes, strict=True)]
    if kind == "irfft" and sizes[-1] is None:
        own[-1] = 2 * (x.shape[dims[-1]] - 1)
    if not any(_is_product(size) for size in own) or any(isinstance(size, int) and size < 1 for size in own):
        return None
    if not (x.is_complex() or x.is_floating_point()):
        x = x.to(torch.get_default_dtype())
    parts: tuple[Tensor, Tensor | None] = (x.real, x.imag) if x.is_complex() else (x, None)
    last = len(dims) - 1
    order = range(len(dims)) if kind == "irfft" else range(last, -1, -1)  # the half of a spectrum is the last dimension
    for place in order:
        half = real and place == last
        parts = _along(parts, own[place], dims[place], norm or "backward", inverse, half)
    return parts[0] if parts[1] is None else torch.complex(parts[0], parts[1])


def _is_product(size: Any) -> bool:
    return not isinstance(size, int) or size <= _SMALL or bool(size & (size - 1))


def _along(
    parts: tuple[Tensor, Tensor | None], size: Any, dim: int, norm: str, inverse: bool, half: bool
) -> tuple[Tensor, Tensor | None]:
    """Transform real and imaginary parts along one dimension of `size` numbers.

    Args:
        parts: the imaginary one is None for real numbers.
        size: n; what is missing is zero, what is beyond is cut.
        dim: which dimension.
        norm: "backward", "ortho" or "forward".
        inverse: from frequencies to times.
        half: of the frequencies only the first n // 2 + 1 are there, as the times are real.
    """
    import torch

    real, imaginary = (
        None if part is None else _sized(part.movedim(dim, -1), size, inverse and half) for part in parts
    )
    assert real is not None
    frequencies = size // 2 + 1 if half else size
    cosine, sine = _matrices(size, frequencies, real.dtype)  # (n, frequencies)
    scale = {"backward": inverse, "forward": not inverse}.get(norm)
    if scale or scale is None:
        factor = 1.0 / (torch.arange(size)[-1:] + 1).to(real.dtype)
        factor = factor if scale else factor.sqrt()
        cosine, sine = cosine * factor, sine * factor
    made: tuple[Tensor, Tensor | None]
    if inverse:
        if half:
            index = torch.arange(frequencies)
            # Each frequency but 0 and n/2 stands for two.
            count = torch.arange(size)[-1:] + 1
            twice = ((index != 0) & (2 * index != count)).to(real.dtype) + 1.0
            cosine, sine = cosine * twice, sine * twice
        cosine, sine = cosine.mT, sine.mT
        made = _product(real, imaginary, cosine, sine, real_only=half)
    else:
        made = _product(real, imaginary, cosine, -sine)
    first, second = made
    return first.movedim(-1, dim), None if second is None else second.movedim(-1, dim)


def _product(
    real: Tensor, imaginary: Tensor | None, cosine: Tensor, sine: Tensor, real_only: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return (real + i imaginary) @ (cosine + i sine)."""
    if imaginary is None:
        return real @ cosine, None if real_only else real @ sine
    first = real @ cosine - imaginary @ sine
    return first, None if real_only else real @ sine + imaginary @ cosine


def _matrices(size: Any, frequencies: Any, dtype: Any) -> tuple[Tensor, Tensor]:
    """Return cos and sin of 2 pi k t / n, (n, frequencies), each off by a unit in the last place at most.

    The angle is taken to the nearest quarter of a turn in whole numbers, which leaves at most pi/4 to the functions.
    """
    import torch

    count = torch.arange(size)[-1:] + 1  # n as a tensor: not all operators take a size that is dynamic
    turns = torch.arange(size)[:, None] * torch.arange(frequencies)
    turns = turns - turns // count * count
    quarter = (8 * turns + count) // (2 * count)  # 0 to 4
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    angle = (4 * turns - quarter * count).to(wide) * (torch.pi / 2) / count.to(wide)
    cosine, sine = angle.cos().to(dtype), angle.sin().to(dtype)
    odd = (quarter == 1) | (quarter == 3)
    below, behind = (quarter == 1) | (quarter == 2), (quarter == 2) | (quarter == 3)
    return (
        torch.where(below, -1.0, 1.0).to(dtype) * torch.where(odd, sine, cosine),
        torch.where(behind, -1.0, 1.0).to(dtype) * torch.where(odd, cosine, sine),
    )


def _sized(x: Tensor, size: Any, half: bool) -> Tensor:
    """Cut or fill the last dimension to what a transform of `size` numbers reads."""
    import torch

    wanted = size // 2 + 1 if half else size
    if x.shape[-1] is wanted or (isinstance(wanted, int) and isinstance(x.shape[-1], int) and x.shape[-1] == wanted):
        return x
    if not isinstance(wanted, int) and wanted.node.expr == getattr(getattr(x.shape[-1], "node", None), "expr", None):
        return x
    filled = torch.cat((x, torch.zeros_like(x[..., :1]).expand(*x.shape[:-1], wanted)), -1)
    return filled[..., :wanted]


def _stft(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    **other: Any,
) -> Any:
    """Return the transforms of overlapping frames: (B,N) or (N,) -> complex (B,F,frames) or (F,frames)."""
    import torch

    if input.is_complex() or not return_complex or any(other.values()) or not _is_product(n_fft):
        return None
    hop, width = hop_length or n_fft // 4, win_length or n_fft
    window = torch.ones(width, dtype=input.dtype) if window is None else window
    if window.is_complex():
        return None
    left = (n_fft - width) // 2
    window = torch.nn.functional.pad(window, (left, n_fft - width - left))
    signal = input if input.dim() == 2 else input[None]
    if center:
        signal = torch.nn.functional.pad(signal[:, None], (n_fft // 2, n_fft // 2), mode=pad_mode)[:, 0]
    count = (signal.shape[-1] - n_fft) // hop + 1
    places = torch.arange(count)[:, None] * hop + torch.arange(n_fft)
    frames = signal[:, places] * window
    kind = "fft" if onesided is False else "rfft"
    found = _transformed(kind, frames, None, [-1], "ortho" if normalized else "backward").mT
    return found if input.dim() == 2 else found[0]
