"""The builder's process: whatever becomes of it is a clear error, and it never outlives the one who waits for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hsm_export.building import worker
from hsm_export.building.portable.compiling import RefusedError
from hsm_export.building.process import run_builder
from hsm_export.child_process import python_environment
from hsm_export.errors import BuildRefusedError, HsmExportError, MissingDependencyError


def run(code: str, **job: Any) -> tuple[dict[str, Any], list[str], list[tuple[str, str]]]:
    """Run a stand-in for the worker that begins with `job` read, `send` and `event` defined."""
    prelude = "import json, os, sys\njob = json.loads(sys.stdin.readline())['argument']\n"
    prelude += "def send(**message): print(json.dumps(message), flush=True)\n"
    prelude += "def event(name, *values): send(event=name, values=values)\n"
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
        "event('phase', 'compiling'); event('log', 'warning', 'hot'); send(done={'target': job['target']})"
    )
    assert done == {"target": "tensorrt-rtx"}
    assert phases == ["compiling"]
    assert logs == [("warning", "hot")]


@pytest.mark.parametrize("kind", [BuildRefusedError, MissingDependencyError])
def test_errors_keep_their_class_message_and_hint(kind: type[HsmExportError]) -> None:
    with pytest.raises(kind, match="no way") as caught:
        run(f"send(error={{'type': {kind.__name__!r}, 'message': 'no way', 'hint': 'the other'}})")
    assert getattr(caught.value, "hint", None) == "the other"


def test_a_full_disk_stays_an_operating_system_error() -> None:
    with pytest.raises(OSError, match="No space") as caught:
        run("send(error={'type': 'OSError', 'message': 'No space left', 'errno': 28, 'file': 'x.engine'})")
    assert (caught.value.errno, caught.value.filename) == (28, "x.engine")


@pytest.mark.parametrize(
    ("error", "expected", "hint"),
    [
        (RefusedError("no kernel"), BuildRefusedError, "-v"),
        (RefusedError("too large", "memory"), BuildRefusedError, "memory"),
        (RefusedError("no library", "missing"), MissingDependencyError, "-v"),
        (RefusedError("no kernel", hint="do that"), BuildRefusedError, "do that"),
        (MemoryError(), BuildRefusedError, "memory"),
        (ImportError("libnvinfer.so"), MissingDependencyError, "-v"),
    ],
)
def test_what_the_builder_raises_is_of_a_class_of_ours(
    error: Exception, expected: type[HsmExportError], hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = worker.Worker.__new__(worker.Worker)  # its channel would take this process's stdout

    def build(*_: object) -> None:
        raise error

    monkeypatch.setattr(builder, "_build", build)
    with pytest.raises(expected) as caught:
        builder.build({"engine": "x.engine", "product": "TensorRT"})
    assert hint in str(caught.value.hint)


def test_a_crash_is_a_refusal_that_quotes_the_last_words() -> None:
    with pytest.raises(BuildRefusedError, match=r"crashed \(by SIGABRT\) while compiling: terminate called"):
        run("event('phase', 'compiling'); sys.stderr.write('terminate called\\n'); sys.stderr.flush(); os.abort()")


def test_the_oom_killer_is_recognised() -> None:
    with pytest.raises(BuildRefusedError, match="memory ran out"):
        run("event('phase', 'compiling'); os.kill(os.getpid(), 9)")


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
    code += "print(json.dumps({'event': 'phase', 'values': ['compiling']}), flush=True)\ntime.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        run_builder({"target": "x", "product": "x", "engine": "x"}, interrupt, print, [sys.executable, "-c", code])
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_the_worker_ends_when_nobody_waits_for_it(tmp_path: Path) -> None:
    engine = tmp_path / "half.engine"
    engine.write_bytes(b"half")
    code = (
        "import sys, time\n"
        "from hsm_export.building import worker\n"
        "worker.compile_network = lambda *_: time.sleep(60)\n"
        "worker.network_bytes = lambda *_, **__: b''\n"
        "worker.Settings.from_dict = lambda job: worker.Settings\n"
        "worker.Settings.plugin_layers = None\n"
        "worker.Worker().serve()"
    )
    environment = {**os.environ, **python_environment()}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    job = {"engine": str(engine), "model": "m.onnx", "location": "m.onnx", "module": "json"}
    process.stdin.write(json.dumps({"request": "build", "argument": job}) + "\n")
    process.stdin.flush()
    assert "reading" in process.stdout.readline()
    process.stdin.close()
    assert process.wait(timeout=20) == 1
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
