"""The web demo's generator, in Node.js: its greedy text is that of `hsm-export generate`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import hsm_export
from hsm_export.decoding.sampling import Sampling

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "web"
PLACES = (DEMO, *sorted((ROOT / "build" / "runtimes").glob("onnxruntime-web*")))
PACKAGES = next((p / "node_modules" for p in PLACES if (p / "node_modules" / "onnxruntime-web").exists()), None)


@pytest.mark.skipif(shutil.which("node") is None or PACKAGES is None, reason="npm install in examples/web was not run")
def test_the_page_writes_what_generate_writes(tmp_path: Path) -> None:
    assert PACKAGES is not None
    model = tmp_path / "model.onnx"
    hsm_export.export("zoo:hsm-hybrid-lm", output=model, decode=True)
    for name in ("generate.mjs", "generator.mjs", "package.json"):
        shutil.copy(DEMO / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(PACKAGES)
    command = ["node", "generate.mjs", model, "And God said", "24"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (completion,) = hsm_export.generate(model, ["And God said"], max_tokens=24, sampling=Sampling(0)).completions
    assert done.stdout == completion.text + "\n"
