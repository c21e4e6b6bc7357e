"""Operators for onnx's Python evaluator that slide a window over their input: convolutions and pools, in PyTorch.

The evaluator's own take many times as long; what is rare they still do.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_average_pool, op_conv_transpose, op_max_pool

Array = NDArray[Any]
# The evaluator's own; they have no types.
_ConvTranspose: Any = op_conv_transpose.ConvTranspose
_MaxPool: Any = op_max_pool.MaxPool
_AveragePool: Any = op_average_pool.AveragePool_19


class Conv(OpRun):
    """A convolution. PyTorch also errs less than the evaluator."""

    def _run(self, x: Array, w: Array, b: Array | None = None, **attributes: Any) -> tuple[Array]:
        return (convolved(x, w, b, **attributes),)


def convolved(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    auto_pad: str | None = None,
    dilations: Sequence[int] | None = None,
    group: int | None = None,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Array:
    """Return a convolution (N,O,…) of x (N,C,…) with w (O,C/group,…) and the bias b (O), by ONNX's attributes."""
    rank = x.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    pads = pads if pads and auto_pad in (None, "NOTSET") else [0] * 2 * rank
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same_pads(x.shape[2:], w.shape[2:], strides, dilations, upper=auto_pad == "SAME_UPPER")
    padding, ends = list(pads[:rank]), list(pads[rank:])
    if padding != ends:
        x, padding = _grown(x, padding, ends, 0.0), [0] * rank
    arrays = [x, w] if b is None else [x, w, b]
    options = {"stride": list(strides), "padding": padding, "dilation": list(dilations), "groups": group or 1}
    return _in_torch(f"conv{rank}d", arrays, x.dtype, options)


class ConvTranspose(_ConvTranspose):  # type: ignore[misc]
    """A transposed convolution."""

    def _run(self, x: Array, w: Array, b: Array | None = None, **attributes: Any) -> tuple[Array]:
        rank = x.ndim - 2
        given = {name: value for name, value in attributes.items() if value}
        strides, dilations = given.get("strides", [1] * rank), given.get("dilations", [1] * rank)
        further = given.get("output_padding", [0] * rank)
        beyond = any(more >= max(pair) for more, *pair in zip(further, strides, dilations, strict=True))
        if given.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or given.get("output_shape") or beyond:
            result: tuple[Array] = super()._run(x, w, b, **attributes)
            return result
        options = {
            "stride": list(strides),
            "output_padding": list(further),
            "groups": given.get("group", 1),
            "dilation": list(dilations),
        }
        y = _in_torch(f"conv_transpose{rank}d", [x, w] if b is None else [x, w, b], x.dtype, options)
        pads = given.get("pads", [0] * 2 * rank)
        inner = [slice(pads[axis], y.shape[axis + 2] - pads[rank + axis]) for axis in range(rank)]
        place = (slice(None), slice(None), *inner)
        return (np.ascontiguousarray(y[place]),)


class MaxPool(_MaxPool):  # type: ignore[misc]
    """The largest number of each window."""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array, ...]:
        if x.dtype.kind != "f" or len(self.onnx_node.output) > 1:
            results: tuple[Array, ...] = super()._run(x, **attributes)
            return results
        windows = Windows.of(x.shape[2:], attributes)
        options = {"kernel_size": windows.kernel, "stride": windows.strides, "dilation": windows.dilations}
        return (_in_torch(f"max_pool{x.ndim - 2}d", [windows.padded(x, -np.inf)], x.dtype, options),)


class AveragePool(_AveragePool):  # type: ignore[misc]
    """The mean of each window: of what lies in the input, or in its padding too where `count_include_pad` says so."""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array]:
        windows = Windows.of(x.shape[2:], attributes)
        if any(item != 1 for item in windows.dilations):
            result: tuple[Array] = super()._run(x, **attributes)
            return result
        rank = x.ndim - 2
        wide = np.float64 if x.dtype == np.float64 else np.float32
        counted = np.ones((1, 1, *x.shape[2:]), wide)
        if attributes.get("count_include_pad"):
            both = [(windows.starts[axis], windows.given_ends[axis]) for axis in range(rank)]
            counted = np.pad(counted, [(0, 0), (0, 0), *both], constant_values=1.0)
            ends = [more - given for more, given in zip(windows.ends, windows.given_ends, strict=True)]
            counted = _grown(counted, [0] * rank, ends, 0.0)
        else:
            counted = windows.padded(counted, 0.0)
        options = {"kernel_size": windows.kernel, "stride": windows.strides}
        means, shares = (
            _in_torch(f"avg_pool{rank}d", [array], np.dtype(wide), options)
            for array in (windows.padded(x.astype(wide), 0.0), counted)
        )
        return ((means / shares).astype(x.dtype),)


@dataclass(frozen=True)
class Windows:
    """Where a pool's windows lie, an axis each.

    Attributes:
        kernel, strides, dilations: sizes and distances.
        starts, given_ends: the padding.
        ends: what has to be added to the end that the last window fits, less than nothing where no window goes so far.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    starts: list[int]
    given_ends: list[int]
    ends: list[int]

    @classmethod
    def of(cls, sizes: Sequence[int], attributes: Mapping[str, Any]) -> Windows:
        """Read a pool's attributes for an input of these sizes."""
        rank, kernel = len(sizes), list(attributes["kernel_shape"])
        strides = list(attributes.get("strides") or [1] * rank)
        dilations = list(attributes.get("dilations") or [1] * rank)
        automatic = attributes.get("auto_pad") or "NOTSET"
        pads = list((automatic == "NOTSET" and attributes.get("pads")) or [0] * 2 * rank)
        if automatic.startswith("SAME"):
            pads = _same_pads(sizes, kernel, strides, dilations, upper=automatic == "SAME_UPPER")
        starts, ends = pads[:rank], pads[rank:]
        fitting = []
        for axis, size in enumerate(sizes):
            whole = starts[axis] + size + ends[axis]
            extent = (kernel[axis] - 1) * dilations[axis] + 1
            room = whole - extent
            count = 1 + (-(-room // strides[axis]) if attributes.get("ceil_mode") else room // strides[axis])
            # The last window starts in the input or in the padding before it.
            count -= bool((count - 1) * strides[axis] >= size + starts[axis])
            fitting.append((count - 1) * strides[axis] + extent - starts[axis] - size)
        return cls(kernel, strides, dilations, starts, ends, fitting)

    def padded(self, x: Array, value: float) -> Array:
        """Return an input on which every window lies."""
        return _grown(x, self.starts, self.ends, value)


def _grown(x: Array, starts: Sequence[int], ends: Sequence[int], value: float) -> Array:
    """Add to the start and the end of each axis after the second; less than nothing cuts off the end."""
    kept = [slice(0, size + min(end, 0)) for size, end in zip(x.shape[2:], ends, strict=True)]
    both = [(start, max(end, 0)) for start, end in zip(starts, ends, strict=True)]
    place = (slice(None), slice(None), *kept)
    return np.pad(x[place], [(0, 0), (0, 0), *both], constant_values=value)


def _in_torch(name: str, arrays: Sequence[Array], dtype: Any, options: dict[str, Any]) -> Array:
    """Call a function of PyTorch; low precision is accumulated in float32, as on every processor."""
    import torch

    wide = np.float64 if dtype == np.float64 else np.float32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # weights are mapped, and nobody writes to them here
        tensors = [torch.from_numpy(np.ascontiguousarray(item, wide)) for item in arrays]
    function: Any = getattr(torch.nn.functional, name)
    return np.asarray(function(*tensors, **options).numpy().astype(dtype, copy=False))


def _same_pads(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], *, upper: bool
) -> list[int]:
    """Return the padding at the start of each axis, then at the ends, that makes ceil(size / stride) results."""
    starts, ends = [], []
    for size, extent, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (extent - 1) * dilation + 1 - size, 0)
        starts.append(total // 2 if upper else total - total // 2)
        ends.append(total - starts[-1])
    return starts + ends
