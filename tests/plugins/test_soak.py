"""Many requests from many threads on one session: equal results, and memory that does not grow."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.exporter.building.hand_made import token_model
from tests.plugins.native import built
from tests.shared import made_once

import hsm_export
import onnxruntime
from hsm_export.bundling import bundle
from hsm_export.native import custom_ops_path
from hsm_export.runtimes import get

FUSED = get("ort-fused").available()
pytestmark = pytest.mark.skipif(FUSED is not None, reason=f"the fused kernels do not run here: {FUSED}")
THREADS = 8
# Threads' stacks and allocators settle by this much; a leak of 100 bytes a request would show as 7 MB in the long run.
GROWTH_KILOBYTES = 2048


def soak(folder: Path, requests: int) -> dict[str, int]:
    """Run the program; return what it printed."""
    (runtime,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.1.*")
    command = [built("runtime/hsm_soak"), folder, custom_ops_path(), str(THREADS), str(requests)]
    environment = {**os.environ, "HSM_ONNXRUNTIME_LIBRARY": str(runtime)}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: int(number) for name, number in (line.split() for line in done.stdout.splitlines())}


def check(seen: dict[str, int], requests: int) -> None:
    assert (seen["requests"], seen["wrong"]) == (THREADS * requests, 0)
    assert seen["kilobytes_after"] - seen["kilobytes_before"] < GROWTH_KILOBYTES, seen


def test_a_few_requests(tmp_path: Path) -> None:
    bundle(token_model(tmp_path / "m.onnx"), tmp_path / "m.hsm")
    check(soak(tmp_path / "m.hsm", 200), 200)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["taylor-shift-digits", "switch-head-lm"])
def test_ten_thousand_requests_a_thread(
    tmp_path: Path, name: str, record_property: Callable[[str, object], None]
) -> None:
    hsm_export.export(f"zoo:{name}", output=tmp_path / "m.onnx")
    bundle(tmp_path / "m.onnx", tmp_path / "m.hsm", against=f"zoo:{name}")
    seen = soak(tmp_path / "m.hsm", 10_000)
    for what in ("kilobytes_before", "kilobytes_after"):
        record_property(what, seen[what])
    check(seen, 10_000)


@pytest.mark.parametrize("clients", [6, pytest.param(48, marks=pytest.mark.slow)])
def test_many_clients_on_the_rows_of_a_scheduler(tmp_path: Path, clients: int) -> None:
    """Every reply is that of the request alone, whoever joins, cancels, is parked and resumed."""
    path = made_once("zoo-hsm-lm-decode.onnx", lambda path: hsm_export.export("zoo:hsm-lm", output=path, decode=True))
    bundle(None, tmp_path / "lm.hsm", decode=path)
    (runtime,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.1.*")
    environment = {**os.environ, "HSM_ONNXRUNTIME_LIBRARY": str(runtime), "TMPDIR": str(tmp_path)}
    command = [built("runtime/hsm_soak_requests"), tmp_path / "lm.hsm", str(clients), "4", "12"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 differ from the request alone" in done.stdout
    assert not list(tmp_path.glob("soak-requests*"))
