"""The files of real_sizes.py: a random model exported and quantised by rule, and what its numbers must be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from torch import Tensor, nn

import hsm_export
from hsm_export.formats.quantisation_plan import Activations, Dialect, Form
from hsm_export.onnx_model.model_file import open_model
from hsm_export.quantisation.forms import Codes, bits_of, block_of, is_whole, is_widened, possible, stored_bytes
from hsm_export.quantisation.weights import Weight, find_weights
from hsm_models import ModelConfig, load_checkpoint
from hsm_models.checkpoint import build_model, save_checkpoint

# Random weights lose much: whether a model can bear it is not asked here.
BUDGET = "error=0.9"
CHECKED = 40  # tokens


@dataclass(frozen=True)
class Quantised:
    """A rule without a search."""

    form: Form
    activations: Activations = "int8"
    dialect: Dialect = "ort"


RULES = {
    "int8": Quantised("int8"),
    "int4": Quantised("int4x128"),
    "int4, floats": Quantised("int4x128", "float32"),
    "openvino int8": Quantised("int8", "float32", "qdq"),
    "openvino int4": Quantised("int4x128", "float32", "qdq"),
}
# The names of contestants, and the runtime and file of each that is not quantised.
FLOATS = {
    "fp32": ("ort-fused", "fp32.onnx"),
    "ort": ("ort", "fp32.onnx"),
    "torch": ("torch", "model.safetensors"),
    "torch-compile": ("torch-compile", "model.safetensors"),
    "openvino": ("openvino", "portable.onnx"),
}


def prepare(config: ModelConfig, folder: Path) -> Files:
    """Make the files of a model that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "model.safetensors"
    if not source.exists():
        torch.manual_seed(0)
        save_checkpoint(build_model(config), source)
    for name, portable in (("fp32", False), ("portable", True)):
        path = folder / f"{name}.onnx"
        if not path.exists():
            hsm_export.export(source, output=path, decode=True, last_logits=True, portable=portable)
    return Files(config, folder)


class Files:
    """The files of one model.

    Attributes:
        config: the model.
        tokens: (1,T) that every contestant is checked with.
        parameters: how many numbers the model has.
    """

    def __init__(self, config: ModelConfig, folder: Path) -> None:
        self.config, self._folder = config, folder
        self.tokens = np.random.default_rng(7).integers(0, config.vocab_size, (1, CHECKED))
        model = load_checkpoint(folder / "model.safetensors")
        self.parameters = sum(item.numel() for item in model.parameters())
        self._experts = _share_of_experts(config)
        self._checked: dict[str, tuple[Any, Any]] = {}
        for name, rule in RULES.items():
            self._quantise(self._path(name), rule)

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Return what each contestant loads."""
        found = {
            name: {"runtime": runtime, "path": str(self._folder / file)} for name, (runtime, file) in FLOATS.items()
        }
        for name in RULES:
            runtime = "openvino" if name.startswith("openvino") else "ort-fused"
            found[name] = {"runtime": runtime, "path": str(self._path(name))}
        return {name: {**job, "vocabulary": self.config.vocab_size} for name, job in found.items()}

    def size(self, name: str) -> int:
        """Return the bytes of a contestant's file."""
        path = self._path(name) if name in RULES else self._folder / FLOATS[name][1]
        data = path.with_name(f"{path.name}.data")
        return path.stat().st_size + (data.stat().st_size if data.exists() else 0)

    def bytes_read(self, name: str) -> float:
        """Return the bytes of weights that a step reads: of experts those that a token uses."""
        rule = RULES.get(name)
        total = 0.0
        for weight in self._weights("fp32.onnx"):
            form = _form(weight, rule) if rule else "fp32"
            share = self._experts if "experts" in weight.kinds else 1.0
            plain = not is_whole(form) or (
                rule is not None and is_widened(form, weight, rule.dialect, rule.activations)
            )
            total += share * (4 * weight.elements if plain else stored_bytes(form, weight, "ort"))
        return total

    def check(self, name: str, logits: Any) -> float:
        """Return the error of a contestant's logits; end the script where they are wrong."""
        reference, native = self._both(name)
        return common.check(f"{name} of {self._folder.name}", logits, reference, native)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name.replace(', ', '-').replace(' ', '-')}.onnx"

    def _weights(self, file: str) -> tuple[Weight, ...]:
        return find_weights(open_model(self._folder / file).model)[0]

    def _quantise(self, path: Path, rule: Quantised) -> None:
        if path.exists():
            return
        given = self._folder / ("portable.onnx" if rule.dialect == "qdq" else "fp32.onnx")
        weights = [
            {"name": weight.source, "form": _form(weight, rule), "rounding": "nearest"}
            for weight in self._weights(given.name)
        ]
        plan = self._folder / "plan.json"
        rules = {"weights": weights, "dialect": rule.dialect, "activations": rule.activations}
        text = {"schema": "hsm-export quantisation plan", "schema_version": 1, **rules}
        plan.write_text(json.dumps(text), encoding="utf-8")
        tokens = np.random.default_rng(3).integers(0, self.config.vocab_size, (8, 16))
        hsm_export.quantize(given, path, BUDGET, plan=plan, calibration={"tokens": tokens})

    def _both(self, name: str) -> tuple[Any, Any]:
        """Return the right logits, and such as may be as far from them as a contestant.

        OpenVINO rounds activations in groups of its own, so it is held to what rounding them by rows or blocks does; so
        are models in which another rounding flips a choice of experts.
        """
        rule = RULES.get(name)
        key = name if rule else ""
        if key not in self._checked:
            kinds = (torch.float64, torch.float32)
            if rule is not None and (rule.dialect == "qdq" or (self._experts < 1 and rule.activations == "int8")):
                self._checked[key] = tuple(self._run(name, rule, kinds[0], rounds) for rounds in (False, True))
            else:
                rounds = rule is not None and rule.activations == "int8"
                self._checked[key] = tuple(self._run(name, rule, kind, rounds) for kind in kinds)
        return self._checked[key]

    def _run(self, name: str, rule: Quantised | None, kind: torch.dtype, rounds: bool) -> Any:
        """Run PyTorch with the contestant's weights, and activations rounded where its file allows it."""
        model = load_checkpoint(self._folder / "model.safetensors").eval()
        if rule is not None:
            self._put(model, name, rule, rounds)
        with torch.inference_mode():
            logits = model.to(kind)(torch.from_numpy(self.tokens))
        return logits[0, -4:].numpy()

    def _put(self, model: nn.Module, name: str, rule: Quantised, rounds: bool) -> None:
        import onnx

        made = onnx.load(str(self._path(name)))
        arrays = {item.name: item for item in made.graph.initializer}
        parameters = dict(model.named_parameters())
        for weight in self._weights("portable.onnx" if rule.dialect == "qdq" else "fp32.onnx"):
            form = _form(weight, rule)
            whole, scales = (
                np.asarray(onnx.numpy_helper.to_array(arrays[f"{weight.name}.{part}"]))
                for part in (f"int{bits_of(form)}", "scales")
            )
            codes = _codes(form, weight, rule, whole, scales)
            if weight.source in parameters:
                self._replace(model, parameters[weight.source], weight, codes, rounds)
            else:  # the second copy of a table, which portable files multiply by
                table = torch.from_numpy(codes.matrix())
                model.output.register_forward_pre_hook(partial(_with_table, table=table))
                if rounds:
                    model.output.register_forward_pre_hook(partial(_rounded, block=codes.block))

    def _replace(self, model: nn.Module, parameter: Tensor, weight: Weight, codes: Codes, rounds: bool) -> None:
        matrix = codes.matrix()
        with torch.no_grad():
            parameter.copy_(
                torch.from_numpy(matrix if tuple(parameter.shape) == matrix.shape else weight.stored(matrix))
            )
        for module in model.modules() if rounds and "experts" not in weight.kinds else ():
            owned = any(item is parameter for item in module.parameters(recurse=False))
            tied = module is getattr(model, "output", None) and "table" in weight.kinds and "product" in weight.kinds
            if tied or (owned and isinstance(module, nn.Linear)):
                module.register_forward_pre_hook(partial(_rounded, block=codes.block))


def _rounded(_: nn.Module, given: tuple[Tensor, ...], block: int) -> tuple[Tensor, ...]:
    """Round what a product gets to 8 bits, with a scale for each block."""
    x, *rest = given
    blocks = x.unflatten(-1, (-1, block))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    return ((blocks / scale.clamp(min=torch.finfo(x.dtype).tiny)).round() * scale).flatten(-2), *rest


def _with_table(_: nn.Module, given: tuple[Tensor, ...], table: Tensor) -> tuple[Tensor, ...]:
    """Multiply by a table of its own."""
    return given[0], table.to(given[0].dtype)


def _form(weight: Weight, rule: Quantised) -> Form:
    """Return the rule's form where a weight may have it, else int8."""
    return rule.form if rule.form in possible(weight, rule.dialect, "decode") else "int8"


def _codes(form: Form, weight: Weight, rule: Quantised, whole: Any, scales: Any) -> Codes:
    """Return what a file stores of a weight; see `hsm_export.quantisation.rewriting`."""
    block, bits = block_of(form, weight, rule.dialect), bits_of(form)
    rows = weight.outputs
    if is_widened(form, weight, rule.dialect, rule.activations):
        integers = whole.reshape(rows, -1)
    elif "experts" in weight.kinds:
        halves = [whole] if bits == 8 else [whole & 15, whole >> 4]
        numbers = np.stack(halves, -2).astype(np.int16) - (1 << (bits - 1))
        integers = weight.matrix(numbers.reshape(weight.shape).astype(np.int8))
        scales = scales.swapaxes(-1, -2)
    elif rule.dialect == "qdq":
        integers = weight.matrix(whole.astype(np.int8))
        scales = scales.T if bits == 4 and weight.swapped else scales
    else:
        parts = [whole] if bits == 8 else [whole & 15, whole >> 4]
        integers = (np.stack(parts, -1).reshape(rows, -1).astype(np.int16) - (1 << (bits - 1))).astype(np.int8)
    return Codes(form, integers[:, : weight.depth], scales.reshape(rows, -1), block)


def _share_of_experts(config: ModelConfig) -> float:
    mixer = config.layers[0].mixer
    return getattr(mixer, "active", 1) / getattr(mixer, "experts", 1)
