"""Thresholds: their terms, their bound, and what counts in each case."""

from __future__ import annotations

import numpy as np
import pytest

from hsm_export.comparison.bar import Evidence, bars
from hsm_export.comparison.threshold import explained, threshold
from hsm_export.comparison.verdict import apart, judge
from hsm_export.dtypes import EPSILON

INF = float("inf")


def test_the_largest_term_decides() -> None:
    floor = 4 * EPSILON["fp32"] * 8.0
    assert threshold("fp32", 8.0).value == floor
    assert threshold("fp32", 8.0, 1e-4, 1e-5, "torch").source == "native"
    assert threshold("fp32", 8.0, 1e-5, 1e-4, "torch").value == pytest.approx(2e-4)


def test_a_native_error_that_nothing_explains_is_no_licence() -> None:
    limits = threshold("fp32", 956.0, native_error=195.0, condition_error=1e-3)
    assert limits.value == 2 * explained("fp32", 956.0, 1e-3) < 1.0
    assert threshold("fp32", 956.0, native_error=195.0).value == 390.0  # nothing known that would explain it


def test_what_underflows_is_no_error() -> None:
    exact, flushed = {"y": np.array([3.6e-71, 2e-75])}, {"y": np.array([0.0, 0.0])}
    for ordinary in (True, False):
        bar = bars("fp32", [Evidence(exact, [exact], [exact], ordinary=ordinary)])[0]["y"]
        assert bar.judge(flushed["y"]).reason is None
    tiny = bars(
        "fp32",
        [Evidence({"y": np.array([1e-3])}, [{"y": np.array([2e-3])}], [{"y": np.array([1e-3])}], ordinary=False)],
    )[0]["y"]
    assert tiny.threshold.native == pytest.approx(2e-3) and tiny.doubt is None


def test_a_wrong_native_evaluation_is_a_finding() -> None:
    exact = {"y": np.array([1.0, 956.0])}
    wrong = {"y": np.array([1.0, 761.0])}
    rounded = [{"y": np.array([1.0, 956.0001])}]
    bar = bars("fp32", [Evidence(exact, [exact, wrong], rounded)])[0]["y"]
    assert bar.doubt is not None and "errs by 195" in bar.doubt
    assert bar.judge(np.array([1.0, 962.0])).reason is not None
    assert bar.judge(np.array([1.0, 956.0002])).reason is None


def test_an_ill_conditioned_model_may_err_as_its_rounding_does() -> None:
    exact, native = {"y": np.array([2.7])}, {"y": np.array([2.71])}
    rounded = [{"y": np.array([2.58])}, {"y": np.array([2.75])}]
    bar = bars("fp32", [Evidence(exact, [native], rounded)])[0]["y"]
    assert bar.doubt is None and bar.threshold.source == "condition"
    assert bar.threshold.value == pytest.approx(0.24)


def test_masks_are_held_to_their_infinities() -> None:
    exact = {"y": np.array([-INF, 1.0])}
    bar = bars("fp32", [Evidence(exact, [exact])])[0]["y"]
    assert bar.problem is None
    assert bar.judge(np.array([-INF, 1.0])).reason is None
    assert bar.judge(np.array([0.0, 1.0])).reason is not None


def test_nan_in_the_reference_proves_nothing() -> None:
    exact = {"y": np.array([np.nan, 1.0])}
    assert "NaN even in float64" in str(bars("fp32", [Evidence(exact, [exact])])[0]["y"].problem)
    overflowed = {"y": np.array([INF, 1.0])}
    bar = bars("fp16", [Evidence({"y": np.array([9e4, 1.0])}, [overflowed])])[0]["y"]
    assert "overflow" in str(bar.problem)


def test_integers_are_equal_or_wrong_where_native_precision_can_tell_them() -> None:
    exact, tied = {"ids": np.array([7, 5])}, {"ids": np.array([7, 6])}
    bar = bars("fp16", [Evidence(exact, [exact, tied])])[0]["ids"]
    assert bar.comparable.tolist() == [True, False]
    assert bar.judge(np.array([7, 6])).reason is None
    assert "8 instead of 7" in str(bar.judge(np.array([8, 5])).reason)


def test_further_roundings_widen_a_bar() -> None:
    exact, near, far = (np.array([1.0, value]) for value in (2.0, 2.001, 2.01))
    (case,) = bars(
        "fp32",
        [
            Evidence(
                {"y": exact, "n": np.array([3])}, [{"y": near, "n": np.array([3])}], [{"y": near, "n": np.array([3])}]
            )
        ],
    )
    assert case["y"].judge(far).reason is not None
    assert case["y"].widened([near, far]).judge(far).reason is None
    assert case["y"].widened([exact]).threshold == case["y"].threshold
    assert case["n"].widened([np.array([4])]) == case["n"]  # integers are equal or wrong


def test_reasons_show_digits_enough_to_differ() -> None:
    assert apart(1.0000001, 1.0000002) == ("1.0000001", "1.0000002")
    reason = judge(np.array([1.00001]), np.array([0.0]), 1.0).reason
    assert reason == "error 1.00001, allowed 1"


def test_overflow_is_a_word() -> None:
    reason = judge(np.array([INF, 1.0]), np.array([9e4, 1.0]), 1.0, precision="fp16").reason
    assert reason == "overflow: 90000 is beyond the largest float16, 65504"
    assert "equal" in str(judge(np.array(["a"], object), np.array(["b"], object), INF).reason)
    assert judge(None, np.zeros(2), 1.0).reason == "it is missing"


def test_evaluations_with_other_outputs_prove_nothing() -> None:
    exact = {"s[0]": np.array([1.0]), "s[1]": np.array([2.0])}
    with pytest.raises(ValueError, match=r"does not give the output s\[1\]"):
        bars("fp32", [Evidence(exact, [{"s[0]": np.array([1.0])}])])
