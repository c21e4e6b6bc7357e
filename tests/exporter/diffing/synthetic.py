"""Results of `diff` made by hand: every field, as large and as hostile as asked."""

from __future__ import annotations

import functools
import math
import random
from dataclasses import replace

from hsm_export.comparison.error import Errors
from hsm_export.comparison.predictions import ClassifierMetrics, FlippedPrediction, LanguageMetrics
from hsm_export.comparison.result import ComparedOutput
from hsm_export.comparison.threshold import Threshold
from hsm_export.comparison.ulps import BUCKETS
from hsm_export.diffing.results import Bisection, Culprit, DiffResult, Environment, LayerDiff, Regression, RuntimeDiff

OPERATORS = ("LayerNormalization", "MatMul", "ShiftMix", "Add", "Gelu", "CausalTaylorShift")
CASE = "random, 2×17"
HOSTILE = "/layers.0/<script>alert(1)</script>|`@you`\x1b[31m\u202e\"'&amp;{{7*7}}"


def errors(error: float, *, scale: float = 4.0, seed: int = 0, counted: bool = True) -> Errors:
    """Return errors whose largest is `error`."""
    generator = random.Random(seed)
    exact = 4000 + generator.randrange(500)
    counts = [exact // (4**place) for place in range(len(BUCKETS) + 1)]
    return Errors(
        max_abs=error,
        mean_abs=error / 11,
        max_rel=error / scale * 3,
        cosine=1.0 - min(error, 1.0) ** 2,
        scale=scale,
        worst_index=(1, 4, 17),
        value=scale + error,
        reference=scale,
        ulps=tuple(counts) if counted else (),
    )


def threshold(value: float, source: str = "native") -> Threshold:
    """Return a threshold that the named term decides."""
    terms = {"native": value / 3, "condition": value / 2.5, "floor": value / 4} | {source: value}
    return Threshold(value, terms["native"], "torch", terms["condition"], terms["floor"])


def output(
    runtime: str, name: str = "logits", *, error: float = 1e-4, allowed: float = 1e-3, case: str = CASE
) -> ComparedOutput:
    """Return an output, which fails where its error exceeds what is allowed."""
    fails = not error <= allowed
    return ComparedOutput(
        runtime=runtime,
        output=name,
        case=case,
        input_shapes={"tokens": (2, 17), "lengths": (2,)},
        shape=(2, 17, 256),
        errors=errors(error, seed=len(runtime + name)),
        threshold=threshold(allowed),
        reason=f"output {name}[1, 4, 17] is off by {error:.3g} (tolerance {allowed:.3g})" if fails else None,
    )


def layer(
    runtime: str, index: int, *, own: float | None, total: float, allowed: float = 2e-4, node: str | None = None
) -> LayerDiff:
    """Return a layer, which fails where its own error exceeds what is allowed."""
    operator = OPERATORS[index % len(OPERATORS)]
    fails = own is not None and not own <= allowed
    return LayerDiff(
        index=index,
        node=node or f"/layers.{index // 6}/{operator}_{index}",
        operator=operator,
        domain="hsm" if operator in ("ShiftMix", "CausalTaylorShift") else "",
        tensor=f"val_{index}",
        runtime=runtime,
        case=CASE,
        shape=(2, 17, 128),
        dtype="float16",
        total=total,
        inherited=None if own is None else max(total - own, 0.0),
        own=own,
        amplification=None if own is None else 1.25,
        threshold=None if own is None else threshold(allowed, ("native", "condition", "floor")[index % 3]),
        errors=errors(total if own is None else own, counted=not fails or index % 2 == 0),
        reason=f"own error {own:.3g} is beyond {allowed:.3g}" if fails else None,
    )


def layers(runtime: str, count: int, *, faults: tuple[int, ...] = (), seed: int = 0) -> tuple[LayerDiff, ...]:
    """Return layers whose errors grow with depth; `faults` exceed their thresholds, and later ones inherit it."""
    generator = random.Random(seed)
    found = []
    total = 1e-6
    for index in range(count):
        own = 1e-5 * math.exp(generator.gauss(0.0, 0.9))
        if index in faults:
            own = 5e-3 * (1 + index % 3)
        total = max(total * math.exp(generator.gauss(0.01, 0.12)), own)
        # A view of a tensor makes no error, and some tensors are not shown.
        shown = None if index % 17 == 16 else 0.0 if index % 13 == 12 else own
        found.append(layer(runtime, index, own=shown if index not in faults else own, total=total))
    return tuple(found)


def culprit(item: LayerDiff, *, repro: bool = True, consequences: int = 3) -> Culprit:
    """Return the culprit that a layer is."""
    folder = f"hsm-lm.diff/{item.runtime}-{item.index}"
    return Culprit(
        runtime=item.runtime,
        layer=item,
        attributes={"shifts": "[1, 2, 4, 8]", "plugin_namespace": "hsm"},
        input_shapes={"val_41": (2, 17, 128), "layers.7.weight": (128, 128)},
        consequences=consequences,
        repro=folder if repro else None,
        command=f"hsm-export diff {folder}/node.onnx --inputs {folder}/inputs.npz" if repro else "",
    )


def language(**changes: object) -> LanguageMetrics:
    """Return metrics of a language model."""
    metrics = LanguageMetrics(
        tokens=2048,
        top1_agreement=2045 / 2048,
        kl=3.4e-4,
        kl_max=2.1e-2,
        perplexity=7.4139,
        reference_perplexity=7.4021,
        greedy_tokens=64,
        first_divergence=17,
        diverging=(101, 97, 3.2e-3),
    )
    return replace(metrics, **changes)  # type: ignore[arg-type]


def classifier(*, flipped: int = 25) -> ClassifierMetrics:
    """Return metrics of a classifier that flips some examples, of which 20 are shown."""
    flips = tuple(
        FlippedPrediction(
            CASE, row * 3, row % 10, (row + 1) % 10, (row + row % 2) % 10 if row % 5 else None, 1e-3 * row
        )
        for row in range(min(flipped, 20))
    )
    return ClassifierMetrics(360, flipped, flips, 0.9583, 0.9722)


def environment() -> Environment:
    """Return a place."""
    return Environment(
        versions={"hsm-export": "0.1.0", "torch": "2.13.0", "onnx": "1.23.2", "onnxruntime": "1.31.1"},
        processor="Some CPU @ 2.80GHz (avx2, fma)",
        cores=4,
        system="Linux 6.1 x86_64",
        time="2026-11-28T12:00:00+00:00",
        command="hsm-export diff hsm-lm-fp16.onnx --against zoo:hsm-lm --layers --report report.html",
    )


def result(*runtimes: RuntimeDiff, **changes: object) -> DiffResult:
    """Return a result of runtimes; it passed when none differs or failed and one is the same."""
    verdicts = [item.verdict for item in runtimes]
    made = DiffResult(
        model="hsm-lm-fp16.onnx",
        sha256="5f" * 32,
        against="zoo:hsm-lm",
        precision="fp16",
        task="language_model",
        reference="torch64",
        baseline="torch",
        passed="same" in verdicts and not {"differs", "failed"} & set(verdicts),
        runtimes=runtimes,
        cases=(CASE, "one token", "huge values, last token"),
        environment=environment(),
        seconds=12.5,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def passing() -> DiffResult:
    """Return a small result in which nothing is wrong."""
    return result(RuntimeDiff("ort", "same", (output("ort"),), seconds=0.4, peak_bytes=3 * 2**28, noise=0.0))


@functools.cache
def failing(*, count: int = 96) -> DiffResult:
    """Return a result in which every kind of thing went wrong, with every field filled."""
    fused = layers("ort-fused", count, faults=(44, 45, 50, 51), seed=2)
    ort = layers("ort", count, seed=1)
    runtimes = (
        RuntimeDiff(
            "ort",
            "same",
            (output("ort"), output("ort", "hidden", error=2e-5), output("ort", case="one token", error=3e-4)),
            ort,
            language=language(first_divergence=None, diverging=None, top1_agreement=1.0, kl=1e-8, kl_max=3e-7),
            flips=0,
            choices=680,
            seconds=0.41,
            peak_bytes=812 * 2**20,
            noise=0.0,
        ),
        RuntimeDiff(
            "ort-fused",
            "differs",
            (output("ort-fused", error=1.31e-2), output("ort-fused", "hidden", error=9.9e-4)),
            fused,
            culprit(fused[44]),
            language=language(),
            classifier=classifier(),
            flips=4,
            choices=680,
            reason="output logits[1, 4, 17] is off by 0.0131 (tolerance 0.001; case 'random, 2×17')",
            notes=("exposing tensors changes its numbers", "it merges 12 nodes, whose tensors nobody sees"),
            seconds=0.22,
            peak_bytes=640 * 2**20,
            noise=2.4e-7,
        ),
        RuntimeDiff("onnx-reference", "same", (output("onnx-reference", error=9.96e-4),), seconds=13.0),
        RuntimeDiff("ort-cuda", "skipped", reason="there is no NVIDIA GPU"),
        RuntimeDiff("tensorrt", "failed", reason="the parser refused node /layers.0/Scan: unsupported body"),
    )
    return result(
        *runtimes,
        layer_case=CASE,
        bisections=(
            Bisection("ort", "ort-fused", (("/layers.7/ShiftMix_44", "ShiftMix"),), 23, 96, 1.3e-2, 1e-3, 2.4e-7),
            Bisection("fp32", "fp16", (), 4, 96, 2e-4, 1e-3, 0.0, "with every node in fp16 it passes"),
        ),
        regressions=(
            Regression("verdict", "ort-fused", 0.0, 1.0),
            Regression("output", "ort-fused logits", 9e-4, 1.31e-2),
            Regression("layer", "ort-fused /layers.7/ShiftMix_44", 8e-5, 1.5e-2),
            Regression("metric", "ort-fused KL divergence", 1e-8, 3.4e-4),
        ),
        fail_on=("output", "kl>1e-3"),
        violated=("output: logits of ort-fused in case 'random, 2×17' errs by 1.31e-02, 13.1× what is allowed.",),
        problems=("the file's SHA-256 is not the one of its side file",),
        warnings=("the file was exported from another checkpoint",),
        notes=("cases beyond 320 tokens were left out",),
        complete=False,
    )


def hostile() -> DiffResult:
    """Return a result whose every text wants to be more than text, and whose numbers are not numbers."""
    bad = replace(
        layer("ort", 0, own=math.nan, total=math.inf, node=HOSTILE), operator=HOSTILE, tensor=HOSTILE, reason=HOSTILE
    )
    broken = replace(bad, errors=replace(bad.errors, max_abs=math.nan, value=-math.inf, cosine=math.nan))
    found = replace(
        culprit(broken), attributes={HOSTILE: HOSTILE}, input_shapes={HOSTILE: ()}, command=f"a\nb {HOSTILE}"
    )
    wrong = replace(output("ort", HOSTILE, error=math.nan, case=HOSTILE), reason=HOSTILE)
    runtime = RuntimeDiff("ort", "differs", (wrong,), (broken,), found, reason=HOSTILE, notes=(HOSTILE,))
    return result(
        runtime,
        RuntimeDiff(HOSTILE, "failed", reason=HOSTILE),
        model=f"/tmp/{HOSTILE}.onnx",
        layer_case=HOSTILE,
        cases=(HOSTILE,),
        bisections=(Bisection(HOSTILE, HOSTILE, ((HOSTILE, HOSTILE),), 1, 1, 1.0, 0.5, 0.0),),
        regressions=(Regression("layer", HOSTILE, math.nan, math.inf),),
        violated=(HOSTILE,),
        problems=(HOSTILE, "\ud800 is no character"),
        warnings=(HOSTILE,),
        notes=(HOSTILE,),
        environment=replace(environment(), versions={HOSTILE: HOSTILE}, processor=HOSTILE, command=HOSTILE),
    )


@functools.cache
def huge(*, count: int = 2000, runtimes: int = 6) -> DiffResult:
    """Return a result as large as they get."""
    made = []
    for number in range(runtimes):
        name = f"runtime-{number}"
        faults = tuple(range(700 + 10 * number, count, 300)) if number % 2 else ()
        found = layers(name, count, faults=faults, seed=number)
        outputs = tuple(output(name, f"present.{place}.state", error=1e-6 * place) for place in range(64))
        first = culprit(found[faults[0]]) if faults else None
        verdict = "differs" if faults else "same"
        reason = "the layers say why" if faults else None
        made.append(RuntimeDiff(name, verdict, outputs, found, first, reason=reason, seconds=60.0))
    return result(*made, layer_case=CASE)
