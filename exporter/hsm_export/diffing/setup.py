"""Who takes part in a diff: the file, its source, the reference and the runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from ..formats.quantisation_plan import QuantisationPlan
    from ..onnx_model.model_file import ModelFile
    from ..runtimes.runtime import RunContext
    from ..torch_model.torch_source import TorchSource
    from ..validation.planning import Plan


@dataclass(frozen=True)
class Setup:
    """A file, and who takes part in comparing it.

    Attributes:
        file: the file.
        source: its source; None without one.
        context: what runtimes run.
        plan: reference (the arbiter), baseline and the others.
        shown: the baseline was asked for, so it is reported too.
        quantised: the plan of a file that `quantize` wrote. What it means in float64 is then what is right, and the
            source says what quantising costs each layer.
    """

    file: ModelFile
    source: TorchSource | None
    context: RunContext
    plan: Plan
    shown: bool
    quantised: QuantisationPlan | None = None

    @property
    def held_to(self) -> TorchSource | None:
        """The source, where it says what outputs must be."""
        return self.source if self.quantised is None else None


def set_up(
    file: ModelFile,
    runtimes: Sequence[str] | None,
    against: str | Path | nn.Module | None,
    reference: str | Path | None,
    inputs: Any,
) -> Setup:
    """Return who takes part; the arguments are those of `diff`.

    Raises:
        UsageError: numbers are given as the reference, but not their inputs.
    """
    from ..onnx_model.quantisation_record import plan_in
    from ..runtimes import get
    from ..runtimes.routing import instrument
    from ..runtimes.runtime import RunContext
    from ..torch_model.torch_source import open_source
    from ..validation.planning import make_plan, requested

    names = requested(runtimes, against is not None)
    source = open_source(against) if against is not None else None
    if source is not None and file.metadata.get("decode") == "1":
        from ..validation.decoding import decoding_source

        source = decoding_source(source, file.state())
    is_stored = reference is not None and str(reference).endswith(".npz")
    # Numbers from a file belong to the runtime's own choice of experts.
    instrumented, routed = (file.model, ()) if is_stored else instrument(file.model)
    load = source.load if source is not None else None
    context = RunContext(instrumented, file.path.parent, file.precision, load, routed)
    quantised = plan_in(file) if reference is None and source is not None else None
    held = source if quantised is None else None
    plan = make_plan(names, file, held)
    if is_stored:
        from .stored import stored_reference

        if inputs is None:
            raise UsageError(f"{reference} belongs to one set of inputs", "name it with --inputs DATA.npz")
        plan = replace(plan, arbiter=stored_reference(str(reference)))
    elif reference is not None:
        requested([str(reference)], source is not None)
        plan = replace(plan, arbiter=get(str(reference)))
    candidates = [runtime for runtime in plan.candidates if runtime.name != plan.arbiter.name]
    if held is not None and plan.arbiter.name != "onnx64":
        candidates.insert(0, get("onnx64"))  # the file itself: are its maths and weights the source's?
    shown = plan.baseline.needs_source if names is None else plan.baseline.name in names
    return Setup(file, source, context, replace(plan, candidates=tuple(dict.fromkeys(candidates))), shown, quantised)
