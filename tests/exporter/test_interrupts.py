"""Signals end what runs, but not in the middle of loading a native module."""

from __future__ import annotations

import _imp
import os
import signal
import time
from collections.abc import Iterator
from importlib.machinery import ExtensionFileLoader
from types import ModuleType

import pytest

from hsm_export.interrupts import raise_on


class EndedError(Exception):
    """What the signal raises here."""


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_it_is_raised_at_once() -> None:
    raise_on(signal.SIGUSR1, EndedError)
    with pytest.raises(EndedError):
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(10)


def test_a_native_module_is_loaded_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    raise_on(signal.SIGUSR1, EndedError)
    loaded: list[ModuleType] = []

    def load(module: ModuleType) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.2)  # the signal comes more than once
        loaded.append(module)

    monkeypatch.setattr(_imp, "exec_dynamic", load)
    module = ModuleType("native")
    with pytest.raises(EndedError):
        ExtensionFileLoader("native", "native.so").exec_module(module)
        time.sleep(10)
    assert loaded == [module]


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    raise_on(signal.SIGUSR1, EndedError)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
