"""Ctrl-C and polite kills: they end what runs by an exception, but never in the middle of loading a native module.

Native modules such as those of onnx and PyTorch run Python while they are loaded. An exception that a signal raises
there ends the process with a crash, or is lost, and the work goes on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from types import FrameType

_LOADING = frozenset({ExtensionFileLoader.create_module.__code__, ExtensionFileLoader.exec_module.__code__})
_LATER = 0.05  # seconds after which a signal that came too early is tried again


def raise_on(number: int, error: Callable[[], BaseException]) -> None:
    """Have a signal raise an exception in the main thread, where need be as soon as a native module is loaded.

    Args:
        number: the signal; one that is ignored, as Ctrl-C is in background jobs, stays ignored.
        error: makes the exception.
    """
    if signal.getsignal(number) == signal.SIG_IGN:
        return
    main = threading.main_thread().ident
    assert main is not None

    def interrupt(_number: int, frame: FrameType | None) -> None:
        if not _loads_native_module(frame):
            raise error()
        again = threading.Timer(_LATER, signal.pthread_kill, (main, number))
        again.daemon = True
        again.start()

    signal.signal(number, interrupt)


def _loads_native_module(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in _LOADING:
            return True
        frame = frame.f_back
    return False
