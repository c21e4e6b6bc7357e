"""JUnit XML: the structure that Jenkins' schema asks for, one case an output and a node at fault."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.exporter.diffing import synthetic

from hsm_export.diffing.reporting import write_junit
from hsm_export.diffing.results import DiffResult, RuntimeDiff

# Of Jenkins' junit-10.xsd: for each element its attributes with those that must be there, and its children in order.
SCHEMA: dict[str, tuple[set[str], set[str], list[str]]] = {
    "testsuites": ({"name", "time", "tests", "failures", "disabled", "errors", "skipped"}, set(), ["testsuite"]),
    "testsuite": (
        {
            "name",
            "tests",
            "failures",
            "errors",
            "time",
            "disabled",
            "skipped",
            "timestamp",
            "hostname",
            "id",
            "package",
        },
        {"name", "tests"},
        ["properties", "testcase", "system-out", "system-err"],
    ),
    "properties": (set(), set(), ["property"]),
    "property": ({"name", "value"}, {"name", "value"}, []),
    "testcase": (
        {"name", "assertions", "time", "classname", "status"},
        {"name"},
        ["skipped", "error", "failure", "system-out", "system-err"],
    ),
    "failure": ({"type", "message"}, set(), []),
    "error": ({"type", "message"}, set(), []),
    "skipped": ({"type", "message"}, set(), []),
}
RESULTS = {"empty": synthetic.result, "passing": synthetic.passing, "failing": synthetic.failing,
           "hostile": synthetic.hostile}  # fmt: skip


def written(result: DiffResult, folder: Path) -> ElementTree.Element:
    """Write a result and read it back."""
    write_junit(result, folder / "junit.xml")
    return ElementTree.parse(folder / "junit.xml").getroot()


@pytest.mark.parametrize("name", RESULTS)
def test_structure(tmp_path: Path, name: str) -> None:
    root = written(RESULTS[name](), tmp_path)
    assert root.tag == "testsuites"
    for element in root.iter():
        allowed, needed, children = SCHEMA[element.tag]
        assert needed <= set(element.keys()) <= allowed
        places = [children.index(child.tag) for child in element]
        assert places == sorted(places)
    for suite in root:
        cases = suite.findall("testcase")
        assert int(suite.get("tests", "")) == len(cases) > 0
        for count, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(count, "")) == len(suite.findall(f"testcase/{tag}"))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp", ""))
        # CI systems tell cases apart by class and name.
        names = [(case.get("classname"), case.get("name")) for case in cases]
        assert len(set(names)) == len(names)
    for count in ("tests", "failures", "errors", "skipped"):
        assert int(root.get(count, "")) == sum(int(suite.get(count, "")) for suite in root)


def test_a_case_for_every_output_and_node_at_fault(tmp_path: Path) -> None:
    result = synthetic.failing()
    root = written(result, tmp_path)
    assert [suite.get("name") for suite in root] == [*(item.runtime for item in result.runtimes), "report"]
    fused = {case.get("name"): case for case in root[1].findall("testcase")}
    assert list(fused) == [
        "logits, random, 2×17", "hidden, random, 2×17", "node 44: /layers.7/ShiftMix_44", "node 45: /layers.7/Add_45",
        "node 50: /layers.8/ShiftMix_50", "node 51: /layers.8/Add_51",
    ]  # fmt: skip
    failure = fused["node 44: /layers.7/ShiftMix_44"].find("failure")
    assert failure is not None and failure.get("message") == "own error 0.015 is beyond 0.0002"
    assert "val_44[1, 4, 17] is 4.015, should be 4" in (failure.text or "")
    assert root[3].find("testcase/skipped") is not None and root[4].find("testcase/error") is not None


def test_rules_have_cases(tmp_path: Path) -> None:
    cases = {case.get("name"): case for case in written(synthetic.failing(), tmp_path)[-1].findall("testcase")}
    assert cases["rule output"].find("failure") is not None
    assert cases["rule kl>1e-3"].find("failure") is None
    assert cases["problem 1"].find("error") is not None
    assert sum(str(name).startswith("since the baseline: ") for name in cases) == 4


def test_runtime_that_differs_without_an_output_fails(tmp_path: Path) -> None:
    runtime = RuntimeDiff(
        "ort", "differs", (synthetic.output("ort"),), reason="an expert was chosen without a near tie"
    )
    root = written(synthetic.result(runtime), tmp_path)
    assert root.get("failures") == "1"
    failure = root[0].find("testcase/failure")
    assert failure is not None and failure.get("message") == runtime.reason


def test_control_characters_are_made_visible(tmp_path: Path) -> None:
    text = "".join(map(chr, range(32))) + "\ufffe\ud800"
    root = written(synthetic.result(RuntimeDiff("ort", "failed", reason=text)), tmp_path)
    error = root[0].find("testcase/error")
    assert error is not None and r"\x00" in (error.text or "") and r"\ufffe\ud800" in (error.text or "")
