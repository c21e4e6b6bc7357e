"""Several threads of a process export at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from tests.exporter.exporting.harness import assert_all_agree
from torch import nn

import hsm_export


def test_two_threads_export_at_once(tmp_path: Path) -> None:
    """What PyTorch shares among threads (default type, functions, fused kernels) is as it was afterwards."""
    from torch.nn.modules import rnn, transformer

    shared = [
        lambda: rnn._VF,
        lambda: transformer._detect_is_causal_mask,
        lambda: rnn.LSTM.check_forward_args,
        torch.get_default_dtype,
        torch.backends.mha.get_fastpath_enabled,
    ]
    before = [read() for read in shared]
    modules = [nn.GRU(3, 4, batch_first=True), nn.LSTM(3, 4, batch_first=True)]
    inputs = (torch.randn(2, 5, 3),)

    def export(index: int) -> Path:
        path = tmp_path / f"{index}.onnx"
        return hsm_export.export(First(modules[index]), inputs, path).path

    with ThreadPoolExecutor(2) as threads:
        paths = list(threads.map(export, range(2)))
    for path, module in zip(paths, modules, strict=True):
        assert_all_agree(path, First(module), (torch.randn(3, 7, 3),))
    assert [read() for read in shared] == before


class First(nn.Module):
    """The tokens' results of a recurrent layer, without its final state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(x)[0]
        return result
