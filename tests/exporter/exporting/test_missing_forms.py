"""Functions that torch.onnx lacks, writes wrongly, or in a form that ONNX Runtime computes badly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tests.exporter.exporting.harness import session
from torch import Tensor, nn
from torch.nn import functional

import hsm_export
from hsm_export.errors import HsmExportError
from hsm_export.onnx_model.model_file import open_model

torch.manual_seed(0)
WINDOW, EDGES = torch.hann_window(40), torch.linspace(-2, 2, 7)
WEIGHT = torch.randn(3, 3, dtype=torch.complex64)


class Calls(nn.Module):
    """A module whose forward is a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def transforms(x: Tensor) -> list[Tensor]:
    spectrum = torch.fft.rfft(x)
    return [
        spectrum.abs(),
        torch.fft.irfft(spectrum, n=x.shape[-1]),
        torch.fft.irfft(spectrum, norm="ortho"),
        torch.fft.irfft(spectrum, n=1),
        torch.fft.fft(x, n=12, norm="forward").real,
        torch.fft.ifft2(torch.fft.fft2(x) * 2).real,
        torch.stft(torch.nn.functional.pad(x, (30, 30)), 40, 16, window=WINDOW, return_complex=True).abs(),
    ]


def running(x: Tensor) -> list[Tensor]:
    largest, where = x.cummax(1)
    middle, place = x.median(-1)
    return [
        x.cumprod(1),
        largest,
        where,
        torch.cummin(x, -1)[0],
        x.logcumsumexp(1),
        x.kthvalue(2, -1, keepdim=True)[0],
        middle,
        place,
        *x.tensor_split(3, 1),
    ]


def numbers(x: Tensor) -> list[Tensor]:
    return [
        torch.remainder(x * 1e6, 0.7),
        (x * 1e6) % -0.7,
        torch.searchsorted(EDGES, x),
        functional.logsigmoid(x * 1000),
        functional.binary_cross_entropy_with_logits(x * 1000, x.sigmoid()),
        functional.cosine_embedding_loss(x * 0, x, torch.ones(x.shape[0])),
        torch.linspace(-1, 1, x.shape[1]),
        x / (x.pow(2).sum(-1, keepdim=True) * 0 + 1e-12),
        x * 1.000004,
    ]


def classes(x: Tensor, target: Tensor) -> list[Tensor]:
    index = target[..., None].expand(-1, -1, x.shape[-1])
    return [
        functional.cross_entropy(x.transpose(1, 2), target, ignore_index=3, label_smoothing=0.1),
        functional.cross_entropy(x.flatten(0, 1), target.flatten(), EDGES + 3, label_smoothing=0.2, reduction="sum"),
        torch.zeros(x.shape[0], 7, x.shape[-1]).scatter_add(1, index, x),
        torch.zeros(x.shape[0], 7, x.shape[-1]).scatter_reduce_(1, index, x, "amax"),
    ]


def places(x: Tensor) -> list[Tensor]:
    rows = torch.stack((x, -x), 1)
    wide = x[:, None, :, None].expand(-1, 2, -1, 6) * torch.arange(1.0, 7.0)
    return [
        *functional.max_pool1d(rows, 2, 1, return_indices=True),
        *functional.max_pool2d(wide, 3, 2, 1, ceil_mode=True, return_indices=True),
        *functional.max_pool3d(wide[:, :, None], (1, 2, 2), 1, return_indices=True),
        functional.interpolate(rows, (x.shape[1] + 7) // 8, mode="linear", align_corners=True),
        functional.interpolate(wide, (x.shape[1], 1), mode="bicubic", align_corners=True),
    ]


def products(x: Tensor) -> list[Tensor]:
    """Of complex numbers; the last is as large as its squares are not."""
    z = torch.complex(x, x.flip(1))[..., None] * WEIGHT[:, 0]
    found = [
        torch.einsum("bti,ij,jk->btk", z, WEIGHT, WEIGHT),
        torch.bmm(z, z.transpose(1, 2)),
        functional.linear(z, WEIGHT, WEIGHT[0]),
    ]
    return [*map(torch.view_as_real, found), (z * 1e25).abs() * 1e-25]


def complex_constants(x: Tensor) -> list[Tensor]:
    """Complex numbers in the code, quotients of real and complex tensors, and angles, of a zero of either sign too."""
    z = torch.complex(x, x + 1)
    found = [1j * x, torch.exp(1j * x), z * (2 - 1j), z / 2j, x / torch.complex(x * 0 + 2, x), 1 / (z + 3)]
    signed = torch.complex(torch.tensor([[0.0], [-0.0]]), torch.tensor([[1.0], [-1.0]]))
    return [*map(torch.view_as_real, found), z.angle(), (signed * torch.ones_like(x)[:1]).angle()]


@pytest.mark.parametrize(
    ("function", "sizes"),
    [
        (transforms, [(3, 2), (1, 50)]),
        (running, [(2, 9), (1, 4)]),
        (numbers, [(2, 9), (1, 1)]),
        (places, [(3, 17), (1, 3)]),
        (products, [(3, 4), (1, 1)]),
        (complex_constants, [(3, 4), (1, 1)]),
    ],
)
def test_functions_of_sequences(
    function: Callable[..., list[Tensor]], sizes: list[tuple[int, int]], tmp_path: Path
) -> None:
    result = hsm_export.export(Calls(function), (torch.randn(2, 9),), tmp_path / "m.onnx")
    assert result.inputs[0].shape == ("batch", "length")
    running = session(result.path)
    for size in sizes:
        _assert_close(running, function, torch.randn(size))


def test_functions_of_classes(tmp_path: Path) -> None:
    examples = torch.randn(2, 9, 7), torch.randint(0, 7, (2, 9))
    result = hsm_export.export(Calls(classes), examples, tmp_path / "m.onnx")
    _assert_close(session(result.path), classes, torch.randn(3, 5, 7), torch.randint(0, 7, (3, 5)))


def test_indices_stay_below_what_they_index(tmp_path: Path) -> None:
    """PyTorch's take_along_dim reads beyond the end where an index names nothing, so no case may have one."""
    module = Calls(lambda x, i: x.take_along_dim(i, 1))
    examples = torch.randn(2, 7, 4), torch.randint(0, 7, (2, 3, 4))
    path = hsm_export.export(module, examples, tmp_path / "m.onnx").path
    assert open_model(path).inputs[1].indexes == "length"
    result = hsm_export.validate(path, against=module, runtimes=["ort", "onnx-reference"])
    assert result.passed, result.summary
    fixed = hsm_export.export(
        module, examples, tmp_path / "s.onnx", static={"batch": 2, "length": 5, "tensors_1_length": 2}
    )
    assert fixed.inputs[1].indexes == 5


def test_places_of_the_largest_suit_every_evaluator(tmp_path: Path) -> None:
    module = Calls(lambda x: functional.max_pool2d(x, 2, return_indices=True))
    path = hsm_export.export(module, (torch.randn(2, 3, 8, 8),), tmp_path / "m.onnx").path
    assert hsm_export.validate(path, against=module, runtimes=["ort", "onnx-reference"]).passed


def _assert_close(running: Any, function: Callable[..., list[Tensor]], *inputs: Tensor) -> None:
    names = [value.name for value in running.get_inputs()]
    found = running.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
    for index, (value, expected) in enumerate(zip(found, function(*inputs), strict=True)):
        right = expected.numpy()
        assert value.shape == right.shape, index
        np.testing.assert_allclose(
            value, right, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(right).max()), err_msg=str(index)
        )


def test_small_numbers_are_kept(tmp_path: Path) -> None:
    """onnxscript's rules take 1e-12 for 0 and 1.000004 for 1."""
    module = Calls(lambda x: (x + 1e-12) * 1.000004)
    path = hsm_export.export(module, (torch.randn(2, 9),), tmp_path / "m.onnx").path
    held = {float(onnx.numpy_helper.to_array(t)) for t in onnx.load(path).graph.initializer}
    assert held == {float(np.float32(1e-12)), float(np.float32(1.000004))}


def test_what_may_be_otherwise_passes(tmp_path: Path) -> None:
    """Indices of equal numbers, the deviation of one number, and squares of tiny ones."""
    module = Calls(lambda x: (x.topk(2, -1), x.argsort(1), x.std(1), torch.std_mean(x), x.sum(-1).argmin(-1)))
    path = hsm_export.export(module, (torch.randn(2, 9, 8),), tmp_path / "m.onnx").path
    result = hsm_export.validate(path, against=module, runtimes=["ort"])
    assert result.passed, result.summary
    assert any("NaN" in note for note in result.notes)


class Streaming(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(1, 4, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat((self.cache, x), -1)
        self.cache = y[..., -2:]
        return y.sum(1)


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edges", torch.eye(4).to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(self.edges, x)


def fails(x: Tensor) -> Tensor:
    raise RuntimeError("no luck")


@pytest.mark.parametrize(
    ("module", "example", "words"),
    [
        (Streaming(), torch.randn(1, 4, 8), "forward writes cache"),
        (Sparse(), torch.randn(4, 3), "edges of Sparse is sparse"),
        (Calls(torch.relu), torch.eye(4).to_sparse(), "is a sparse tensor"),
        (Calls(torch.relu), torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "is a nested tensor"),
        (Calls(lambda x: None), torch.randn(2, 3), "returns no tensor"),
        (Calls(fails), torch.randn(2, 3), "RuntimeError: no luck"),
    ],
)
def test_refusals_say_what_is_wrong(module: nn.Module, example: Tensor, words: str, tmp_path: Path) -> None:
    with pytest.raises(HsmExportError, match=words) as raised:
        hsm_export.export(module, (example,), tmp_path / "m.onnx")
    assert raised.value.hint and not list(tmp_path.iterdir())
