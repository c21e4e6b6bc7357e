"""Sizes that belong together, because a module's code takes one of two ways by them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from hsm_export import export, validate
from hsm_export.errors import BadInputError
from hsm_export.exporting.relations import relations
from hsm_export.formats.tensor import InputSpec
from hsm_export.onnx_model.model_file import open_model
from hsm_export.validation.cases import raised


class Padding(torch.nn.Module):
    """Pads a mask that is shorter than the sequence, as models of the package transformers do."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        missing = x.shape[1] - mask.shape[1]
        if missing > 0:
            mask = torch.nn.functional.pad(mask, (0, missing))
        return x.mean(1) * torch.gather(mask, 1, torch.arange(x.shape[1])[None].expand(x.shape[0], -1)).mean(1)[:, None]


def spec(name: str, *shape: int | str) -> InputSpec:
    return InputSpec(name, "float32", shape)


@pytest.mark.parametrize(
    ("guards", "expected"),
    [
        (["L['tensors'][0].size()[1] + ((-1)*L['tensors'][1].size()[1]) <= 0"], ("length <= span",)),
        (["L['tensors'][1].size()[1] < 2*L['tensors'][0].size()[1]"], ("span < 2 * length",)),
        (["L['tensors'][0].size()[1] <= 512", "L['tensors'][1].size()[1] == L['tensors'][0].size()[1]"], ()),
        (["L['tensors'][0].size()[2] <= L['tensors'][0].size()[1]"], ()),  # 4 <= length: of one dimension
        (["L['self'].flag is True", "not a guard ("], ()),
        # Numbers of elements, with and without a product.
        (["5*L['tensors'][0].size()[0]*((-1) + (L['tensors'][0].size()[1]//2)) >= 2"], ()),
        (["L['tensors'][0].size()[0] * L['tensors'][0].size()[1] < L['tensors'][1].size()[1]"], ()),
    ],
)
def test_comparisons_of_two_sizes_are_kept(guards: list[str], expected: tuple[str, ...]) -> None:
    inputs = [spec("x", "batch", "length", 4), spec("mask", "batch", "span")]
    assert relations(guards, inputs) == expected


def test_what_relations_want_larger_is_raised() -> None:
    both = ["a <= b", "b <= a"]
    assert raised(both, {"a": 5, "b": 11}) == {"a": 11, "b": 11} == raised(both, {"a": 11, "b": 5})
    assert raised(["a < b", "c > b"], {"a": 7, "b": 2, "c": 3}) == {"a": 7, "b": 8, "c": 9}
    assert raised(["2 * a <= b", "a <= d"], {"a": 5, "b": 1}) == {"a": 5, "b": 1}


def test_a_file_says_where_it_holds_and_is_validated_there(tmp_path: Path) -> None:
    path, module = tmp_path / "m.onnx", Padding().eval()
    example = (torch.randn(2, 7, 4), torch.ones(2, 7))
    result = export(module, example, path)
    relation = next(text for text in open_model(path).relations if "<=" in text)
    assert any(f"the file holds where {relation}: the module takes another way elsewhere" in s for s in result.fixed)
    checked = validate(path, module, runtimes=["ort"])
    assert checked.passed
    assert any("sizes are chosen so that" in note for note in checked.notes)
    assert len(checked.cases) > 3


@pytest.mark.parametrize("wrong", ['["__import__(1)"]', '["a + b"]', '"a <= b"', "[3]", '["a ** b <= 1"]'])
def test_malformed_relations_are_refused(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "m.onnx"
    export(torch.nn.Linear(2, 2).eval(), (torch.randn(3, 2),), path)
    model = onnx.load(path)
    model.metadata_props.add(key="hsm_export.relations", value=wrong)
    onnx.save(model, path)
    with pytest.raises(BadInputError, match="relations is not a list of comparisons"):
        open_model(path)
