"""Operators' ONNX bodies as implementations that the matrix of `hsm_operators.testing` judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hsm_operators import Operator
from hsm_operators.testing import FaultError, Subject
from hsm_operators.testing.implementations import NUMPY_TYPES
from hsm_operators.testing.subject import Array, Attributes

from ..errors import BadInputError
from ..exporting.bodies import one_node_model
from ..onnx_model.bfloat16 import widen_bfloat16

if TYPE_CHECKING:
    import onnx

Call = Callable[[Mapping[str, Array]], list[Any]]


class Models:
    """Models of one node of an operator, with its body, which is derived once for all types.

    Args:
        subject: the operator.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._made: dict[str, onnx.ModelProto | str] = {}

    def model(self, attributes: Attributes, dtype: str, sizes: Mapping[str, int]) -> tuple[str, onnx.ModelProto]:
        """Return what identifies a model, and the model: with all sizes open, or where the code fixes some, with those.

        Args:
            attributes: all of them.
            dtype: the type T.
            sizes: of the call.

        Raises:
            FaultError: the body cannot be derived.
        """
        held = {n: size for n, size in sizes.items() if n not in (self._subject.batch, self._subject.time)}
        for fixed in ({}, held):
            key = f"{attributes} {fixed}"
            if key not in self._made:
                self._made[key] = self._derived(attributes, fixed)
            made = self._made[key]
            if not isinstance(made, str):
                return f"{dtype} {key}", retyped(made, self._subject.operator, dtype)
        raise FaultError(str(made))

    def _derived(self, attributes: Attributes, sizes: Mapping[str, int]) -> onnx.ModelProto | str:
        """Return a model, or why there is none."""
        given = {name: list(value) if isinstance(value, tuple) else value for name, value in attributes.items()}
        try:
            return one_node_model(self._subject.operator, given, "fp32", sizes)
        except BadInputError as error:
            return error.message


def retyped(model: onnx.ModelProto, operator: Operator, dtype: str) -> onnx.ModelProto:
    """Return a one-node model of float32 for another type T: bodies serve every type."""
    import onnx

    elements = {"fp32": onnx.TensorProto.FLOAT, "fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    ports = zip((*operator.inputs, *operator.outputs), (*result.graph.input, *result.graph.output), strict=True)
    for port, value in ports:
        if port.type == "T":
            value.type.tensor_type.elem_type = elements[dtype]
    return result


class Body:
    """An operator's body in a runtime.

    Args:
        models: the operator's models.
        name: what reports call the runtime.
        start: makes the function that runs a model.
        borders: the runtime exchanges no bfloat16, so that the model's inputs and outputs are float32 then.
    """

    def __init__(self, models: Models, name: str, start: Callable[[onnx.ModelProto], Call], borders: bool) -> None:
        self.name = name
        self._models, self._start, self._borders = models, start, borders
        self._calls: dict[str, Call] = {}

    def run(self, operator: Operator, attributes: Attributes, inputs: Mapping[str, Array], dtype: str) -> list[Array]:
        """Return the outputs in float64.

        Raises:
            FaultError: the body cannot be derived, or the runtime refuses it.
        """
        sizes = {d: n for p in operator.inputs for d, n in zip(p.shape, inputs[p.name].shape, strict=True)}
        key, model = self._models.model(attributes, dtype, sizes)
        widened = self._borders and dtype == "bf16"
        feed = {}
        for port in operator.inputs:
            array = inputs[port.name]
            kind = NUMPY_TYPES[dtype] if port.type == "T" and not widened else np.float32
            feed[port.name] = array.astype(kind) if array.dtype.kind == "f" else array
        try:
            if key not in self._calls:
                self._calls[key] = self._start(widen_bfloat16(model, borders=True) if widened else model)
            with np.errstate(all="ignore"):
                return [np.asarray(array).astype(np.float64) for array in self._calls[key](feed)]
        except Exception as error:  # a runtime's errors share no class
            raise FaultError(f"{type(error).__name__}: {error}") from error


def bodies(subject: Subject) -> dict[str, Body | str]:
    """Return the bodies by the runtime's name; a sentence in place of one that this machine lacks."""
    models = Models(subject)
    found: dict[str, Body | str] = {"onnx-reference": Body(models, "onnx-reference", _evaluator, borders=False)}
    try:
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError:
        found["ort"] = "onnxruntime is not installed: pip install 'hsm-export[cpu]'"
    else:
        found["ort"] = Body(models, "ort", _session, borders=True)
    return found


def _evaluator(model: onnx.ModelProto) -> Call:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(model)
    return lambda feed: list(evaluator.run(None, dict(feed)))


def _session(model: onnx.ModelProto) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda feed: list(session.run(None, dict(feed)))
