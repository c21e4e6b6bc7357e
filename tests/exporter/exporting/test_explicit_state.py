"""Streaming modules: their buffers become inputs and outputs of the file, and the numbers are those of the stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hsm_export
import onnxruntime
from hsm_export.errors import BadInputError, UsageError


class Stream(nn.Module):
    """A causal convolution that keeps the frames before (one buffer is replaced, one written in place)."""

    cache: Tensor
    seen: Tensor

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(3, 3, 4)
        self.in_place = in_place
        self.register_buffer("cache", torch.zeros(1, 3, 3))
        self.register_buffer("seen", torch.zeros(1, 1))

    def forward(self, frames: Tensor) -> Any:
        x = torch.cat((self.cache, frames), 2)
        if self.in_place:
            self.cache.copy_(x[:, :, -3:])
            self.seen.add_(frames.shape[2])
        else:
            self.cache = x[:, :, -3:]
            self.seen = self.seen + frames.shape[2]
        return {"frames": self.convolution(x), "mean": x.mean(2) / self.seen}


@pytest.mark.parametrize("in_place", [True, False])
def test_a_stream_in_pieces_is_the_stream(in_place: bool, tmp_path: Path) -> None:
    module, path = Stream(in_place).eval(), tmp_path / "stream.onnx"
    x = torch.randn(1, 3, 24)
    stream = hsm_export.ExplicitState(module, ["cache", "seen"])
    dynamic = {"frames": {0: "batch", 2: "length"}}
    hsm_export.export(stream, {"frames": x, "past": stream.initial()}, path, dynamic=dynamic)
    assert not module.cache.any()  # the user's own module is as it was
    session = onnxruntime.InferenceSession(path)
    assert {one.name for one in session.get_inputs()} == {"frames", "past_cache", "past_seen"}
    state = {f"past_{name}": value.numpy() for name, value in stream.initial().items()}
    pieces = []
    for piece in x.numpy().reshape(1, 3, 3, 8).transpose(2, 0, 1, 3):
        found = dict(
            zip([one.name for one in session.get_outputs()], session.run(None, {"frames": piece, **state}), strict=True)
        )
        state = {f"past_{name}": found[f"present_{name}"] for name in ("cache", "seen")}
        pieces.append(found["frames_output"] if "frames_output" in found else found["frames"])
    with torch.no_grad():
        np.testing.assert_allclose(np.concatenate(pieces, 2), module(x)["frames"].numpy(), atol=1e-5)
    module = Stream(in_place).eval()
    assert hsm_export.validate(
        path, hsm_export.ExplicitState(stream.module, ["cache", "seen"]), runtimes=["ort"]
    ).passed


def test_the_refusal_names_the_road(tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as caught:
        hsm_export.export(Stream(True), (torch.randn(1, 3, 8),), tmp_path / "m.onnx", dynamic={"frames": {2: "length"}})
    assert "hsm_export.ExplicitState(module, [" in str(caught.value.hint)


def test_what_is_refused() -> None:
    module = nn.BatchNorm1d(3)
    with pytest.raises(UsageError, match="BatchNorm1d has no buffer cache"):
        hsm_export.ExplicitState(module, ["cache"])
    with pytest.raises(UsageError, match="is not one row"):
        hsm_export.ExplicitState(module, ["running_mean"]).initial(batch=2)
