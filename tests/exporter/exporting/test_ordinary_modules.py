"""Ordinary modules of PyTorch whose own code does not trace, or whose numbers are of other types than float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.exporter.exporting.harness import assert_all_agree, session
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import hsm_export
from hsm_export.errors import BadInputError
from hsm_models.mixers import HSM


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool1d(4), nn.AdaptiveMaxPool1d(4)])
def test_adaptive_pools_over_a_dynamic_length(pool: nn.Module, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv1d(3, 5, 3, padding=1), pool)
    result = hsm_export.export(module, (torch.randn(2, 3, 20),), tmp_path / "m.onnx")
    assert result.inputs[0].shape == ("batch", 3, "length")
    assert_all_agree(result.path, module, (torch.randn(1, 3, 7),), (torch.randn(2, 3, 4),), (torch.randn(2, 3, 64),))


def test_adaptive_pools_over_pictures(tmp_path: Path) -> None:
    module = nn.AdaptiveAvgPool2d((3, None))
    dynamic = {"input": {0: "batch", 2: "height", 3: "width"}}
    result = hsm_export.export(module, (torch.randn(2, 3, 9, 10),), tmp_path / "m.onnx", dynamic=dynamic)
    assert_all_agree(result.path, module, (torch.randn(1, 3, 7, 5),), (torch.randn(2, 3, 12, 4),))


class Translator(nn.Module):
    """A Transformer with a causal mask, of which it does not say that it is causal."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)

    def forward(self, source: Tensor, target: Tensor, padding: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=target.dtype)
        result: Tensor = self.transformer(source, target, tgt_mask=mask, src_key_padding_mask=padding)
        return result


def test_transformers_with_masks(tmp_path: Path) -> None:
    def padding(*lengths: int) -> Tensor:
        return torch.arange(6) >= torch.tensor(lengths)[:, None]

    module = Translator()
    examples = torch.randn(2, 6, 8), torch.randn(2, 5, 8), padding(6, 4)
    result = hsm_export.export(module, examples, tmp_path / "m.onnx")
    assert [spec.shape for spec in result.inputs] == [
        ("batch", "length", 8),
        ("batch", "target_length", 8),
        ("batch", "length"),
    ]
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        run = torch.randn(3, 6, 8), torch.randn(3, 9, 8), padding(2, 6, 5)
        assert_all_agree(result.path, module, run, tolerance=3e-6)
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def test_parametrised_weights_are_constants(tmp_path: Path) -> None:
    module = nn.Sequential(
        parametrizations.orthogonal(nn.Linear(8, 8)),
        parametrizations.weight_norm(nn.Linear(8, 4)),
        parametrizations.spectral_norm(nn.Linear(4, 3)),
    ).eval()
    result = hsm_export.export(module, (torch.randn(2, 8),), tmp_path / "m.onnx")
    assert {node.op_type for node in onnx.load(result.path).graph.node} == {"Gemm"}
    assert_all_agree(result.path, module, (torch.randn(5, 8),))
    # The module is as it was, and so is its class.
    assert hasattr(module[0], "parametrizations") and module[0].weight.shape == (8, 8)
    assert hsm_export.validate(result.path, against=module).passed


class Scaled(nn.Module):
    """A little network with numbers that float32 does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.leaky_relu(self.norm(self.first(x)) * 0.3, 0.01)
        result: Tensor = self.attention(y, y, y)[0] + 0.1
        return result


def test_modules_in_float64(tmp_path: Path) -> None:
    module = Scaled().double()
    result = hsm_export.export(module, (torch.randn(2, 6, 8, dtype=torch.float64),), tmp_path / "m.onnx")
    assert result.precision == "fp64" and result.inputs[0].dtype == "float64"
    assert_all_agree(result.path, module, (torch.randn(3, 5, 8, dtype=torch.float64),), tolerance=1e-14)
    assert hsm_export.validate(result.path, against=module).passed

    result = hsm_export.export(module, (torch.randn(2, 6, 8).double(),), tmp_path / "f.onnx", precision="fp32")
    assert result.inputs[0].dtype == "float32"


def test_what_cannot_be_float64_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="has no float64") as mixer:
        hsm_export.export(HSM(8).double(), (torch.randn(2, 6, 8).double(),), tmp_path / "m.onnx")
    assert mixer.value.hint is not None and "module.float()" in mixer.value.hint
    with pytest.raises(BadInputError, match="does not support double") as kernel:
        hsm_export.export(nn.GRU(4, 6).double(), (torch.randn(2, 6, 4).double(),), tmp_path / "m.onnx")
    assert kernel.value.hint is not None and "fp32" in kernel.value.hint
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    with pytest.raises(BadInputError, match=r"several types: 0\.weight float32, 1\.weight float64"):
        hsm_export.export(mixed, (torch.randn(2, 2),), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("dtype", "precision"), [(torch.float16, "fp16"), (torch.bfloat16, "bf16")])
def test_modules_in_half_precision(dtype: torch.dtype, precision: str, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.LayerNorm(8)).to(dtype)
    result = hsm_export.export(module, (torch.randn(2, 8, dtype=dtype),), tmp_path / "m.onnx")
    assert result.precision == precision and result.inputs[0].dtype == "float32"
    assert module[0].weight.dtype == dtype
    x = torch.randn(3, 8)
    (actual,) = session(result.path).run(None, {"input": x.numpy()})
    expected = module.double()(x.double()).detach().numpy()
    assert np.abs(actual - expected).max() < 16 * torch.finfo(dtype).eps


class Rotary(nn.Module):
    """Rotary positions by complex products, and numbers that are looked up, divided and made complex."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(64.0), 10.0 ** (-torch.arange(4) / 4))
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles))

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], 4, 2))
        turned = pairs * self.turns[: x.shape[1], None] / self.turns[place][:, None, None]
        mixed = torch.polar(x[..., :4].abs(), x[..., 4:]) / (turned + 3.0)
        return torch.view_as_real(mixed).flatten(3)


def test_complex_numbers(tmp_path: Path) -> None:
    examples = torch.randn(2, 5, 2, 8), torch.tensor([3, 7])
    dynamic = {"x": {0: "batch", 1: "length"}, "place": {0: "batch"}}
    result = hsm_export.export(Rotary(), examples, tmp_path / "m.onnx", dynamic=dynamic)
    exact = Rotary()
    exact.turns = exact.turns.to(torch.complex128)
    x, place = torch.randn(3, 9, 2, 8), torch.tensor([1, 60, 8])
    (actual,) = session(result.path).run(None, {"x": x.numpy(), "place": place.numpy()})
    assert np.abs(actual - exact(x.double(), place).numpy()).max() < 2e-6


class Branching(nn.Module):
    """Takes one of two ways, then repeats a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        from torch._higher_order_ops.while_loop import while_loop

        start = torch.cond(x.sum() > 0, lambda v: self.layer(v).relu(), lambda v: v.tanh(), (x,))
        found = while_loop(lambda i, v: i < times, lambda i, v: (i + 1, self.layer(v).tanh()), (torch.tensor(0), start))
        result: Tensor = found[1]
        return result


def test_control_flow_is_compared_in_float64(tmp_path: Path) -> None:
    module = Branching()
    result = hsm_export.export(module, (torch.randn(2, 8), torch.tensor(3)), tmp_path / "m.onnx")
    report = hsm_export.validate(result.path, against=module, runtimes=("torch64", "torch", "ort"))
    assert report.passed and report.arbiter == "torch64"


class Bags(nn.Module):
    """Bags by offsets and by rows."""

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.EmbeddingBag(20, 8, padding_idx=0)
        self.largest = nn.EmbeddingBag(20, 8, mode="max")

    def forward(self, ids: Tensor, offsets: Tensor, rows: Tensor) -> Tensor:
        result: Tensor = self.means(ids, offsets) + self.largest(rows)
        return result


def test_bags_of_embeddings(tmp_path: Path) -> None:
    def ids(*shape: int) -> Tensor:
        return torch.randint(0, 20, shape)

    module = Bags()
    result = hsm_export.export(module, (ids(12), torch.tensor([0, 4, 9]), ids(3, 5)), tmp_path / "m.onnx")
    assert_all_agree(result.path, module, (ids(7), torch.tensor([0, 2, 2, 6]), ids(4, 3)))


def test_one_channel_is_no_length(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU())
    result = hsm_export.export(module, (torch.randn(1, 1, 20),), tmp_path / "m.onnx")
    assert result.inputs[0].shape == ("batch", 1, "length")


class Halves(nn.Module):
    """Splits a length that is dynamic."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.chunk(2, 1)
        return first[:, : second.shape[1]] * second, x.split((x.shape[1] + 2) // 3, 1)[0]


def test_splits_of_a_dynamic_length(tmp_path: Path) -> None:
    result = hsm_export.export(Halves(), (torch.randn(2, 9, 8),), tmp_path / "m.onnx")
    assert result.inputs[0].shape == ("batch", "length", 8)
    assert_all_agree(result.path, Halves(), (torch.randn(1, 12, 8),), (torch.randn(3, 7, 8),))


class Graph(nn.Module):
    """Sums and maxima of messages at the nodes of a graph, after attention among them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        source, target = edges[0], edges[1]
        messages = self.layer(nodes[None])[0][source]
        sums = torch.zeros_like(nodes).index_add(0, target, messages)
        places = target[:, None].expand_as(messages)
        return sums + torch.zeros_like(nodes).scatter_reduce(0, places, messages, "amax")


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-6), ("fp16", 2e-2)])
def test_graphs_in_half_precision(precision: str, tolerance: float, tmp_path: Path) -> None:
    """ONNX Runtime scatters no float16, and dies of float16 products of what was transposed."""
    module = Graph()
    examples = torch.randn(7, 8), torch.randint(0, 7, (2, 12))
    result = hsm_export.export(module, examples, tmp_path / "m.onnx", precision=precision)
    run = torch.randn(5, 8), torch.randint(0, 5, (2, 9))
    assert_all_agree(result.path, module, run, tolerance=tolerance)
