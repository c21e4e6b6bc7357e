"""What the tests play of Triton: its schema, its Python back end and the generate endpoints of its HTTP server.

Written after Triton's documents (protocol/extension_generate.md, python_backend's README) and the mapping of JSON to
tensors in the server's http_server.cc. Not a Triton server: what those documents leave out is not here either.
"""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import queue
import subprocess
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

CANNOT_FETCH = 3
ROOT = Path(__file__).resolve().parents[3]
FINAL = 1
TYPES: Mapping[str, Any] = {
    "TYPE_STRING": np.object_,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_UINT64": np.uint64,
    "TYPE_FP32": np.float32,
    "TYPE_BOOL": np.bool_,
}


@functools.cache
def triton_schema() -> Any:
    """Return Triton's protocol buffers of model configurations, from its client's wheel, or skip the test."""
    fetched = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "fetch.py"), "triton-client"], capture_output=True, text=True, check=False
    )
    assert fetched.returncode in (0, CANNOT_FETCH), fetched.stderr
    if fetched.returncode == CANNOT_FETCH:
        pytest.skip(f"Triton's client cannot be fetched: {fetched.stderr.splitlines()[0]}")
    path = Path(fetched.stdout.strip()) / "tritonclient" / "grpc" / "model_config_pb2.py"
    return _module("triton_model_config", path)


def _module(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(schema: Any, repository: Path, name: str) -> Any:
    """Return a model's configuration; unknown fields and wrong types raise."""
    from google.protobuf import text_format  # type: ignore[import-untyped]

    return text_format.Parse((repository / name / "config.pbtxt").read_text(), schema.ModelConfig())


class TritonError(Exception):
    """As of the back end: a message and a code."""

    UNAVAILABLE, INVALID_ARG, CANCELLED = "unavailable", "invalid argument", "cancelled"

    def __init__(self, message: str, code: str = "internal") -> None:
        super().__init__(message)
        self.code = code


class Tensor:
    """As of the back end: a name and an array."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        self.name, self._array = name, array

    def as_numpy(self) -> np.ndarray:
        return self._array


class InferenceResponse:
    """As of the back end: outputs, or an error."""

    def __init__(self, output_tensors: list[Tensor], error: TritonError | None = None) -> None:
        self.outputs, self.error = output_tensors, error


class Request:
    """One request, which is its response sender too."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.responses: queue.SimpleQueue[tuple[InferenceResponse, bool]] = queue.SimpleQueue()
        self.cancelled = False

    def get_response_sender(self) -> Request:
        return self

    def is_cancelled(self) -> bool:
        return self.cancelled

    def send(self, response: InferenceResponse, flags: int = 0) -> None:
        self.responses.put((response, flags == FINAL))

    def answers(self) -> Iterator[InferenceResponse]:
        """Yield the responses up to the final one."""
        final = False
        while not final:
            response, final = self.responses.get(timeout=60)
            yield response


def backend() -> types.ModuleType:
    """Return the module triton_python_backend_utils as the stand-in has it."""
    module = types.ModuleType("triton_python_backend_utils")
    warnings: list[str] = []
    members = {
        "TRITONSERVER_RESPONSE_COMPLETE_FINAL": FINAL,
        "TritonError": TritonError,
        "TritonModelException": RuntimeError,
        "Tensor": Tensor,
        "InferenceResponse": InferenceResponse,
        "Logger": types.SimpleNamespace(log_warn=warnings.append),
        "get_input_tensor_by_name": lambda request, name: request.tensors.get(name),
    }
    for name, member in members.items():
        setattr(module, name, member)
    return module


class Model:
    """A model of the Python back end, loaded from a repository."""

    def __init__(self, repository: Path, name: str) -> None:
        from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]

        self.name = name
        self.config = MessageToDict(read(triton_schema(), repository, name), preserving_proto_field_name=True)
        sys.modules["triton_python_backend_utils"] = backend()
        try:
            module = _module("triton_model", repository / name / "1" / "model.py")
        finally:
            del sys.modules["triton_python_backend_utils"]
        self.own = module.TritonPythonModel()
        self.own.initialize({"model_config": json.dumps(self.config)})

    def submit(self, document: Mapping[str, Any]) -> Request:
        """Map a JSON object to tensors as the generate endpoints do, and hand the request to the model.

        Raises:
            TritonError: an input is missing, or has another shape.
        """
        tensors = {}
        for entry in self.config["input"]:
            name = entry["name"]
            if name not in document:
                if not entry.get("optional"):
                    raise TritonError(f"expected 1 inputs but got 0 inputs for model '{self.name}'")
                continue
            values = document[name] if isinstance(document[name], list) else [document[name]]
            (size,) = map(int, entry["dims"])
            if size not in (-1, len(values)):
                raise TritonError(f"The schema can not convert input '{name}' to tensor with proper shape")
            if entry["data_type"] == "TYPE_STRING":
                values = [value.encode() for value in values]
            tensors[name] = Tensor(name, np.array(values, dtype=TYPES[entry["data_type"]]))
        request = Request(tensors)
        self.own.execute([request])
        return request


class _Handler(http.server.BaseHTTPRequestHandler):
    models: ClassVar[Mapping[str, Model]]

    def do_POST(self) -> None:
        _, version, kind, name, verb = self.path.split("/")
        assert (version, kind) == ("v2", "models") and verb in ("generate", "generate_stream")
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            request = self.models[name].submit(document)
        except TritonError as error:
            self._begin(400, "application/json")
            self.wfile.write(json.dumps({"error": str(error)}).encode())
            return
        if verb == "generate":
            (answer,) = request.answers()
            self._begin(400 if answer.error else 200, "application/json")
            self.wfile.write(json.dumps(self._document(name, answer)).encode())
            return
        for index, answer in enumerate(request.answers()):
            if index == 0:
                self._begin(400 if answer.error else 200, "text/event-stream; charset=utf-8")
            try:
                self.wfile.write(b"data: " + json.dumps(self._document(name, answer)).encode() + b"\n\n")
            except OSError:
                request.cancelled = True

    def _begin(self, status: int, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()

    def _document(self, name: str, answer: InferenceResponse) -> dict[str, str]:
        if answer.error is not None:
            return {"error": str(answer.error)}
        texts = {tensor.name: tensor.as_numpy()[0].decode() for tensor in answer.outputs}
        return {"model_name": name, "model_version": "1", **texts}

    def log_message(self, *_arguments: Any) -> None:
        """Print nothing."""


@contextmanager
def served(*models: Model) -> Iterator[str]:
    """Serve models on a free port; the value is the server's address."""
    handler = type("Handler", (_Handler,), {"models": {model.name: model for model in models}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
