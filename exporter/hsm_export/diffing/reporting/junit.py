"""JUnit XML, as CI systems show it: a test case for every output, and one for every node at fault."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from ...comparison.result import ComparedOutput
from ...files import atomic_path
from ..results import DiffResult, LayerDiff, RuntimeDiff
from . import words

# Characters that XML 1.0 cannot hold at all, and those that would reorder a line.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class _Case:
    """One test case: what is tested, and how it ended when not well ("failure", "error" or "skipped")."""

    name: str
    ended: str = ""
    message: str = ""
    details: str = ""


def write_junit(result: DiffResult, path: str | Path) -> None:
    """Write a result as JUnit XML, in the form that Jenkins, GitLab and GitHub's actions read.

    Raises:
        BadInputError: the file cannot be written.
    """
    model = words.file_name(result.model)
    root = ElementTree.Element("testsuites", {"name": _text(f"hsm-export diff {model}")})
    suites = [(item.runtime, _cases(item), item.seconds) for item in result.runtimes]
    suites.append(("report", list(_whole(result)), 0.0))
    for name, cases, seconds in suites:
        if cases:
            _suite(root, result, name, cases, seconds)
    for count in ("tests", "failures", "errors", "skipped"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    root.set("time", f"{result.seconds:.3f}")
    ElementTree.indent(root)
    with atomic_path(path) as scratch:
        ElementTree.ElementTree(root).write(scratch, encoding="utf-8", xml_declaration=True)


def _suite(root: ElementTree.Element, result: DiffResult, name: str, cases: list[_Case], seconds: float) -> None:
    counts = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    attributes = {
        "name": name,
        "tests": str(len(cases)),
        **{count: str(sum(case.ended == ended for case in cases)) for count, ended in counts.items()},
        "time": f"{seconds:.3f}",
        # Without a time zone, because the schema's type has none.
        "timestamp": result.environment.time[:19],
    }
    suite = ElementTree.SubElement(root, "testsuite", {key: _text(value) for key, value in attributes.items()})
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in (("precision", result.precision), ("reference", result.reference), ("sha256", result.sha256)):
        ElementTree.SubElement(properties, "property", {"name": key, "value": _text(value)})
    group = _text(f"{words.file_name(result.model)}.{name}")
    # Time was taken of the runtime as a whole, so its first case has it.
    for place, case in enumerate(cases):
        time = f"{seconds if place == 0 else 0.0:.3f}"
        element = ElementTree.SubElement(
            suite, "testcase", {"classname": group, "name": _text(case.name), "time": time}
        )
        if case.ended:
            ended = ElementTree.SubElement(element, case.ended, {"message": _text(case.message)})
            if case.ended != "skipped":
                ended.set("type", "numbers" if case.ended == "failure" else "runtime")
            ended.text = _text(case.details) or None


def _cases(runtime: RuntimeDiff) -> list[_Case]:
    reason = words.reason(runtime)
    if runtime.verdict == "skipped":
        return [_Case("runs", "skipped", reason)]
    cases = [_output(item) for item in runtime.outputs]
    cases += [_layer(item) for item in _at_fault(runtime)]
    if runtime.verdict == "failed":
        cases.insert(0, _Case("runs", "error", reason, reason))
    elif runtime.verdict == "differs" and not any(case.ended for case in cases):
        cases.insert(0, _Case("keeps the numbers", "failure", reason, reason))
    return cases


def _at_fault(runtime: RuntimeDiff) -> Iterable[LayerDiff]:
    """Return the layers at fault; the culprit is one even where the layers were not kept."""
    layers = {(item.index, item.tensor): item for item in runtime.layers if not item.passed}
    if runtime.culprit is not None:
        item = runtime.culprit.layer
        layers.setdefault((item.index, item.tensor), item)
    return layers.values()


def _output(item: ComparedOutput) -> _Case:
    name = f"{item.output}, {item.case}"
    if item.passed:
        return _Case(name)
    details = (
        f"error {words.number(item.errors.max_abs)}, allowed {words.number(item.threshold.value)} "
        f"({item.threshold.source})\n"
        f"{item.output}{words.index(item.errors.worst_index)} is {words.exact(item.errors.value)}, "
        f"should be {words.exact(item.errors.reference)}\ninputs: {words.shapes(item.input_shapes)}"
    )
    return _Case(name, "failure", item.reason or "", details)


def _layer(item: LayerDiff) -> _Case:
    allowed = words.number(item.threshold.value) if item.threshold else "nothing known"
    details = (
        f"{item.operator} wrote {item.tensor}, {item.dtype} {words.shape(item.shape)}: own error "
        f"{words.number(item.own)}, allowed {allowed}\n"
        f"{item.tensor}{words.index(item.errors.worst_index)} is {words.exact(item.errors.value)}, "
        f"should be {words.exact(item.errors.reference)}"
    )
    return _Case(f"node {item.index}: {item.node}", "failure", item.reason or "", details)


def _whole(result: DiffResult) -> Iterable[_Case]:
    """Yield what belongs to no runtime: rules, regressions and problems."""
    for sentence in result.violated:
        yield _Case(f"rule {sentence.partition(': ')[0]}", "failure", sentence, sentence)
    for rule in result.fail_on:
        if not any(sentence.startswith(f"{rule}: ") for sentence in result.violated):
            yield _Case(f"rule {rule}")
    for item in result.regressions:
        change = f"{words.exact(item.before)} before, {words.exact(item.after)} now"
        yield _Case(f"since the baseline: {item.what} {item.name}", "failure", change, change)
    for place, problem in enumerate(result.problems):
        yield _Case(f"problem {place + 1}", "error", problem, problem)


def _text(value: str) -> str:
    return _FORBIDDEN.sub(lambda match: words.visible(match[0]), value)
