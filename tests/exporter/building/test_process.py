"""The builder's process: whatever becomes of it is a clear error, and it never outlives the one who waits for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hsm_export.building.process import run_builder
from hsm_export.errors import BuildRefusedError, MissingDependencyError


def run(code: str, **job: Any) -> tuple[dict[str, Any], list[str], list[tuple[str, str]]]:
    """Run a stand-in for the worker that begins with `job` read and `send` defined."""
    prelude = "import json, os, sys\njob = json.loads(sys.stdin.readline())\n"
    prelude += "def send(**message): print(json.dumps(message), flush=True)\n"
    phases: list[str] = []
    logs: list[tuple[str, str]] = []
    done = run_builder(
        {"target": "tensorrt-rtx", "product": "TensorRT-RTX", "engine": "x.engine", **job},
        phases.append,
        lambda severity, text: logs.append((severity, text)),
        [sys.executable, "-c", prelude + code],
    )
    return done, phases, logs


def test_phases_logs_and_the_answer_arrive() -> None:
    done, phases, logs = run(
        "send(phase='compiling'); send(log=['warning', 'hot']); send(done={'target': job['target']})"
    )
    assert done == {"target": "tensorrt-rtx"}
    assert phases == ["compiling"]
    assert logs == [("warning", "hot")]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("refused", BuildRefusedError), ("memory", BuildRefusedError), ("missing", MissingDependencyError)],
)
def test_errors_keep_their_class_message_and_hint(kind: str, expected: type[Exception]) -> None:
    with pytest.raises(expected, match="no way") as caught:
        run(f"send(error={{'kind': {kind!r}, 'message': 'no way', 'hint': None}})")
    assert getattr(caught.value, "hint", None)


def test_a_full_disk_stays_an_operating_system_error() -> None:
    with pytest.raises(OSError, match="No space"):
        run("send(error={'kind': 'os', 'message': 'No space left', 'errno': 28})")


def test_a_crash_is_a_refusal_that_quotes_the_last_words() -> None:
    with pytest.raises(BuildRefusedError, match=r"crashed \(by SIGABRT\) while compiling: terminate called"):
        run("send(phase='compiling'); sys.stderr.write('terminate called\\n'); sys.stderr.flush(); os.abort()")


def test_the_oom_killer_is_recognised() -> None:
    with pytest.raises(BuildRefusedError, match="memory ran out"):
        run("send(phase='compiling'); os.kill(os.getpid(), 9)")


def test_an_exit_without_an_answer_is_a_refusal() -> None:
    with pytest.raises(BuildRefusedError, match="exit code 3"):
        run("sys.exit(3)")
    with pytest.raises(BuildRefusedError, match="loading the builder"):
        run_builder({"target": "x", "product": "x", "engine": "x"}, print, print, [sys.executable, "-c", ""])


def test_an_interrupt_ends_the_process(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def interrupt(_phase: str) -> None:
        raise KeyboardInterrupt

    code = "import json, os, pathlib, time\n"
    code += f"pathlib.Path({str(note)!r}).write_text(str(os.getpid()))\n"
    code += "print(json.dumps({'phase': 'compiling'}), flush=True)\ntime.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        run_builder({"target": "x", "product": "x", "engine": "x"}, interrupt, print, [sys.executable, "-c", code])
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_the_worker_ends_when_nobody_waits_for_it(tmp_path: Path) -> None:
    engine = tmp_path / "half.engine"
    engine.write_bytes(b"half")
    code = (
        "import sys, time, pathlib, threading\n"
        "from hsm_export.building.worker import _watch\n"
        f"threading.Thread(target=_watch, args=(pathlib.Path({str(engine)!r}),)).start()\n"
        "time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    worker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=environment)
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(timeout=20) == 1
    assert not engine.exists()


@pytest.mark.skipif(not hasattr(signal, "SIGINT"), reason="no signals here")
def test_ctrl_c_in_a_real_process_leaves_nothing_behind(tmp_path: Path) -> None:
    from tests.exporter.building.hand_made import token_model

    model = token_model(tmp_path / "m.onnx")
    command = [sys.executable, "-m", "hsm_export", "build", str(model), "-o", str(tmp_path / "m.engine")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "reading" in process.stderr.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx"]
