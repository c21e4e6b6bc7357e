"""`hsm-export import` through real processes."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from tests.models.importers import authors

from hsm_models.checkpoint import load_checkpoint


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "hsm_export", "import", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_training_file_becomes_a_checkpoint_with_the_same_numbers(tmp_path: Path, generator: torch.Generator) -> None:
    state = authors.taylor_shift_state(generator, layer_scale=True)
    torch.save({"model_state": {f"_orig_mod.{name}": x for name, x in state.items()}, "epoch": 1}, tmp_path / "a.tar")
    done = run(tmp_path / "a.tar", "-o", tmp_path / "a.safetensors", "--layout", "taylor-shift", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["config"]["width"] == 16 and result["names"]["output.weight"] == "head.weight"
    tokens = torch.randint(11, (2, 9), generator=generator)
    expected = authors.taylor_shift_logits(state, tokens.numpy(), heads=4)
    with torch.no_grad():
        actual = load_checkpoint(tmp_path / "a.safetensors")(tokens).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_a_folder_and_the_table(tmp_path: Path, generator: torch.Generator) -> None:
    state = authors.switch_head_state(generator, relative=True, feed_forward_experts=4)
    torch.save({"model": state, "state": {"iter": 1}}, tmp_path / "model-1.pth")
    done = run(
        tmp_path / "model-1.pth", "-o", tmp_path / "folder", "--layout", "switch-head",
        "--active", "2", "--feed-forward-active", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "unique_layers.0.self_attn.projections.q" in done.stdout and "kv_sel_counts_100" in done.stdout
    tokens = torch.randint(13, (2, 9), generator=generator)
    expected = authors.switch_head_logits(state, tokens.numpy(), heads=2, active=2, feed_forward_active=2)
    with torch.no_grad():
        actual = load_checkpoint(tmp_path / "folder")(tokens).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_refusals_leave_nothing_behind(tmp_path: Path, generator: torch.Generator) -> None:
    good = authors.switch_head_state(generator)
    torch.save(good, tmp_path / "good.pth")
    torch.save(good | {"extra": torch.ones(1)}, tmp_path / "extra.pth")
    (tmp_path / "hostile.pth").write_bytes(pickle.dumps(print))
    cases = [
        (("good.pth",), 2, "give active"),
        (("good.pth", "--active", "9"), 4, "active 9"),
        (("good.pth", "--active", "2", "--heads", "3"), 2, "heads is 3"),
        (("good.pth", "--active", "2", "--preset", "listops"), 2, "preset 'listops' is unknown"),
        (("extra.pth", "--active", "2"), 4, "left over: extra"),
        (("hostile.pth", "--active", "2"), 4, "was not loaded"),
        (("nothing.pth",), 4, "does not exist"),
    ]
    before = sorted(tmp_path.iterdir())
    for (source, *options), code, message in cases:
        done = run(tmp_path / source, "-o", tmp_path / "out.safetensors", "--layout", "switch-head", *options)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert message in done.stderr and "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_unwritable_outputs_are_refused_before_the_source_is_read(tmp_path: Path) -> None:
    (tmp_path / "source.pth").write_bytes(b"never read")
    done = run(tmp_path / "source.pth", "-o", tmp_path / "no" / "out.safetensors", "--layout", "switch-head")
    assert done.returncode == 4 and "does not exist" in done.stderr
    (tmp_path / "file").touch()
    done = run(tmp_path / "source.pth", "-o", tmp_path / "file", "--layout", "switch-head")
    assert done.returncode == 4 and "it is a file" in done.stderr
