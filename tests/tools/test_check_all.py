"""The table of checks: complete, and honest about what passed, failed and was skipped."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def check_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_all_under_test", ROOT / "tools" / "check_all.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return module


def test_every_test_folder_is_there_and_has_a_name_of_its_own(check_all: ModuleType) -> None:
    names = [step.name for step in check_all.steps()]
    assert len({check_all._slug(name) for name in names}) == len(names)
    for folders in check_all.TEST_FOLDERS.values():
        assert all((ROOT / folder).is_dir() for folder in folders)


def test_outcomes_are_kept_and_reported(check_all: ModuleType) -> None:
    def step(name: str, code: str, **options: object) -> object:
        return check_all.Step(name, (sys.executable, "-c", code), **options)

    known = [
        step("good", "print('stat::number_of_executed_units: 1234')", remark=check_all.fuzzed),
        step("bad", "print('why'); raise SystemExit(2)"),
        step("lacking", "print('skipped: no tool'); raise SystemExit(3)"),
        step("later", "pass"),
    ]
    assert [check_all.run(one).failed for one in known[:3]] == [False, True, False]
    outcomes = check_all.recorded(known)
    assert [item.outcome for item in outcomes] == ["passed, 1,234 inputs", "FAILED (2)", "skipped: no tool", "not run"]
    text = check_all.report(outcomes, [])
    for item in outcomes:
        assert f"| {item.name} | {item.outcome} | " in text


def test_a_crash_of_pytest_is_a_failure_and_not_a_skip(check_all: ModuleType) -> None:
    step = check_all.Step("tests", (sys.executable, "-c", "raise SystemExit(3)"), junit=True)
    assert check_all.run(step).failed


def test_tests_are_counted_from_junit_files(check_all: ModuleType, tmp_path: Path) -> None:
    junit = tmp_path / "x.xml"
    junit.write_text(
        "<testsuites><testsuite>"
        '<testcase classname="tests.a.test_b" name="one" time="2.4"><properties>'
        '<property name="rate" value="7"/></properties></testcase>'
        '<testcase classname="tests.a.test_b" name="two" time="1"><failure/></testcase>'
        '<testcase classname="tests.a.test_b" name="three" time="0"><skipped message="no GPU"/></testcase>'
        "</testsuite></testsuites>"
    )
    text = check_all.report([], [junit])
    assert "| tests.a.test_b | 1 | 1 | 1 | 3 |" in text
    assert "| `one` | rate | 7 |" in text
    assert "- 1 x no GPU" in text


def test_unknown_steps_are_refused(
    check_all: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["check_all.py", "magic"])
    with pytest.raises(SystemExit) as error:
        check_all.main()
    assert error.value.code == 2
    assert "there is no step magic" in capsys.readouterr().err


def test_what_a_study_counted_is_a_remark_also_where_it_failed(check_all: ModuleType) -> None:
    code = "import json; print('case 3: wrong'); print(json.dumps({'cases': 8, 'wrong': 1, 'slowest': ['x', 2]}))"
    good, bad = (
        check_all.run(check_all.Step(name, (sys.executable, "-c", text), check_all.counted))
        for name, text in (("good", code), ("bad", f"{code}; raise SystemExit(1)"))
    )
    assert good.outcome == "passed, cases 8, wrong 1"
    assert bad.outcome == "FAILED (1), cases 8, wrong 1"
    assert check_all.counted("Traceback") == ""


def test_a_step_that_hangs_is_ended_with_all_that_it_started(check_all: ModuleType, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = "import subprocess; process = subprocess.Popen(['sleep', '3600']); "
    code += f"open({str(pid)!r}, 'w').write(str(process.pid)); process.wait()"
    outcome = check_all.run(check_all.Step("hangs", (sys.executable, "-c", code), limit=10))
    assert outcome.outcome == "FAILED (ended after 10 s)"
    state = Path(f"/proc/{pid.read_text()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"
    assert check_all.run(check_all.Step("absent", ("/no/such/program",))).outcome == "FAILED (127)"


def test_resuming_runs_what_is_not_recorded(
    check_all: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'a').write('x')"
    known = [check_all.Step(name, (sys.executable, "-c", text)) for name, text in (("one", code), ("two", code))]
    monkeypatch.setattr(check_all, "steps", lambda short=False: known)
    monkeypatch.setattr(check_all, "write", lambda known: None)
    check_all.run(known[0])
    monkeypatch.setattr(sys, "argv", ["check_all.py", "--resume"])
    assert check_all.main() == 0
    assert ran.read_text() == "xx"


def test_every_study_is_a_module_with_the_options_that_it_gets(check_all: ModuleType) -> None:
    for name, (module, count, _) in check_all.STUDIES.items():
        assert (ROOT / "tests" / "studies" / f"{module}.py").is_file()
        command = check_all.study(name, True).command
        assert not count or command[command.index("--count") + 1] == str(count // 10)
