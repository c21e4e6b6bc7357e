"""The studies themselves, on a case or two; `tools/check_all.py` runs all of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from tests.studies import generated_files, random_modules, trained_mixers
from tests.studies.backend_nodes import wrong
from tests.studies.study import ALARM, HUNG, INTERNAL, PASSED, REFUSED, Record, isolated, read, run

from hsm_models.training_settings import TrainingSettings


@pytest.mark.parametrize("number", [0, 10])
def test_a_generated_file_and_its_fault(number: int) -> None:
    """The second one is a Scan over another axis than the first, which onnx's evaluator does not run."""
    record = generated_files.examined(number)
    assert (record["end"], record["fault"]) == (PASSED, True), record


def test_every_kind_of_file_is_written() -> None:
    for number in range(len(generated_files.KINDS)):
        kind, model, nodes = generated_files.written(number)
        assert kind.startswith(generated_files.KINDS[number][0].__name__)
        assert len(model.graph.node) == len(nodes)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(0, 18, 4))
def test_a_module_that_exports_validates(number: int) -> None:
    record = random_modules.examined(0, number)
    assert record["end"] == PASSED, record


def test_cases_that_crash_or_hang_are_recorded_and_not_run_again(tmp_path: Path) -> None:
    def die() -> Record:
        os._exit(9)

    def sleep() -> Record:
        time.sleep(3600)
        return {}

    assert isolated(die)["end"] == INTERNAL
    assert isolated(sleep, 0.5)["end"] == HUNG
    cases = [("good", lambda: {"end": PASSED, "said": ""}), ("dies", die)]
    assert [item["end"] for item in run(tmp_path / "out", cases)] == [PASSED, INTERNAL]
    assert [item["end"] for item in run(tmp_path / "out", [("good", die), cases[1]])] == [PASSED, INTERNAL]
    assert [item["case"] for item in read(tmp_path / "out")] == ["good", "dies"]


def test_what_is_wrong_with_a_node_case() -> None:
    assert wrong({"end": PASSED, "said": ""}) == ""
    assert wrong({"end": ALARM, "said": "", "right": True}) == "false alarm"
    assert wrong({"end": ALARM, "said": "", "right": False}) == ""
    assert wrong({"end": INTERNAL, "said": ""}) == INTERNAL
    assert wrong({"end": REFUSED, "said": "no kernel"}) == "refused without a documented reason"
    assert wrong({"end": REFUSED, "said": "x is of type int4; arrays of it cannot be exchanged with runtimes"}) == ""


def test_trained_mixers_are_of_one_size_and_runs_are_not_repeated(tmp_path: Path) -> None:
    sizes = [trained_mixers.parameters(trained_mixers.of_one_size(name)) for name in trained_mixers.ATTENDING]
    assert max(sizes) / min(sizes) < 1.002
    (tmp_path / "text.txt").write_text("the quick brown fox " * 200)
    log = trained_mixers.Log(tmp_path / "log.jsonl", tmp_path / "text.txt")
    settings = [TrainingSettings(steps=2, batch=2, length=16, seed=seed) for seed in range(2)]
    names = (trained_mixers.BASELINE, "hybrid scalar")
    records = [log.get(name, chosen) for chosen in settings for name in names]
    again = trained_mixers.Log(tmp_path / "log.jsonl", tmp_path / "nothing")
    assert [again.get(name, chosen) for chosen in settings for name in names] == records
    table = trained_mixers.table(records)
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == list(names) and "±" in table


def test_an_interval_is_students() -> None:
    mean, half = trained_mixers.interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.30 / 3**0.5)
