"""The process of one contestant of real_sizes.py: it loads a model, and runs prompts and steps when it is asked to."""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hsm_export.child_process import Channel
from hsm_export.process_memory import resident_bytes

Array = NDArray[Any]


class Model(Protocol):
    """A language model that reads tokens (1,T) from where it stands."""

    def reset(self) -> None:
        """Start anew."""

    def step(self, tokens: Array) -> Array:
        """Read tokens; return the logits (1,1,V) of the last one."""


class OnnxModel:
    """A decoding file in ONNX Runtime, with kernels of ours or without."""

    def __init__(self, path: str, runtime: str, capacity: int) -> None:
        from hsm_export import DecodeSession

        self._session = DecodeSession(path, runtime, capacity=capacity)
        self.reset, self.step = self._session.reset, self._session.step


class TorchModel:
    """The PyTorch model as it is, or compiled."""

    def __init__(self, path: str, runtime: str, capacity: int) -> None:
        import torch

        from hsm_models import load_checkpoint

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        self._torch, self._capacity = torch, capacity
        self._model = load_checkpoint(path).eval()
        forward = self._model.forward_cached
        self._forward = torch.compile(forward, dynamic=False) if runtime == "torch-compile" else forward
        self.reset()

    def reset(self) -> None:
        self._state, self._position = self._model.initial_state(1, self._capacity), 0

    def step(self, tokens: Array) -> Array:
        torch = self._torch
        with torch.inference_mode():
            logits, self._state = self._forward(
                torch.from_numpy(tokens),
                self._state,
                torch.tensor([self._position]),
                torch.tensor([tokens.shape[1]]),
                True,
            )
        self._position += tokens.shape[1]
        return np.asarray(logits.numpy())


class OpenVinoModel:
    """A portable decoding file in OpenVINO; states go in and out as tensors of its own."""

    def __init__(self, path: str, runtime: str, capacity: int) -> None:
        import openvino

        from hsm_export.onnx_model.model_file import open_model

        self._spec, self._capacity = open_model(path).state(), capacity
        settings = {"INFERENCE_NUM_THREADS": int(os.environ["OMP_NUM_THREADS"]), "INFERENCE_PRECISION_HINT": "f32"}
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(path), "CPU", settings)
        # Two requests take turns, so that what one returned is what the other reads.
        self._requests = [compiled.create_infer_request() for _ in range(2)]
        self._names = {name for port in compiled.inputs for name in port.get_names()}
        self._tensor = openvino.Tensor
        self.reset()

    def reset(self) -> None:
        slots = self._capacity if self._spec.needs_capacity else None
        state = self._spec.allocate(1, slots)
        self._state = {name: self._tensor(array) for name, array in state.items()}
        self._position = 0

    def step(self, tokens: Array) -> Array:
        request = self._requests[0]
        self._requests.reverse()
        feed = {"tokens": tokens, "position": np.array([self._position]), "lengths": np.array([tokens.shape[1]])}
        for name, array in feed.items():
            if name in self._names:
                request.set_tensor(name, self._tensor(array))
        for name, tensor in self._state.items():
            request.set_tensor(name, tensor)
        request.infer()
        self._state = {item.past: request.get_tensor(item.present) for item in self._spec.tensors}
        self._position += tokens.shape[1]
        return np.array(request.get_tensor("logits").data)


KINDS = {"ort": OnnxModel, "ort-fused": OnnxModel, "torch": TorchModel, "torch-compile": TorchModel}


class Worker:
    """Answers the requests of real_sizes.py."""

    model: Model

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def load(self, job: dict[str, Any]) -> float:
        """Load a model; return how many seconds that takes, without the imports."""
        import hsm_export.decoding.steppers  # noqa: F401

        kind: Any = KINDS.get(job["runtime"], OpenVinoModel)
        if kind is TorchModel:
            import torch  # noqa: F401

            import hsm_models  # noqa: F401
        start = time.perf_counter()
        self.model = kind(job["path"], job["runtime"], job["capacity"])
        seconds = time.perf_counter() - start
        self._vocabulary = int(job["vocabulary"])
        return seconds

    def check(self, tokens: list[list[int]]) -> dict[str, Any]:
        """Return the logits after a prompt, all but the last tokens, and after each of these; and resident bytes."""
        ids = np.asarray(tokens, np.int64)
        self.model.reset()
        prompt = ids.shape[1] - 3
        pieces = [self.model.step(ids[:, :prompt])]
        pieces += [self.model.step(ids[:, [place]]) for place in range(prompt, ids.shape[1])]
        return {"logits": [piece[0, -1].tolist() for piece in pieces], "resident": resident_bytes()}

    def turn(self, sizes: dict[str, int]) -> dict[str, float]:
        """Read a prompt and take steps; return the seconds of the prompt and of the quickest step."""
        ids = self._rng.integers(0, self._vocabulary, (1, sizes["prompt"] + sizes["steps"]))
        self.model.reset()
        prompt = _seconds(self.model, ids[:, : sizes["prompt"]])
        steps = [_seconds(self.model, ids[:, [place]]) for place in range(sizes["prompt"], ids.shape[1])]
        return {"prompt": prompt, "step": min(steps)}


def _seconds(model: Model, tokens: Array) -> float:
    tokens = np.ascontiguousarray(tokens)
    start = time.perf_counter()
    model.step(tokens)
    return time.perf_counter() - start


def main() -> None:
    """Serve on stdin and stdout."""
    channel = Channel()
    worker = Worker()
    channel.serve({name: getattr(worker, name) for name in ("load", "check", "turn")})


if __name__ == "__main__":
    main()
