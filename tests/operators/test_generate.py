"""The generated files are those of the specifications, and anyone's operators get files that compile and agree."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from hsm_operators import Attribute, Dimension, Operator, Port, Rule, State, expression
from hsm_operators.generate import Family, generate, texts
from hsm_operators.generate.__main__ import stale
from hsm_operators.operator import BOOL, FLOAT, INT64, RowRange

HERE = Path(__file__).resolve().parent
PLUGINS = HERE.parents[1] / "plugins"
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


def test_committed_files_are_what_the_specifications_say() -> None:
    assert stale() == []


# An operator as a stranger would write it: another domain, sizes with long names, an attribute with a range of its own.
GATED = Operator(
    name="GatedSum",
    domain="my.lab",
    version=3,
    description="y = gate x.",
    inputs=(
        Port("x", "T", ("B", "T", "Dk"), "Tokens."),
        Port("gate", FLOAT, ("Dv", "Dk"), "Gates."),
        Port("ids", INT64, ("B", "T"), "Which row of the gates a token takes.", RowRange("0", "Dv - 1", "below {Dv}")),
        Port("start", INT64, ("B",), "First token.", RowRange("-span", "max(steps) - T", "early", where="lengths")),
        Port("lengths", INT64, ("B",), "Valid tokens.", RowRange("1", "T", "from 1 to T = {T}")),
        Port("sum", FLOAT, ("B", "Dk"), "Sums so far."),
        Port("scale", "T", (), "A number."),
        Port("mask", BOOL, ("B", "T"), "Which tokens count."),
    ),
    outputs=(Port("y", "T", ("B", "T", "Dk"), "The result."), Port("sum_out", FLOAT, ("B", "Dk"), "Sums.")),
    attributes=(
        Attribute("span", "int", "How far it reaches.", least=2, most=9),
        Attribute("steps", "ints", 'Steps, "quoted".', least=-4),
        Attribute("signed", "int", "Whether.", 0, 1, field="is_signed"),
        Attribute("slope", "float", "How steep.", least=0),
    ),
    body="",
    dimensions=(Dimension("Dk", "key_width", 1, 64, "key width"), Dimension("Dv", "rows", 2)),
    rules=(
        Rule("Dk % span == 0 or Dk // len(steps) - 1 >= -(-T) + min(steps, Dv)", "Dk = {Dk}, {Dk // span}"),
        Rule("Dv < 10 if signed else max(steps) - min(steps) < 3 and T != 3", "{T * T} and {steps}"),
        Rule("B * B * B * B * B >= B", "the batch {B * B * B} overflows"),
        Rule("T // (Dv - 6) <= T and -7 // 2 == -4 and -7 % 2 == 1", "six rows divide by zero"),
    ),
    states=(State("sum", "sum_out"),),
    constant="gate",
)
PLAIN = replace(GATED, name="GatedPlain", torch_name="gated_plain", kernel="gated_plain", arguments="GatedPlainArgs")


def _family(folder: Path) -> Family:
    (folder / "gated").mkdir()
    shutil.copy(HERE / "foreign_cpu.cc", folder / "gated" / "cpu.cc")
    return Family("gated", folder / "gated", (GATED,))


def _refusal(values: dict[str, int | list[int]]) -> str:
    """Return what Python says of the rules."""
    for rule in GATED.rules:
        try:
            holds = bool(expression.evaluate(rule.condition, values))
        except ZeroDivisionError:
            holds = False
        if not holds:
            return rule.message
    return ""


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
def test_the_files_of_a_foreign_operator_compile_and_their_rules_are_pythons(tmp_path: Path) -> None:
    generate([_family(tmp_path), Family("plain", tmp_path / "plain", (PLAIN,))], tmp_path / "out")
    cases = list(itertools.product((1, 2, 2**29), range(1, 5), (1, 3, 6), (2, 4, 5, 6, 11), (2, 3), (0, 1), (0, 1)))
    facts, refusals = _run(tmp_path, cases)
    assert facts == [
        "my.lab 3 1 5 1",
        "1 1",
        "413.5 1 1 0 0",
        "GatedSum: attribute span must be from 2 to 9, got 1",
        "GatedSum: attribute steps must be at least -4, got -5",
        "GatedSum: attribute steps must be a list of at least one integer",
        "GatedSum: attribute signed must be 0 or 1, got 2",
        "GatedSum: attribute slope must be at least 0, got -0.500000",
        "",
        "",
        "GatedSum: rows Dv must be at least 2, got 1",
        "GatedSum: input gate has size 5 in dimension Dk of (Dv,Dk), but another input has 4",
        "GatedSum: input scale must have 0 dimensions (), got 1",
        "GatedSum: key width Dk must be from 1 to 64, got 65",
        "GatedSum: input ids is 5 in element (1,2), but must be below 5",
        "GatedSum: input start is 1 in row 1, but must be early",
        "GatedSum: input lengths is 0 in row 1, but must be from 1 to T = 3",
        "",
    ]
    expected = [_refusal(*case) for case in cases]
    assert refusals == expected
    for broken in ("Dk = ", " and [", "six rows"):
        assert any(broken in sentence for sentence in expected)
    assert "" in expected


def _run(folder: Path, cases: list[tuple[int, ...]]) -> tuple[list[str], list[str]]:
    """Compile the generated files with the program that uses them; return its lines before the cases, and of them."""
    sources = [HERE / "foreign_main.cc", HERE / "foreign_cpu.cc", PLUGINS / "hsm_operators" / "common" / "opset.cc"]
    sources += sorted((folder / "out").glob("*.gen.cc"))
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers"]
    command = [str(COMPILER), "-std=c++20", *warnings, f"-I{PLUGINS}", f"-I{folder / 'out'}", "-o", folder / "main"]
    subprocess.run([*command, *sources], check=True)
    given = "\n".join(" ".join(map(str, case)) for case in cases)
    done = subprocess.run([folder / "main"], input=given, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    return lines[: -len(cases)], lines[-len(cases) :]


def _refusal(batch: int, length: int, key_width: int, rows: int, span: int, signed: int, long: int) -> str:
    """Return what Python says of the rules."""
    steps = [-3, 2, 5] if long else [1]
    values: dict[str, int | list[int]] = {"B": batch, "T": length, "Dk": key_width, "Dv": rows}
    values |= {"span": span, "signed": signed, "steps": steps}
    for rule in GATED.rules:
        try:
            holds = bool(expression.evaluate(rule.condition, values))
        except ZeroDivisionError:
            holds = False
        if not holds:
            return f"GatedSum: {_filled(rule.message, values)}"
    return ""


def _filled(message: str, values: dict[str, int | list[int]]) -> str:
    for text in {"Dk", "Dk // span", "T * T", "B * B * B"}:
        if f"{{{text}}}" in message:
            message = message.replace(f"{{{text}}}", str(expression.evaluate(text, values)))
    return message.replace("{steps}", str(values["steps"]))


def test_the_files_of_operators_without_kernels_have_no_rows(tmp_path: Path) -> None:
    files = texts([Family("gated", tmp_path, (GATED,))])
    assert set(files) == {
        "opset.gen.cc",
        "cpu_kernels.gen.cc",
        "cuda_kernels.gen.cc",
        "definitions.gen.cc",
        "gated/args.gen.h",
        "gated/bindings.gen.h",
    }
    for name in ("cpu_kernels.gen.cc", "cuda_kernels.gen.cc", "definitions.gen.cc"):
        assert "return {};" in files[name]
    assert "pack" not in files["gated/args.gen.h"]


def test_a_file_that_is_right_is_left_alone(tmp_path: Path) -> None:
    family = _family(tmp_path)
    (path,) = (path for path in generate([family], tmp_path / "out") if path.name == "args.gen.h")
    before = path.stat().st_mtime_ns
    generate([family], tmp_path / "out")
    assert path.stat().st_mtime_ns == before


_FLOAT_X = replace(GATED.inputs[0], type=FLOAT)


def _with_input(name: str) -> Operator:
    return replace(GATED, inputs=(*GATED.inputs, Port(name, "T", ("B",), "More.")))


@pytest.mark.parametrize(
    ("operators", "sentence"),
    [
        ((replace(GATED, kernel="double"),), "'double' cannot be a name in C++"),
        ((_with_input("new"),), "'new' cannot be a name in C++"),
        ((_with_input("packed"),), "two members are called packed"),
        ((_with_input("key_width"),), "two members are called key_width"),
        ((replace(GATED, rules=(Rule("slope < 2", ""),)),), "the rule 'slope < 2' reads the float slope"),
        ((GATED, replace(GATED, domain="other")), "the operator gated_sum belongs to my.lab::GatedSum"),
        (
            (GATED, replace(PLAIN, arguments="GatedSumArgs", inputs=(_FLOAT_X, *GATED.inputs[1:]))),
            "GatedSumArgs::x is",
        ),
    ],
)
def test_what_cpp_cannot_say_is_refused(tmp_path: Path, operators: tuple[Operator, ...], sentence: str) -> None:
    family = Family("gated", tmp_path, operators)
    (tmp_path / "cpu.cc").touch()
    with pytest.raises(ValueError, match=r"my.lab|GatedSum") as refusal:
        texts([family])
    assert sentence in str(refusal.value)
