"""The function `quantize`: search the forms of weights within a budget, prove them on other inputs, write the file."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInputError, UsageError
from ..files import check_target
from ..formats.document import read_file
from ..formats.quantisation_plan import (
    Activations,
    Budget,
    Dialect,
    Form,
    Loss,
    ObeyedQuantisation,
    Objective,
    PlannedWeight,
    QuantisationPlan,
)
from ..formats.result import Result
from ..machine import versions

if TYPE_CHECKING:
    import onnx

    from ..onnx_model.model_file import ModelFile
    from .calibration import Calibration
    from .losses import Reference
    from .search import FormSearch
    from .trials import Trials
    from .weights import Weight

Progress = Callable[[str], None]

PACKAGES = ("hsm-export", "onnx", "onnxruntime", "numpy")
# How often the search may begin again with a lower target, when inputs that it had not seen cost more.
_ROUNDS = 8
_BACK_OFF = 0.95
_CEILING = 0.7
_REMEDY = "make one with `hsm-export quantize`"


@dataclass(frozen=True)
class QuantiseResult(Result):
    """A quantised file.

    Attributes:
        path: the file.
        bytes: its size, external data included.
        external_data: the file that holds its weights; None when they are inside.
        plan: the form of every weight, and what that costs; the file carries it.
    """

    path: Path
    bytes: int
    external_data: Path | None
    plan: QuantisationPlan


def quantize(
    model: str | Path,
    output: str | Path,
    budget: str | Budget | None = None,
    *,
    calibration: str | Path | Mapping[str, Any] | None = None,
    tokenizer: str | Path | None = None,
    objective: Objective = "size",
    dialect: Dialect = "ort",
    plan: str | Path | None = None,
    progress: Progress | None = None,
) -> QuantiseResult:
    """Store the weights of an ONNX file in fewer bits, as far as a budget allows on inputs that the search never saw.

    Each weight of a product, each table and each matrix of experts gets the cheapest of float32, float16, int8 and
    int4 with which the whole file keeps the budget; none can be exchanged for the next cheaper one. The budget holds
    with 95 % confidence, on the inputs of the search and on others of the same kind. The scores that choose experts,
    norms, temperatures and states are never quantised.

    Args:
        model: a file in float32, with a state or without.
        output: the file to write; it carries the plan.
        budget: such as "kl=1e-3", "top1=0.99", "perplexity=+0.5%" or "error=0.01"; None takes that of `plan`.
        calibration: a text file, an .npz file or arrays by the names of the inputs; half of it is held out. None lets
            a language model with a state write text itself, and draws inputs at random for others.
        tokenizer: of the text; None takes the one that belongs to the file, else bytes.
        objective: what to make small: "size", "decode" (bytes that a token reads) or "prefill" (time of a prompt). The
            last two let products round activations to 8 bits where the budget, which counts that too, allows it.
        dialect: "ort" (ONNX Runtime's operators) or "qdq" (DequantizeLinear, for TensorRT and OpenVINO).
        plan: a plan to obey instead of a search; it must keep the budget here too.
        progress: is called with the name of each phase.

    Raises:
        UsageError: a budget that is none or does not fit the model, or neither budget nor plan.
        BadInputError: the file is missing, damaged, quantised already, not in float32 or without a weight to quantise;
            the calibration does not fit it; a plan of another file, or one that breaks the budget here.
    """
    start = time.perf_counter()
    progress = progress or (lambda phase: None)
    obeyed = None if plan is None else read_file(plan, ObeyedQuantisation, "a quantisation plan", _REMEDY)
    wanted = Budget.parse(budget) if isinstance(budget, str) else budget
    wanted = wanted or (obeyed.budget if obeyed else None)
    if wanted is None:
        raise UsageError("there is no budget", "give one with --budget, such as kl=1e-3")
    check_target(Path(output))
    progress("opening the model")
    job = _Job.opened(Path(model), wanted, objective, dialect if obeyed is None else obeyed.dialect)
    if obeyed is not None:
        job.activations = obeyed.activations
    progress("preparing the calibration")
    job.calibrate(calibration, tokenizer)
    roundings: dict[str, str] = {}
    if obeyed is not None:
        choice, roundings = _obeyed(obeyed, job.weights)
        found = job.proven(choice, roundings)
        if max(found.searched.bound, found.held_out.bound) > wanted.harm:
            raise BadInputError(
                f"{plan} breaks {wanted.text} here: {found.held_out.words(wanted.metric)} on held-out inputs",
                "give a budget alone, so that a plan is searched",
            )
        search, target, ceiling = None, wanted.harm, math.inf
    else:
        result = _found(job, progress)
        search, choice, target, ceiling, found = (
            result.search, result.choice, result.target, result.ceiling, result.proof,
        )  # fmt: skip
    progress("writing the file")
    aims = target, None if math.isinf(ceiling) else ceiling
    return job.write(Path(output), choice, roundings, aims, found, search, time.perf_counter() - start)


@dataclass(frozen=True)
class _Proof:
    """A quantised graph, and what it costs."""

    model: onnx.ModelProto
    searched: Loss
    held_out: Loss

    @property
    def has_blocks(self) -> bool:
        """Whether products with weights in blocks are in it."""
        return any(node.op_type == "MatMulNBits" for node in self.model.graph.node)


class _Job:
    """One file that is being quantised: what all steps share."""

    calibration: Calibration
    trials: Trials
    activations: Activations = "float32"
    _held_out: Reference

    def __init__(
        self, file: ModelFile, model: onnx.ModelProto, budget: Budget, objective: Objective, dialect: Dialect
    ) -> None:
        from ..comparison.predictions import scored_output
        from .weights import find_weights

        self.file, self.model = file, model
        self.budget, self.objective, self.dialect = budget, objective, dialect
        self.weights, self.never = find_weights(model)
        self.task, self.scored = scored_output(file)
        if not self.weights:
            raise BadInputError(f"{file.path} has no float32 weight to quantise", "export it with --precision fp32")
        if budget.metric != "error" and not self.scored:
            raise UsageError(f"{file.path} has no logits, so no {budget.metric}", "give a budget such as error=0.01")
        if budget.metric == "perplexity" and self.task != "language_model":
            raise UsageError(f"{file.path} is no language model, so it has no perplexity", "budget kl, top1 or error")

    @staticmethod
    def opened(path: Path, budget: Budget, objective: Objective, dialect: Dialect) -> _Job:
        import onnx

        from ..onnx_model.model_file import open_model

        file = open_model(path)
        if file.quantised or file.metadata.get("quantisation"):
            raise BadInputError(f"{path} is quantised already ({file.quantised})", "quantise the file in float32")
        if file.precision != "fp32":
            raise BadInputError(f"{path} is in {file.precision}", "export it with --precision fp32, and quantise that")
        model = onnx.ModelProto()
        model.CopyFrom(file.model)
        onnx.load_external_data_for_model(model, str(path.parent))
        return _Job(file, model, budget, objective, dialect)

    def calibrate(self, given: str | Path | Mapping[str, Any] | None, tokenizer: str | Path | None) -> None:
        """Prepare the inputs, and run the given file on them."""
        from .calibration import calibrate
        from .losses import Reference
        from .sessions import judged_outputs
        from .trials import Trials

        self.calibration = calibrate(self.file, given, tokenizer)
        if self.budget.metric == "perplexity" and not self.calibration.texts:
            raise UsageError("random tokens have no perplexity", "give a text with --calibration")
        tokens = self.file.scored_tokens
        text = tokens.name if tokens is not None and self.calibration.texts else ""
        self._outputs = judged_outputs(self.model, self.scored)
        self.trials = Trials(
            self.model, self.weights, self.calibration, self.budget, self.dialect, self.scored, text,
            integers=self.objective == "prefill" and self.dialect == "ort",
        )  # fmt: skip
        self._held_out = Reference.measured(self.trials.run_given, self.calibration.held_out, self.scored, text)

    def search(self, progress: Progress) -> FormSearch:
        """Return the search over all weights."""
        from .forms import cost_of, possible
        from .search import FormSearch

        costs: dict[str, dict[Form, float]] = {
            weight.name: {
                form: cost_of(form, weight, self.dialect, self.objective, self.activations)
                for form in possible(weight, self.dialect, self.objective)
            }
            for weight in self.weights
        }
        return FormSearch(self.trials.measure, costs, self.guide, progress)

    def guide(self, loss: Loss) -> float:
        """Return what adds up over weights: a mean KL divergence, or a squared error."""
        return loss.error**2 if self.budget.metric == "error" or math.isnan(loss.kl) else loss.kl

    def proven(self, choice: Mapping[str, Form], roundings: Mapping[str, str]) -> _Proof:
        """Make the quantised graph and run it on the inputs of the search and on the others."""
        from .forms import is_whole
        from .rewriting import rewritten
        from .sessions import open_session, run_of

        codes = {
            name: self.trials.codes(name, form, roundings.get(name, ""))
            for name, form in choice.items()
            if is_whole(form)
        }
        halves = [name for name, form in choice.items() if form == "fp16"]
        model = rewritten(self.model, self.weights, codes, halves, self.dialect, self.activations)
        run = run_of(open_session(model), self._outputs)
        metric = self.budget.metric
        return _Proof(model, self.trials.searched.loss(run, metric), self._held_out.loss(run, metric))

    def write(
        self,
        output: Path,
        choice: Mapping[str, Form],
        roundings: Mapping[str, str],
        aims: tuple[float, float | None],
        proof: _Proof,
        search: FormSearch | None,
        seconds: float,
    ) -> QuantiseResult:
        """Write the file with its plan, and beside it the tokenizer of the file."""
        from ..formats.tokenizer_file import copy_tokenizer, tokenizer_of
        from ..onnx_model.quantisation_record import write_record
        from .calibration import vocabulary
        from .writing import graph_bytes, write

        plan = QuantisationPlan(
            source=self.file.path.name,
            source_sha256=self.file.facts.sha256,
            budget=self.budget,
            target=aims[0],
            ceiling=aims[1],
            objective=self.objective,
            dialect=self.dialect,
            weights=tuple(self._planned(weight, choice, roundings, search) for weight in self.weights),
            never=self.never,
            searched=proof.searched,
            held_out=proof.held_out,
            bytes_before=self.file.bytes,
            bytes_after=graph_bytes(proof.model),
            calibration=self.calibration.words,
            trials=self.trials.count,
            seconds=seconds,
            versions=versions(*PACKAGES),
            activations=self.activations if proof.has_blocks else "float32",
        )
        write_record(proof.model, plan)
        data = write(proof.model, output)
        size = output.stat().st_size + (data.stat().st_size if data else 0)
        tokens = vocabulary(self.file) if self.task == "language_model" else None
        tokenizer = tokenizer_of(self.file.path, tokens)
        if tokenizer is not None:
            copy_tokenizer(tokenizer, output)
        return QuantiseResult(output, size, data, plan)

    def _planned(
        self, weight: Weight, choice: Mapping[str, Form], roundings: Mapping[str, str], search: FormSearch | None
    ) -> PlannedWeight:
        from .forms import is_whole, stored_bytes

        form: Form = choice.get(weight.name, "fp32")
        cheaper = search.cheaper(weight.name, form) if search else None
        whole = is_whole(form)
        without = search.measured({**choice, weight.name: cheaper}) if search and cheaper else None
        return PlannedWeight(
            name=weight.source,
            form=form,
            rounding=self.trials.codes(weight.name, form, roundings.get(weight.name, "")).rounding if whole else "",  # type: ignore[arg-type]
            operator="+".join(sorted({self.model.graph.node[use.node].op_type for use in weight.uses})),
            elements=weight.elements,
            bytes=stored_bytes(form, weight, self.dialect),
            alone=search.alone(weight.name, form) if search and form != "fp32" else 0.0,
            cheaper=cheaper or "",
            without=None if without is None else without.bound,
            without_guide=None if without is None else self.guide(without),
        )  # fmt: skip


@dataclass(frozen=True)
class _Found:
    """What a search came to."""

    search: FormSearch
    choice: dict[str, Form]
    target: float
    ceiling: float
    proof: _Proof
    activations: Activations

    @property
    def cost(self) -> float:
        return self.search.cost(self.choice)


def _found(job: _Job, progress: Progress) -> _Found:
    """Search with activations in 8 bits where those make a token or a prompt faster, else without.

    The search knows nothing of them; what they cost is measured with the file. Where they made it aim lower, it is
    tried without them too, and the cheaper choice is taken.
    """
    fast: _Found | None = None
    if job.dialect == "ort" and job.objective != "size":
        job.activations = "int8"
        with contextlib.suppress(BadInputError):
            fast = _searched(job, progress)
        if fast is not None and fast.target == job.budget.harm and math.isinf(fast.ceiling):
            return fast
        progress("searching without activations in 8 bits")
        job.activations = "float32"
    slow = _searched(job, progress)
    found = slow if fast is None or slow.cost < fast.cost else fast
    job.activations = found.activations
    return found


def _searched(job: _Job, progress: Progress) -> _Found:
    """Search until the quantised file keeps the budget on the inputs that the search never saw."""
    harm, search = job.budget.harm, job.search(progress)
    target, ceiling = harm, math.inf
    for _ in range(_ROUNDS):
        choice = search.run(target, ceiling)
        progress("measuring the quantised file on held-out inputs")
        found = job.proven(choice, {})
        worst = max(found.searched.bound, found.held_out.bound)
        if worst <= harm:
            return _Found(search, choice, target, ceiling, found, job.activations)
        # What was held out costs more than what was seen: the search aims as much lower.
        reached = search.measured(choice)
        if job.budget.metric in ("kl", "error"):
            target = _BACK_OFF * min(target, reached.bound, reached.bound * harm / worst)
        else:
            # Few other tokens say little: which ones are others is luck, and the divergence is not.
            ceiling = _CEILING * job.guide(reached)
    raise BadInputError(
        f"no choice of forms keeps {job.budget.text} on inputs that the search had not seen",
        "allow more, or give more calibration inputs",
    )


def _obeyed(plan: ObeyedQuantisation, weights: tuple[Weight, ...]) -> tuple[dict[str, Form], dict[str, str]]:
    """Return the forms and the roundings that a plan says, by the names of the file's weights.

    Raises:
        BadInputError: it names a weight that the file has not, or says nothing of one that it has.
    """
    named = {item.name: item for item in plan.weights}
    known = {weight.source: weight.name for weight in weights}
    odd = sorted(named.keys() ^ known.keys())
    if odd:
        raise BadInputError(
            f"the plan and the file do not have the same weights: {odd[0]}" + (" and more" if len(odd) > 1 else ""),
            "is it a plan of this model?",
        )
    forms = {known[name]: item.form for name, item in named.items()}
    return forms, {known[name]: item.rounding for name, item in named.items() if item.rounding}
