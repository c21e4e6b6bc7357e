"""The README of a build kit: what to type on the GPU machine, and what to expect."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ..building.plan import Plan
from ..building.portable.compiling import HARDWARE_COMPATIBILITY
from ..building.portable.kit import ENGINE, NETWORK, OUTPUTS, RESULT_FILE
from ..building.targets import PRODUCTS
from ..formats.tensor import Tensor

if TYPE_CHECKING:
    from ..validation.references import References

_TRTEXEC_HARDWARE = {"ampere+": "ampere+", "same-compute-capability": "sameComputeCapability"}
assert set(_TRTEXEC_HARDWARE) == set(HARDWARE_COMPATIBILITY)


def readme_text(plan: Plan, references: References) -> str:
    """Return the kit's README.

    Args:
        plan: the build, its library in the kit.
        references: the validation set.
    """
    product = PRODUCTS[plan.target]
    package = "tensorrt-rtx-cu13" if plan.target == "tensorrt-rtx" else "tensorrt-cu13"
    return f"""# Build kit: {plan.source.path.name} for {product}

Made by hsm-export from {plan.source.path.name} (SHA-256 {plan.source.sha256}).
{_experimental(plan)}
On a machine with an NVIDIA GPU, inside this folder:

    pip install {package} numpy
    python build.py

It checks the SHA-256 of every file here, builds the engine, runs {len(references.cases)} sets of inputs on the GPU,
compares the numbers with references in float64, and writes `result/` ({ENGINE}, {OUTPUTS}, {RESULT_FILE}). Exit code 0
means that all is well. Copy `result/` back into this folder where it came from, and there:

    hsm-export build --from-kit {{this folder}}/result -o {plan.source.path.stem}.engine

## With trtexec instead

    mkdir -p result
    {trtexec_command(plan)}
    python build.py --engine result/{ENGINE}

## What to expect

{_layers(plan)}
| tensor | type | shape |
| --- | --- | --- |
{_tensors(plan)}

{_profiles(plan)}
{references.compared:.0%} of the outputs' elements are compared, against {references.arbiter}; the tolerances are in
`kit.json`.
"""


def trtexec_command(plan: Plan) -> str:
    """Return the trtexec command that builds the same engine, to be typed in the kit's folder."""
    program = "tensorrt_rtx" if plan.target == "tensorrt-rtx" else "trtexec"
    options = plan.options
    flags = [f"--onnx={NETWORK}", f"--saveEngine=result/{ENGINE}", "--skipInference"]
    if plan.target == "tensorrt":
        flags += ["--stronglyTyped", "--noTF32"]
    flags += [f"--dynamicPlugins=./{library.name}" for library in plan.libraries]
    if options.embed_plugins:
        flags += [f"--setPluginsToSerialize=./{library.name}" for library in plan.libraries]
    if options.version_compatible:
        flags.append("--versionCompatible")
    if options.hardware_compatibility:
        flags.append(f"--hardwareCompatibilityLevel={_TRTEXEC_HARDWARE[options.hardware_compatibility]}")
    if options.refit:
        flags.append("--refit")
    if options.weight_streaming:
        flags.append("--allowWeightStreaming")
    for index, shapes in enumerate(plan.settings().profiles):
        if len(plan.profiles) > 1:
            flags.append(f"--profile={index}")
        for which, name in enumerate(("min", "opt", "max")):
            sizes = ",".join(f"{tensor}:{'x'.join(map(str, shape[which]))}" for tensor, shape in shapes.items())
            flags.append(f"--{name}Shapes={sizes}")
    return " ".join([program, *flags])


def _experimental(plan: Plan) -> str:
    if not plan.experimental:
        return ""
    return "\n**Experimental:** NVIDIA documents plugins as unsupported in TensorRT-RTX.\n"


def _layers(plan: Plan) -> str:
    if not plan.libraries:
        return "No plugin layers: the mixers are compiled from their function bodies.\n"
    counts = ", ".join(f"{count} x {operator}" for operator, count in Counter(plan.nodes.values()).items())
    files = ", ".join(f"`{library.name}`" for library in plan.libraries)
    return f"{len(plan.nodes)} plugin layers ({counts}), from {files}; anything else is refused.\n"


def _tensors(plan: Plan) -> str:
    return "\n".join(map(_row, (*plan.source.inputs, *plan.source.outputs)))


def _row(tensor: Tensor) -> str:
    return f"| `{tensor.name}` | {tensor.dtype} | {' x '.join(map(str, tensor.shape)) or 'scalar'} |"


def _profiles(plan: Plan) -> str:
    lines = [
        f"Profile {index}: " + ", ".join(f"{name} {sizes}" for name, sizes in profile.items())
        for index, profile in enumerate(plan.profiles)
    ]
    return "\n".join(lines) + "\n" if lines else "All shapes are fixed.\n"
