"""PyTorch's table of translations is made once a process, and no call changes it for the next."""

from __future__ import annotations

import pytest

from hsm_export.exporting import torchlib

registration = pytest.importorskip("torch.onnx._internal.exporter._registration")


def test_the_table_is_read_once_and_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = registration.ONNXRegistry
    before = vars(registry)["from_torchlib"]
    torchlib._table.cache_clear()
    with torchlib.read_once():
        first = registry.from_torchlib(opset_version=18)
    read: list[object] = []
    monkeypatch.setattr(registry, "_register", lambda *arguments: read.append(arguments))
    with torchlib.read_once(), torchlib.read_once():
        second = registry.from_torchlib(opset_version=18)
    assert not read and vars(registry)["from_torchlib"] is before
    assert first.functions == second.functions and first.opset_version == second.opset_version == 18
    name = next(iter(first.functions))
    first.functions[name].clear()
    first.functions.pop(next(reversed(first.functions)))
    assert second.functions[name] and len(second.functions) == len(first.functions) + 1
