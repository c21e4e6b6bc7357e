"""The switch between fused kernels and reference maths."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from hsm_operators import switch, use_kernels
from hsm_operators.switch import kernels_wanted


def test_blocks_nest_and_end() -> None:
    before = kernels_wanted()
    with use_kernels():
        assert kernels_wanted()
        with use_kernels(False):
            assert not kernels_wanted()
        assert kernels_wanted()
    with pytest.raises(KeyError), use_kernels(not before):
        raise KeyError
    assert kernels_wanted() == before


def test_it_decorates_a_function() -> None:
    assert use_kernels(True)(kernels_wanted)()
    assert not use_kernels(False)(kernels_wanted)()


def test_another_thread_is_not_affected() -> None:
    before = kernels_wanted()
    with use_kernels(not before), ThreadPoolExecutor(1) as pool:
        assert pool.submit(kernels_wanted).result() == before


@pytest.mark.parametrize(("value", "expected"), [(None, "True"), ("1", "True"), ("0", "False")])
def test_the_variable_is_the_default_of_the_process(
    value: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(switch.VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(switch.VARIABLE, value)
    code = "from hsm_operators.switch import kernels_wanted; print(kernels_wanted())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_another_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(switch.VARIABLE, "yes")
    switch._default.cache_clear()
    with pytest.raises(ValueError, match="HSM_TORCH_KERNELS is 'yes'; set it to 0"):
        kernels_wanted()
    monkeypatch.undo()
    switch._default.cache_clear()
