"""The C++ runtime under what a server does to it: kills while it saves, reloads while it serves, damaged bundles."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.exporter.building.hand_made import token_model
from tests.plugins.native import built
from tests.shared import made_once

import hsm_export
import onnxruntime
from hsm_export.bundling import bundle

pytestmark = pytest.mark.slow
# ONNX Runtime's allocators settle by this much; a session that stays would show with 160 times 0.5 MB.
GROWTH_KILOBYTES = 8 * 1024


def environment() -> dict[str, str]:
    (runtime,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.1.*")
    return {**os.environ, "HSM_ONNXRUNTIME_LIBRARY": str(runtime)}


def test_a_hundred_kills_while_saving_lose_nothing_and_leave_nothing(tmp_path: Path) -> None:
    path = made_once("zoo-hsm-lm-decode.onnx", lambda path: hsm_export.export("zoo:hsm-lm", output=path, decode=True))
    bundle(None, tmp_path / "lm.hsm", decode=path)
    (tmp_path / "rows").mkdir()
    row = tmp_path / "rows" / "row.safetensors"
    program = str(built("runtime/hsm_save_rows"))
    delays = random.Random(4)
    for _ in range(100):
        with subprocess.Popen(
            [program, tmp_path / "lm.hsm", row, "save"], stdout=subprocess.PIPE, env=environment()
        ) as saving:
            assert saving.stdout is not None
            saving.stdout.readline()
            time.sleep(delays.random() * 0.02)
            saving.send_signal(signal.SIGKILL)
        assert saving.returncode == -signal.SIGKILL
        # A file without a name goes with its process; a name for a moment, where a file system has no others, is swept.
        assert [entry.name for entry in row.parent.iterdir()] == [row.name]
    loaded = subprocess.run(
        [program, tmp_path / "lm.hsm", row, "load"], capture_output=True, text=True, env=environment()
    )
    assert loaded.returncode == 0, loaded.stderr
    assert int(loaded.stdout) >= 1


def test_240_reloads_while_serving_lose_nothing_and_keep_nothing(tmp_path: Path) -> None:
    names = [tmp_path / f"{index}.hsm" for index in range(3)]
    for name in names:
        bundle(token_model(tmp_path / "m.onnx"), name)
    command = [built("runtime/hsm_reload"), "240", "4", *names]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    seen = {name: int(number) for name, number in (line.split() for line in done.stdout.splitlines())}
    print(seen)
    assert seen["failed"] == 0 and seen["requests"] > 240
    assert seen["kilobytes_after"] - seen["kilobytes_before"] < GROWTH_KILOBYTES, seen


def test_500_mutations_of_a_bundle_are_taken_or_refused(tmp_path: Path) -> None:
    """No crash, no hang, no mistake of the library, and no memory taken on the word of a file."""
    bundle(token_model(tmp_path / "m.onnx"), tmp_path / "good.hsm")
    program = str(built("runtime/hsm_open_limited"))
    choose = random.Random(9)
    counts: dict[int, int] = {}
    for index in range(500):
        copy = tmp_path / "copy.hsm"
        shutil.copytree(tmp_path / "good.hsm", copy)
        target = copy / choose.choice(["manifest.json", "model.onnx", "model.onnx", "self-test.safetensors"])
        data = bytearray(target.read_bytes())
        for _ in range(choose.choice([1, 1, 4, 20])):
            place = choose.randrange(len(data))
            data[place : place + choose.choice([0, 1, 1, 3])] = choose.randbytes(choose.choice([1, 1, 2]))
        target.write_bytes(data)
        if target.name != "manifest.json":  # signed anew, so that what reads the file is met
            manifest = json.loads((copy / "manifest.json").read_text())
            entry = manifest["files"][target.name]
            entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            (copy / "manifest.json").write_text(json.dumps(manifest))
        done = subprocess.run([program, str(copy)], capture_output=True, text=True, timeout=60, env=environment())
        # 0, or a code of hsm_runtime/status.h but kInternal.
        assert done.returncode in (0, 1, 2, 3, 4), (index, target.name, done.returncode, done.stderr)
        counts[done.returncode] = counts.get(done.returncode, 0) + 1
        shutil.rmtree(copy)
    print(counts)
    assert counts[2] > 100
