"""One session of the given file whose weights are inputs, so that every choice of forms is one run away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..formats.quantisation_plan import Budget, Dialect, Form, Loss
from .forms import Codes, block_of, is_whole
from .losses import Feed, Reference
from .moments import Moments
from .rewriting import copied_without
from .rounding import best, gptq, nearest, takes_gptq
from .sessions import judged_outputs, open_session
from .weights import Weight

if TYPE_CHECKING:
    import onnx

    from .calibration import Calibration

Array = NDArray[Any]
Choice = Mapping[str, Form]
_FLAG = ".activations"


class Trials:
    """A file, its weights and calibration: what any choice of forms costs.

    Args:
        model: the graph with its weights in it.
        weights: those for which there is a choice.
        calibration: the inputs.
        budget: whose metric is measured.
        dialect: what blocks there are.
        scored: the output that holds logits; "" without one.
        tokens: the input whose next tokens they predict; "" without one.
        integers: whether products in whole numbers are among the choices.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        weights: Sequence[Weight],
        calibration: Calibration,
        budget: Budget,
        dialect: Dialect,
        scored: str,
        tokens: str,
        *,
        integers: bool = False,
    ) -> None:
        self._model = model
        self._weights = {weight.name: weight for weight in weights}
        self._budget, self._dialect = budget, dialect
        self._integers = integers
        self._codes: dict[tuple[str, Form, str], Codes] = {}
        self._outputs = judged_outputs(model, scored)
        graph = self._with_inputs()
        self._session = open_session(graph)
        self._given = {item.name for item in self._session.get_inputs()}
        self._moments = Moments(graph, self._weights, calibration.searched, self._complete)
        self.searched = Reference.measured(self.run_given, calibration.searched, scored, tokens)
        self.count = 0

    @cached_property
    def _arrays(self) -> dict[str, Array]:
        from onnx import numpy_helper

        return {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in self._model.graph.initializer
            if tensor.name in self._weights
        }

    def codes(self, name: str, form: Form, rounding: str = "") -> Codes:
        """Return a weight in whole numbers; `rounding` "" takes what errs less on the calibration's inputs."""
        key = (name, form, rounding)
        if key not in self._codes:
            weight = self._weights[name]
            matrix = weight.matrix(self._arrays[name])
            block = block_of(form, weight, self._dialect)
            squares = self._moments.squares(name)
            # Of wide products they are large, and take long.
            by_gptq = rounding != "nearest" and takes_gptq(form, weight.depth)
            moments = self._moments.second(name) if by_gptq else None
            if rounding == "gptq" and moments is not None:
                self._codes[key] = gptq(matrix, form, block, moments)
            elif moments is None:
                self._codes[key] = nearest(matrix, form, block, squares)
            else:
                self._codes[key] = best(matrix, form, block, moments, squares)
        return self._codes[key]

    def measure(self, choice: Choice, roundings: Mapping[str, str] | None = None) -> Loss:
        """Return what a choice costs on the inputs of the search; weights that it does not name stay as they are."""
        self.count += 1
        arrays = {
            name: self._array(name, form, (roundings or {}).get(name, ""))
            for name, form in choice.items()
            if form != "fp32"
        }
        flags = {f"{name}{_FLAG}": np.asarray(form == "dynamic8") for name, form in choice.items()}
        changed = {**arrays, **{name: flag for name, flag in flags.items() if name in self._given}}
        return self.searched.loss(lambda feed: self._run(feed, changed), self._budget.metric)

    def _array(self, name: str, form: Form, rounding: str) -> Array:
        if not is_whole(form):
            return self._arrays[name].astype(np.float16).astype(np.float32)
        return self._weights[name].stored(self.codes(name, form, rounding).matrix())

    def run_given(self, feed: Feed) -> Mapping[str, Array]:
        """Run the given file."""
        return self._run(feed, {})

    def _run(self, feed: Feed, changed: Mapping[str, Array]) -> Mapping[str, Array]:
        found = self._session.run(self._outputs, {**self._complete(feed), **changed})
        return dict(zip(self._outputs, found, strict=True))

    def _complete(self, feed: Feed) -> dict[str, Array]:
        """Return a feed with the given weights, and no product in whole numbers."""
        off = {name: np.asarray(False) for name in self._given if name.endswith(_FLAG)}
        every = {**feed, **self._arrays, **off}
        return {name: every[name] for name in self._given}

    def _with_inputs(self) -> onnx.ModelProto:
        """Return the graph with its weights as inputs, and a switch that quantises what a product gets."""
        import onnx
        from onnx import helper

        copy = copied_without(self._model, self._weights)
        known = {value.name for value in copy.graph.input}
        for weight in self._weights.values():
            if weight.name not in known:
                copy.graph.input.append(
                    helper.make_tensor_value_info(weight.name, onnx.TensorProto.FLOAT, weight.shape)
                )
        if self._integers:
            self._add_switches(copy)
        return copy

    def _add_switches(self, model: onnx.ModelProto) -> None:
        import onnx
        from onnx import helper

        before: dict[int, list[onnx.NodeProto]] = {}
        for weight in self._weights.values():
            if weight.kinds != {"product"} or not weight.swapped:
                continue
            flag = f"{weight.name}{_FLAG}"
            model.graph.input.append(helper.make_tensor_value_info(flag, onnx.TensorProto.BOOL, []))
            for place, use in enumerate(weight.uses):
                node, prefix = model.graph.node[use.node], f"{flag}.{place}"
                whole = [f"{prefix}.{part}" for part in ("whole", "scale", "zero")]
                before.setdefault(use.node, []).extend(
                    [
                        helper.make_node("DynamicQuantizeLinear", [node.input[0]], whole),
                        helper.make_node("DequantizeLinear", whole, [f"{prefix}.rounded"]),
                        helper.make_node("Where", [flag, f"{prefix}.rounded", node.input[0]], [f"{prefix}.chosen"]),
                    ]
                )
                node.input[0] = f"{prefix}.chosen"
        nodes = [item for index, node in enumerate(model.graph.node) for item in (*before.get(index, ()), node)]
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
