"""The cases of validation: every dimension by itself, inside the module's domain, values from use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hsm_export
from hsm_export.errors import BadInputError, UsageError
from hsm_export.onnx_model.model_file import open_model
from hsm_export.validation.cases import covered, default_cases, shaped_cases
from hsm_models.mixers import HSM, TaylorShift


class Planes(nn.Module):
    """Three sizes beside the batch, in two inputs; a mask, ids, and lengths under a name of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 8)
        self.mix = TaylorShift(8, heads=2)

    def forward(self, planes: Tensor, ids: Tensor, frames: Tensor, valid: Tensor, hidden: Tensor) -> Tensor:
        y = self.mix(frames, valid).masked_fill(hidden.unsqueeze(-1), 0.0).sum(1)
        return planes.mean((2, 3)) + self.table(ids).sum(1) + y


@pytest.fixture(scope="module")
def planes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("planes") / "planes.onnx"
    torch.manual_seed(0)
    hsm_export.export(
        Planes(),
        (
            torch.randn(2, 8, 4, 6),
            torch.full((2, 9), 3),
            torch.randn(2, 9, 8),
            torch.tensor([9, 5], dtype=torch.int32),
            torch.arange(9).expand(2, 9) > 6,
        ),
        path,
        dynamic={"planes": {0: "batch", 2: "height", 3: "width"}},
    )
    return path


def test_dimensions_and_meanings_come_from_the_graph(planes: Path) -> None:
    specs = {spec.name: spec for spec in open_model(planes).inputs}
    assert specs["planes"].shape == ("batch", 8, "height", "width")
    # Ids and frames have nine tokens each in the example, and nothing in the graph makes them equal.
    assert specs["ids"].shape == ("batch", "length") and specs["frames"].shape == ("batch", "frames_length", 8)
    assert (specs["ids"].low, specs["ids"].high) == (0, 29)
    assert specs["valid"].is_lengths and specs["valid"].counts == "frames_length" and specs["valid"].dtype == "int32"
    assert specs["hidden"].is_mask and specs["hidden"].usual == 0


def test_every_dimension_changes_by_itself(planes: Path) -> None:
    file = open_model(planes)
    cases, _ = default_cases(file)
    seen = [{**dict(zip("bhw", (case.shapes["planes"][i] for i in (0, 2, 3)), strict=True))} for case in cases]
    for case, size in zip(cases, seen, strict=True):
        size |= {"l": case.shapes["ids"][1], "f": case.shapes["frames"][1]}
        assert case.feed["valid"].max() <= size["f"]
        assert not case.feed["hidden"].all(1).any()
    for one in "hwlf":
        for other in set("hwlf") - {one}:
            assert any(size[one] != size[other] for size in seen)
    assert "height 1, 3, " in covered(cases, file) and "frames_length" in covered(cases, file)
    report = hsm_export.validate(planes, runtimes=["ort"], shapes=[{"height": 13, "frames_length": 6}])
    assert report.passed and any("height 13" in note for note in report.notes)


def test_sizes_by_name_are_checked(planes: Path) -> None:
    file = open_model(planes)
    for shape, words in (({"depth": 3}, "no dimension depth"), ({"height": 0}, "at least 1"), ((2, 0), "at least 1")):
        with pytest.raises(UsageError, match=words):
            shaped_cases(file, [shape])


def narrow(x: Tensor) -> Tensor:
    if not 3 <= x.shape[1] <= 20:
        raise ZeroDivisionError("between 3 and 20 tokens")
    return x


def never(x: Tensor) -> Tensor:
    raise KeyError("nothing suits me")


class Choosy(nn.Module):
    def __init__(self, check: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.mix, self.check = HSM(8, shifts=(1, 2)), check

    def forward(self, x: Tensor) -> Tensor:
        return self.check(self.mix(x))


def test_refused_sizes_are_left_out_and_listed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    module = Choosy(narrow)
    hsm_export.export(module, (torch.randn(2, 9, 8),), path)
    report = hsm_export.validate(path, against=module, runtimes=["ort"])
    assert report.passed
    (note,) = [note for note in report.notes if "left out" in note]
    assert "x 1×1×8" in note and "between 3 and 20 tokens" in note
    assert "random 1×1" not in report.cases
    module.check = never
    with pytest.raises(BadInputError, match=r"takes none of the .*nothing suits me"):
        hsm_export.validate(path, against=module, runtimes=["ort"])


class Single(nn.Module):
    """Runs in float32 only, whatever is done about it: it makes its matrix from a NumPy array."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = HSM(8)
        self.rows = [np.eye(8, dtype=np.float32)]

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x) @ torch.from_numpy(self.rows[0])


def test_float32_judges_where_float64_cannot(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    module = Single()
    hsm_export.export(module, (torch.randn(2, 9, 8),), path)
    report = hsm_export.validate(path, against=module, runtimes=["ort"])
    assert report.passed and report.arbiter == "torch32"
    assert any("float32 judges" in note for note in report.notes)
    other = Single()
    other.rows = [2 * module.rows[0]]
    assert not hsm_export.validate(path, against=other, runtimes=["ort"]).passed
