"""The study of thresholds itself, on a handful of models; `tools/check_all.py` runs it on 200."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.studies.diff_thresholds import examine, passed, summary
from tests.studies.random_models import KINDS, PER_ARCHITECTURE, Models

from hsm_export.native import custom_ops_path

PLAIN = KINDS.index("plain") * PER_ARCHITECTURE


@pytest.fixture(autouse=True)
def _needs_kernels() -> None:
    try:
        custom_ops_path()
    except Exception as error:  # the library is not built here
        pytest.skip(str(error))


@pytest.mark.parametrize("number", [PLAIN, PLAIN + 1, PLAIN + 2])
def test_a_plain_model_and_its_faults(number: int, tmp_path: Path) -> None:
    record = examine(Models(tmp_path).draw(number), number)
    assert record["passed"], record["alarm"]
    assert all(item["located"] for item in record["twins"]), record["twins"]
    assert passed(summary([record]))


def test_a_model_of_ours_and_its_faults(tmp_path: Path) -> None:
    record = examine(Models(tmp_path).draw(1), 1)
    assert record["passed"], record["alarm"]
    assert record["source"]
    assert all(item["located"] for item in record["twins"]), record["twins"]


def test_false_alarms_and_faults_that_are_missed_fail_the_study() -> None:
    found = {"flagged": True, "located": True, "redrawn": 0}
    record = {"layers": 3, "passed": True, "severity": 0.4, "twins": [found] * 19}
    assert passed(summary([record, record]))
    assert not passed(summary([record, record | {"passed": False}]))
    assert not passed(summary([record, {"error": "it raised"}]))
    assert passed(summary([record | {"twins": [found] * 19 + [found | {"located": False}]}]))
    assert not passed(summary([record | {"twins": [found] * 18 + [found | {"flagged": False}]}]))
    assert not passed(summary([]))
