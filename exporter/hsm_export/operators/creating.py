"""Write the folder of a new operator: one that works at once, and whose tests pass."""

from __future__ import annotations

import keyword
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hsm_operators.generate.cpp import require_identifier
from hsm_operators.operator import DOMAIN, VARIANT, camel_case, snake_case

from ..errors import BadInputError, UsageError
from ..formats.result import Result

_TEMPLATES = Path(__file__).parent / "templates"
_EXAMPLE = "such as acme::DecayMix: a domain of yours, two colons, and the operator"
_STEP = (
    "A moving average of the tokens, each channel with a decay of its own.",
    ("a = σ(decay)", "y_t = a y_{t-1} + (1 - a) x_t"),
)
_PLAIN = ("Each token plus a share of the one before it.", ("y_t = x_t + gain x_{t-1}        x_{-1} = 0",))


@dataclass(frozen=True)
class NewOperatorResult(Result):
    """What `new_operator` wrote.

    Attributes:
        name: the operator's qualified name.
        folder: where it is.
        files: names of its files.
    """

    name: str
    folder: Path
    files: tuple[str, ...]


def new_operator(
    name: str,
    folder: str | Path | None = None,
    *,
    step: bool = False,
    kernels: bool = False,
    cuda: bool = False,
) -> NewOperatorResult:
    """Write the folder of an operator whose maths is an example to be replaced.

    Args:
        name: domain and name, such as "acme::DecayMix".
        folder: what is made; None: the name in snake case, here.
        step: a recurrent operator, given as what one token does to a state.
        kernels: kernels in C++ too: naive.cc and cpu.cc.
        cuda: a CUDA kernel too, besides the others.

    Raises:
        UsageError: the name is none.
        BadInputError: the folder is there already, or cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    domain, own = _checked(name)
    function = snake_case(own)
    target = Path(folder) if folder is not None else Path(function)
    _require_module_name(target.resolve().name)
    if target.exists():
        raise BadInputError(f"{target} is there already", "give another folder with --output; nothing is overwritten")
    summary, formula = _STEP if step else _PLAIN
    names = {"name": own, "domain": domain, "qualified": name, "function": function, "folder": target.resolve().name}
    facts = {"arguments": f"{camel_case(function)}Args", "summary": summary, "formula": formula}
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    kernels = kernels or cuda
    texts = {
        file: environment.get_template(f"{template}.j2").render(**names, **facts, step=step, kernels=kernels, cuda=cuda)
        for file, template in _files(function, kernels, cuda).items()
    }
    _write(target, texts)
    return NewOperatorResult(name, target, tuple(texts))


def _files(function: str, kernels: bool, cuda: bool) -> dict[str, str]:
    """Return the templates by the files that are made of them."""
    own = ["spec.py", "oracle.py", "cases.py"]
    own += ["naive.cc", "cpu.cc"] * kernels + ["cuda.cu"] * cuda
    return {name: name for name in (*own, "README.md")} | {f"test_{function}.py": "test.py"}


def _checked(name: str) -> tuple[str, str]:
    domain, colons, own = name.partition("::")
    if not colons or not re.fullmatch(r"[A-Za-z]\w*(\.\w+)*", domain, re.ASCII):
        raise UsageError(f"{name!r} is no name of an operator", f"give one {_EXAMPLE}")
    if domain == DOMAIN:
        raise UsageError(f"domain {DOMAIN!r} is hsm-export's own", f"give {own or 'the operator'} a domain of yours")
    if not re.fullmatch(r"[A-Za-z]\w*", own, re.ASCII) or VARIANT in own:
        raise UsageError(f"{own!r} cannot be an operator's name", f"use letters, digits and single _, {_EXAMPLE}")
    function = snake_case(own)
    try:
        require_identifier(function, name)
    except ValueError as error:
        raise UsageError(str(error), "choose another name") from error
    if keyword.iskeyword(function):
        raise UsageError(f"{name}: {function} is a word of Python's", "choose another name")
    return domain, own


def _require_module_name(name: str) -> None:
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name):
        raise UsageError(
            f"the folder cannot be called {name!r}: Python and C++ name its files by it", "use letters, digits and _"
        )


def _write(target: Path, texts: dict[str, str]) -> None:
    """Write the files into a folder that appears when all are there."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            for name, text in texts.items():
                (scratch / name).write_text(text, encoding="utf-8")
            scratch.chmod(0o755)
            scratch.rename(target)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    except OSError as error:
        raise BadInputError(f"{target} cannot be written: {error.strerror}") from error
