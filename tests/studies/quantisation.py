"""Does `quantize` keep its budgets on text that its search never saw, and what do rules without a search reach?

    python -m tests.studies.quantisation                    the tables of docs/quantising.md, in some minutes
    python -m tests.studies.quantisation --model hsm-lm

Two budgets for each zoo model. Language models are quantised without any text: they write their own. The loss is then
measured on `tests/models/training/held_out.txt`, which neither training nor search saw. The classifier is calibrated
with images that it was trained on, and measured on those that it was not.

The rules are: all weights in int4 (blocks of 32, nearest); what ONNX Runtime's quantiser of blocks leaves out by
default (the tied table, Gemm); and first and last layers and the table in float32. Each is followed by `quantize` with
the rule's own loss as its budget.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hsm_export import export, quantize
from hsm_export.comparison.predictions import scored_output
from hsm_export.formats.quantisation_plan import Form, Loss
from hsm_export.onnx_model.model_file import ModelFile, open_model
from hsm_export.quantisation.calibration import LENGTH, filled
from hsm_export.quantisation.forms import block_of
from hsm_export.quantisation.losses import Reference
from hsm_export.quantisation.rewriting import rewritten
from hsm_export.quantisation.rounding import nearest
from hsm_export.quantisation.sessions import open_session, run_of
from hsm_export.quantisation.weights import Weight, find_weights

TEXT = Path(__file__).resolve().parents[1] / "models" / "training" / "held_out.txt"
LANGUAGE = ("hsm-lm", "taylor-shift-lm", "switch-head-lm", "hsm-hybrid-lm", "baseline-softmax")
CLASSIFIER = "taylor-shift-digits"
BUDGETS = dict.fromkeys(LANGUAGE, ("kl=1e-3", "top1=0.98")) | {CLASSIFIER: ("top1=0.99", "error=1%")}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=tuple(BUDGETS), default=tuple(BUDGETS))
    parser.add_argument("--only", choices=("budgets", "rules"))
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as name:
        files = {model: exported(model, Path(name)) for model in options.model}
        if options.only != "rules":
            budgets(files)
        if options.only != "budgets":
            rules({model: path for model, path in files.items() if model in LANGUAGE})


def budgets(files: dict[str, Path]) -> None:
    """Print what each budget leads to, and whether it holds on what nobody saw."""
    print("| model | budget | smaller | bits | loss, held out | loss, unseen | kept |")
    print("| --- | --- | ---: | ---: | --- | --- | --- |")
    kept = tried = 0
    for model, path in files.items():
        calibration, unseen = inputs(model)
        for text in BUDGETS[model]:
            made = path.with_name("made.onnx")
            plan = quantize(path, made, text, calibration=calibration).plan
            metric = plan.budget.metric
            loss = measured(open_model(path), onnx.load(made), unseen, metric)
            value = 1 - loss.top1 if metric == "top1" else loss.value(metric)
            holds = value <= plan.budget.harm
            kept, tried = kept + holds, tried + 1
            smaller = path.stat().st_size / made.stat().st_size
            print(
                f"| {model} | {text} | {smaller:.1f}× | {plan.bits:.2f} | {plan.held_out.words(metric)} | "
                f"{loss.words(metric)} | {'yes' if holds else '**no**'} |",
                flush=True,
            )
    print(f"\n{kept} of {tried} budgets kept on inputs that the search never saw.\n")


def rules(files: dict[str, Path]) -> None:
    """Print what rules without a search reach, each beside a search with the rule's loss as its budget."""
    print("| model | rule | smaller | KL | top-1 | `quantize` with that KL: smaller | KL | top-1 |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for model, path in files.items():
        _, unseen = inputs(model)
        given = open_model(path)
        for name, rule in RULES.items():
            other = rule(given)
            loss = measured(given, other, unseen, "kl")
            size = path.stat().st_size / other.ByteSize()
            made = path.with_name("made.onnx")
            quantize(path, made, f"kl={loss.kl:.3e}")
            own = measured(given, onnx.load(made), unseen, "kl")
            smaller = path.stat().st_size / made.stat().st_size
            print(
                f"| {model} | {name} | {size:.1f}× | {loss.kl:.1e} | {loss.top1:.3f} | {smaller:.1f}× | {own.kl:.1e} | "
                f"{own.top1:.3f} |",
                flush=True,
            )


def exported(model: str, folder: Path) -> Path:
    """Return the file of a zoo model; language models with a state."""
    path = folder / f"{model}.onnx"
    with contextlib.redirect_stdout(io.StringIO()):
        export(f"zoo:{model}", output=path, decode=model in LANGUAGE)
    return path


def inputs(model: str) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return what calibrates a model, None for its own text, and what nobody saw."""
    if model in LANGUAGE:
        ids = np.frombuffer(TEXT.read_bytes(), np.uint8).astype(np.int64)
        return None, {"tokens": ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH)}
    from hsm_models.data import load_digits

    data = load_digits()
    batches = [np.concatenate([np.asarray(batch[0][0]) for batch in data.held_out(512)])]
    seen = np.asarray(data.sequences[: -len(batches[0])])
    return {"pixels": seen}, {"pixels": batches[0]}


def measured(given: ModelFile, changed: onnx.ModelProto, arrays: dict[str, Any], metric: Any) -> Loss:
    """Return what a changed graph costs on inputs."""
    _, scored = scored_output(given)
    name = given.scored_tokens.name if given.scored_tokens is not None and given.task == "language_model" else ""
    feed = filled(given, arrays)
    reference = Reference.measured(run_of(open_session(given.model), [scored]), [feed], scored, name)
    return reference.loss(run_of(open_session(changed), [scored]), metric)


def _all_int4(given: ModelFile) -> onnx.ModelProto:
    return _by_rule(given, lambda weight: "int8" if "experts" in weight.kinds else "int4x32")


def _ends_protected(given: ModelFile) -> onnx.ModelProto:
    layers = sorted({weight.name.split(".")[1] for weight in find_weights(given.model)[0] if "layers." in weight.name})
    ends = {f"layers.{layers[0]}.", f"layers.{layers[-1]}."}

    def form(weight: Weight) -> Form:
        if not weight.name.startswith("layers.") or any(weight.name.startswith(end) for end in ends):
            return "fp32"
        return "int8" if "experts" in weight.kinds else "int4x32"

    return _by_rule(given, form)


def _by_rule(given: ModelFile, form: Callable[[Weight], Form]) -> onnx.ModelProto:
    weights, _ = find_weights(given.model)
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in given.model.graph.initializer}
    codes = {
        weight.name: nearest(weight.matrix(arrays[weight.name]), form(weight), block_of(form(weight), weight, "ort"))
        for weight in weights
        if form(weight) != "fp32"
    }
    return rewritten(given.model, weights, codes, [], "ort")


def _onnx_runtime(given: ModelFile) -> onnx.ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    copy = onnx.ModelProto()
    copy.CopyFrom(given.model)
    with contextlib.redirect_stdout(io.StringIO()):
        quantiser = MatMulNBitsQuantizer(copy, block_size=32, is_symmetric=True, bits=4)
        quantiser.process()
    made: onnx.ModelProto = quantiser.model.model
    return made


RULES: dict[str, Callable[[ModelFile], onnx.ModelProto]] = {
    "all int4": _all_int4,
    "ONNX Runtime's exclusions": _onnx_runtime,
    "ends protected": _ends_protected,
}

if __name__ == "__main__":
    main()
