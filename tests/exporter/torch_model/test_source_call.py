"""The call that a file keeps: read back as it was, refused when damaged, and replayed by whoever runs the source."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import hsm_export
from hsm_export.errors import BadInputError
from hsm_export.torch_model.source_call import KEY, Slot, SourceCall, tensors
from hsm_models.mixers import HSM

Pair = namedtuple("Pair", "left right")


@dataclass
class Result:
    logits: Tensor
    states: tuple[Tensor, ...]
    loss: Tensor | None = None


def graph(call: str, inputs: tuple[str, ...] = ("x", "m"), outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    def values(names: tuple[str, ...]) -> list[onnx.ValueInfoProto]:
        return [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in names]

    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", values(inputs), values(outputs)))
    model.metadata_props.add(key=KEY, value=call)
    return model


def test_a_call_survives_the_file() -> None:
    call = SourceCall(
        (Slot("x"), [1, 2.5, (None, "text")]),
        {"batch": {"mask": Slot("m"), 3: True}},
        {"x": "model", "m": "int64"},
        {"y": ("logits", 0)},
    )
    assert SourceCall.of_file(graph(call.to_json())) == call
    assert call.names == ("x", "m")
    assert SourceCall.of_file(onnx.ModelProto()) is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"args": [], "kwargs": {}, "types": {}}',
        '{"args": [{"input": "x"}], "kwargs": {}, "types": {"x": "float31"}, "outputs": {}}',
        '{"args": [{"file": "x"}], "kwargs": {}, "types": {}, "outputs": {}}',
        '{"args": [{"input": "x"}, {"input": "x"}], "kwargs": {}, "types": {"x": "model"}, "outputs": {}}',
        '{"args": [{"input": "z"}], "kwargs": {}, "types": {"z": "model"}, "outputs": {}}',
        '{"args": [{"input": "x"}], "kwargs": {}, "types": {"x": "model"}, "outputs": {"q": []}}',
        '{"args": [{"input": "x"}], "kwargs": {}, "types": {"x": "model"}, "outputs": {"y": [null]}}',
        '{"args": ' + '[{"list": ' * 2000 + "[]" + "}]" * 2000 + ', "kwargs": {}, "types": {}, "outputs": {}}',
    ],
)
def test_damaged_calls_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(BadInputError, match=KEY) as caught:
        SourceCall.of_file(graph(text))
    assert "\n" not in caught.value.message


def test_tensors_of_every_kind_of_result() -> None:
    a, b, c = (torch.full((1,), float(value)) for value in range(3))
    results: list[tuple[Any, list[tuple[Any, ...]]]] = [
        (a, [()]),
        ({"x": a, "none": None, "more": [b, 3, (c,)]}, [("x",), ("more", 0), ("more", 2, 0)]),
        (Pair(a, b), [("left",), ("right",)]),
        (Result(a, (b, c)), [("logits",), ("states", 0), ("states", 1)]),
    ]
    for result, keys in results:
        assert [path for path, _ in tensors(result)] == keys


class Odd(nn.Module):
    """Takes a dict, a keyword-only switch and tensors in **more; returns a dataclass that nobody registered."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = HSM(8)

    def forward(
        self, batch: dict[str, Tensor], /, scale: float = 1.0, *, negate: bool = False, **more: Tensor
    ) -> Result:
        y = self.mix(batch["frames"]) * scale + more["bias"].unsqueeze(1)
        return Result(-y if negate else y, (y.mean(1), batch["frames"].sum(2)))


class Swapped(Odd):
    def forward(self, batch: dict[str, Tensor], /, scale: float = 1.0, **more: Any) -> Result:
        return super().forward(batch, 2 * scale, **more)


def test_what_export_called_is_what_validate_calls(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"

    class Bound(nn.Module):
        """Gives Odd its dict by position, because a mapping of examples is a mapping of keywords."""

        def __init__(self, odd: nn.Module) -> None:
            super().__init__()
            self.odd = odd

        def forward(self, batch: dict[str, Tensor], **more: Any) -> Result:
            return self.odd(batch, 3.0, **more)

    examples = {"batch": {"frames": torch.randn(2, 7, 8)}, "negate": True, "bias": torch.randn(2, 8)}
    result = hsm_export.export(Bound(Odd()).train(), examples, path)
    assert [spec.name for spec in result.inputs] == ["batch_frames", "bias"]
    assert result.outputs == ("logits", "states_0", "states_1")
    module = Bound(Odd())
    hsm_export.export(module, examples, path, input_names=["bias", "frames"])
    report = hsm_export.validate(path, against=torch.compile(module), runtimes=["ort"])
    assert report.passed, report.summary
    other = Bound(Swapped())
    other.load_state_dict(module.state_dict())
    assert not hsm_export.validate(path, against=other, runtimes=["ort"]).passed


def test_a_file_that_does_not_say_is_called_by_names_or_places(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    module = nn.Sequential(HSM(8), nn.Linear(8, 2))
    hsm_export.export(module, (torch.randn(2, 5, 8),), path, input_names=["frames"])
    model = onnx.load(path)
    kept = [item for item in model.metadata_props if item.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, path)
    assert hsm_export.validate(path, against=module, runtimes=["ort"]).passed
