"""A file that a few random roundings condemn is refused only if many do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.exporter.exporting.models import language_model

import hsm_export
from hsm_export.errors import NumbersDifferError
from hsm_export.exporting import comparing
from hsm_export.runtimes.rounding import draws
from hsm_models import HSMConfig


@pytest.mark.parametrize("faults", [1, 2])
def test_what_differs_is_measured_again(faults: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    compare, references = comparing.compare, comparing.references

    def watched(*arguments: Any, many: bool = False, **named: Any) -> Any:
        seen.append(many)
        return references(*arguments, many=many, **named)

    def differing(*arguments: Any) -> Any:
        if len(seen) <= faults:
            raise NumbersDifferError("it is off by a little more than allowed")
        return compare(*arguments)

    monkeypatch.setattr(comparing, "references", watched)
    monkeypatch.setattr(comparing, "compare", differing)
    model = language_model(HSMConfig(mixing="scalar"))
    if faults == 1:
        assert hsm_export.export(model, output=tmp_path / "m.onnx").path.exists()
    else:
        with pytest.raises(NumbersDifferError):
            hsm_export.export(model, output=tmp_path / "m.onnx")
        assert not list(tmp_path.iterdir())
    assert seen == [False, True]


def test_many_draws_begin_with_the_few() -> None:
    few, many = draws(1000), draws(1000, many=True)
    assert len(many) > 2 * len(few) and list(many)[: len(few)] == list(few)
