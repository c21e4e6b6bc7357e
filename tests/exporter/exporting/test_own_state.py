"""Modules whose forward writes, casts or draws on a context: refused by name, and never changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hsm_export
import onnxruntime
from hsm_export.errors import BadInputError


class Remembering(nn.Module):
    """Adds what it saw last; `kind` says where it keeps that."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.gain = nn.Parameter(torch.ones(3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.kind == "buffer":
            y = x * self.gain + self.last
            self.last[:2] = x.mean((0, 1))[:2]
            return y
        if self.kind == "weight":
            self.gain.mul_(0.5)
            return x * self.gain
        self.last.copy_(x.mean((0, 1)))
        return x * self.gain + self.last


@pytest.mark.parametrize(("kind", "word"), [("buffer", "last"), ("weight", "gain")])
def test_what_forward_remembers_is_named(kind: str, word: str, tmp_path: Path) -> None:
    module = Remembering(kind)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(BadInputError, match=f"writes .*{word}"):
        hsm_export.export(module, (torch.randn(2, 5, 3),), tmp_path / "m.onnx")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not list(tmp_path.iterdir())


def test_what_is_written_but_not_remembered_exports(tmp_path: Path) -> None:
    module = Remembering("nothing")
    hsm_export.export(module, (torch.randn(2, 5, 3),), tmp_path / "m.onnx")
    assert module.calls == 0 and not module.last.any()


class Casting(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.linear = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "half":
            return (self.linear(x).half() * 2).float()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.way == "autocast"):
            y = self.linear(x)
        return y.float()


@pytest.mark.parametrize(("way", "kind"), [("half", "float16 at line"), ("autocast", "bfloat16 before line")])
def test_half_precision_in_a_float32_module_is_refused_with_the_line(way: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=f"computes in {kind} .*test_own_state.py"):
        hsm_export.export(Casting(way), (torch.randn(2, 5, 3),), tmp_path / "m.onnx")


def test_an_ambient_autocast_changes_nothing(tmp_path: Path) -> None:
    module, x = Casting("none"), torch.randn(2, 5, 3)
    expected = module(x).detach().numpy()
    with torch.autocast("cpu", dtype=torch.float16):
        hsm_export.export(module, (x,), tmp_path / "m.onnx")
        assert hsm_export.validate(tmp_path / "m.onnx", against=module, runtimes=["ort"]).passed
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": x.numpy()})
    assert output.dtype == np.float32 and np.allclose(output, expected, atol=1e-6)
