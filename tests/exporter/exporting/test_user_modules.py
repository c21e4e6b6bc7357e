"""Modules that the exporter has never seen: a user's own, with our mixers and with a mixing function of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.exporter.exporting.harness import assert_agrees
from tests.exporter.exporting.models import randomised
from torch import Tensor, nn

import hsm_export
from hsm_export.errors import BadInputError, UsageError
from hsm_models.mixers import HSM, TaylorShift
from hsm_models.ops import expert_matmul


class OddMixing(nn.Module):
    """A mixing function that nobody registered: y = tanh(a * current) + b * |shifted|."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(width))
        self.b = nn.Linear(width, width)

    def forward(self, current: Tensor, shifted: Tensor) -> Tensor:
        return torch.tanh(self.a * current) + self.b(shifted.abs())


class Encoder(nn.Module):
    """A user's own network around two of our mixers."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = HSM(width, shifts=(1, 2), mixing=OddMixing(width))
        self.second = TaylorShift(width, heads=2)
        self.head = nn.Linear(width, 3)

    def forward(self, frames: Tensor, scale: Tensor | None = None) -> Tensor:
        x = frames + self.second(self.first(frames))
        x = self.head(x).mean(dim=1)
        return x if scale is None else x * scale.unsqueeze(1)


def test_a_users_module_and_mixing_function(tmp_path: Path) -> None:
    module = randomised(Encoder()).train()
    module.second.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    result = hsm_export.export(module, (torch.randn(1, 6, 16),), tmp_path / "m.onnx", precision="bf16")
    assert result.mixers == {"first": "TokenShift", "second": "TaylorShift"}
    (spec,) = result.inputs
    assert (spec.name, spec.shape, spec.dtype) == ("frames", ("batch", "length", 16), "float32")
    assert result.outputs == ("output",)
    runs = [(torch.randn(batch, length, 16),) for batch, length in ((1, 1), (3, 2), (2, 40))]
    assert_agrees(result.path, module, "bf16", *runs)
    # The module itself is as it was.
    assert module.training and module.first.training and not module.second.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_keyword_arguments_names_and_outputs(tmp_path: Path) -> None:
    module = randomised(Encoder())
    examples = {"frames": torch.randn(2, 6, 16), "scale": torch.rand(2)}
    result = hsm_export.export(
        module, examples, tmp_path / "m.onnx", input_names=["x", "gain"], output_names=["classes"]
    )
    assert [(spec.name, spec.shape) for spec in result.inputs] == [("x", ("batch", "length", 16)), ("gain", ("batch",))]
    assert result.outputs == ("classes",)
    assert_agrees(result.path, module, "fp32", (torch.randn(4, 3, 16), torch.rand(4)))


def test_dimensions_can_be_fixed(tmp_path: Path) -> None:
    module = randomised(Encoder())
    result = hsm_export.export(module, (torch.randn(2, 6, 16),), tmp_path / "m.onnx", dynamic={"frames": {1: "time"}})
    assert result.inputs[0].shape == (2, "time", 16)


class Committee(nn.Module):
    """Asks the same experts twice and returns a dictionary with a hole in it."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(4, 3)
        self.experts = nn.Parameter(torch.empty(1, 3, 4, 4))

    def forward(self, x: Tensor) -> dict[str, Tensor | None]:
        logits = self.router(x).unsqueeze(2)
        first, second = (expert_matmul(x, logits, self.experts, 2) for _ in range(2))
        return {"sum": first + second, "nothing": None, "choice": logits.argmax(-1)}


def test_repeated_experts_and_structured_results(tmp_path: Path) -> None:
    result = hsm_export.export(randomised(Committee()), (torch.randn(2, 5, 4),), tmp_path / "m.onnx")
    assert result.mixers == {"ExpertMatMul": "ExpertMatMul", "ExpertMatMul_2": "ExpertMatMul"}
    assert result.outputs == ("sum", "choice")


class FixedLength(nn.Module):
    """Works for 6 tokens only."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x.transpose(1, 2)).transpose(1, 2)


def test_a_dimension_that_the_code_fixes_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as caught:
        dynamic = {"x": {0: "batch", 1: "length"}}
        hsm_export.export(FixedLength(), (torch.randn(2, 6, 4),), tmp_path / "m.onnx", dynamic=dynamic)
    assert "dimension 1 of input 'x' cannot be dynamic" in caught.value.message
    assert "size 6" in caught.value.message
    assert caught.value.hint is not None and "dynamic={'x': {0: 'batch'}}" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_length_that_nobody_asked_for_is_where_the_code_allows_it(tmp_path: Path) -> None:
    result = hsm_export.export(FixedLength(), (torch.randn(2, 6, 4),), tmp_path / "m.onnx")
    assert result.inputs[0].shape == ("batch", 6, "length") and result.fixed == ()

    flat = nn.Sequential(nn.Flatten(), nn.Linear(24, 3))
    result = hsm_export.export(flat, (torch.randn(2, 6, 4),), tmp_path / "m.onnx")
    assert result.inputs[0].shape == ("batch", 6, 4)
    assert result.fixed == ("input: dimensions 1 to 2 fixed at (6, 4), the module works with no other size",)


def test_the_length_of_a_convolution_is_its_last_dimension(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv1d(3, 5, 4, stride=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1))
    result = hsm_export.export(module, (torch.randn(2, 3, 20),), tmp_path / "m.onnx")
    assert result.inputs[0].shape == ("batch", 3, "length") and result.fixed == ()
    assert len({check.shapes["input"] for check in result.checks}) > 1


def test_a_refusal_prints_nothing_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Decides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(BadInputError, match="a decision that depends on the values"):
        hsm_export.export(Decides(), (torch.randn(2, 6),), tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Untranslatable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svd(x)[1]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Undecided(), ("depends on the values of a tensor", "x.sum() > 0")),
        (Untranslatable(), ("linalg_svd", "no ONNX counterpart")),
    ],
)
def test_what_cannot_be_exported_is_named_in_one_line(
    module: nn.Module, words: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(BadInputError) as caught:
        hsm_export.export(module, (torch.randn(2, 6, 4),), tmp_path / "m.onnx")
    assert all(word in caught.value.message for word in words)
    assert "\n" not in caught.value.message
    assert not list(tmp_path.iterdir())


def test_refusals_before_any_work(tmp_path: Path) -> None:
    x = torch.randn(2, 6, 16)
    target = tmp_path / "m.onnx"
    with pytest.raises(UsageError, match="needs example inputs"):
        hsm_export.export(Encoder(), None, target)
    with pytest.raises(UsageError, match="output path"):
        hsm_export.export(Encoder(), (x,))
    with pytest.raises(UsageError, match="precision must be"):
        hsm_export.export(Encoder(), (x,), target, precision="int8")
    with pytest.raises(UsageError, match="do not fit"):
        hsm_export.export(Encoder(), (x, x, x), target)
    with pytest.raises(BadInputError, match="is float8_e4m3fn, in which no file can compute"):
        hsm_export.export(nn.Linear(4, 4).to(torch.float8_e4m3fn), (x,), target)
    with pytest.raises(UsageError, match="cannot export a dict"):
        hsm_export.export({"a": 1}, (x,), target)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_quantised_modules_are_refused(tmp_path: Path) -> None:
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(16, 16)), {nn.Linear})
    with pytest.raises(BadInputError, match="quantised"):
        hsm_export.export(quantised, (torch.randn(2, 6, 16),), tmp_path / "m.onnx")
    fake = nn.Sequential(nn.Linear(16, 16), torch.ao.quantization.FakeQuantize())
    with pytest.raises(BadInputError, match="quantised"):
        hsm_export.export(fake, (torch.randn(2, 6, 16),), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
