"""Runtime `openvino`: OpenVINO on the CPU, in float32 unless it is told otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# By itself OpenVINO computes in bfloat16 on processors that can, whatever the file says.
PRECISIONS = ("f32", "bf16", "f16", "auto")


class OpenVINO:
    """A model that OpenVINO compiled for the CPU."""

    description = "OpenVINO on the CPU in float32, from the bodies in ONNX's own operators"
    packages = ("openvino",)
    install = "openvino"
    by_default = True
    options = {"precision": f"in which it may compute: {', '.join(PRECISIONS)} (its own choice)"}  # noqa: RUF012

    def __init__(self, model: Path, precision: str = "f32") -> None:
        import openvino

        if precision not in PRECISIONS:
            raise ValueError(f"OpenVINO does not compute in {precision!r}: precisions are {', '.join(PRECISIONS)}")
        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": int(os.environ.get("OMP_NUM_THREADS", "0"))}
        if precision != "auto":
            settings["INFERENCE_PRECISION_HINT"] = precision
            # By itself it rounds activations to 8 bits before weights of few bits, whatever that hint says.
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(str(model)), "CPU", settings)
        self._request = compiled.create_infer_request()
        self._inputs = {name: port for port in compiled.inputs for name in port.get_names()}
        self._outputs = {name: index for index, port in enumerate(compiled.outputs) for name in port.get_names()}
        used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.remarks = [f"OpenVINO {openvino.__version__.partition('-')[0]} says that it computes in {used}"]

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the outputs by name."""
        self._request.infer({port: inputs[name] for name, port in self._inputs.items() if name in inputs})
        return {name: self._request.get_output_tensor(index).data for name, index in self._outputs.items()}
