"""`hsm-export import`: through real processes where the process matters, else inside this one."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.models.importers import authors, hazy

import hsm_export
from hsm_export import cli
from hsm_export.errors import UsageError
from hsm_models.checkpoint import load_checkpoint


def run_process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "hsm_export", "import", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def run(*arguments: str | Path) -> int:
    """Run the command line in this process and return its exit code."""
    return cli.run(["import", *map(str, arguments)])


def test_a_training_file_becomes_a_checkpoint_with_the_same_numbers(tmp_path: Path, generator: torch.Generator) -> None:
    state = authors.taylor_shift_state(generator, layer_scale=True)
    torch.save({"model_state": {f"_orig_mod.{name}": x for name, x in state.items()}, "epoch": 1}, tmp_path / "a.tar")
    done = run_process(tmp_path / "a.tar", "-o", tmp_path / "a.safetensors", "--layout", "taylor-shift", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["config"]["width"] == 16 and result["names"]["output.weight"] == "head.weight"
    tokens = torch.randint(11, (2, 9), generator=generator)
    expected = authors.taylor_shift_logits(state, tokens.numpy(), heads=4)
    with torch.no_grad():
        actual = load_checkpoint(tmp_path / "a.safetensors")(tokens).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_a_folder_and_the_table(tmp_path: Path, generator: torch.Generator, capsys: pytest.CaptureFixture[str]) -> None:
    state = authors.switch_head_state(generator, relative=True, feed_forward_experts=4)
    torch.save({"model": state, "state": {"iter": 1}}, tmp_path / "model-1.pth")
    options = ("--layout", "switch-head", "--active", "2", "--feed-forward-active", "2")
    assert run(tmp_path / "model-1.pth", "-o", tmp_path / "folder", *options) == 0
    table = capsys.readouterr().out
    assert "unique_layers.0.self_attn.projections.q" in table and "kv_sel_counts_100" in table
    tokens = torch.randint(13, (2, 9), generator=generator)
    expected = authors.switch_head_logits(state, tokens.numpy(), heads=2, active=2, feed_forward_active=2)
    with torch.no_grad():
        actual = load_checkpoint(tmp_path / "folder")(tokens).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_a_folder_in_shards_keeps_its_tokenizer(
    tmp_path: Path, generator: torch.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "theirs", tmp_path / "ours"
    source.mkdir()
    save_file(hazy.state(generator, tied=False), source / "model.safetensors")
    (source / "config.json").write_text(json.dumps(hazy.CONFIG))
    (source / "tokenizer.json").write_text("{}")
    options = ("--layout", "based", "--max-shard-size", "0.01")
    assert run(source, "-o", output, *options) == 0
    shown = capsys.readouterr().out
    assert "layers 0, 1, 2 stand for all of their kind" in " ".join(shown.split())
    assert (output / "tokenizer.json").read_text() == "{}" and len(list(output.glob("model-*"))) > 1
    assert load_checkpoint(output).config.norm_kind == "rms"
    assert run(source, "-o", tmp_path / "m.safetensors", *options) == 2
    assert "shards need a folder" in capsys.readouterr().err
    assert run(source, "-o", tmp_path / "m.safetensors", "--layout", "based") == 0
    assert (tmp_path / "m.tokenizer.json").read_text() == "{}"


def test_a_hostile_pickle_ends_with_one_line_and_exit_code_4(tmp_path: Path) -> None:
    (tmp_path / "hostile.pth").write_bytes(pickle.dumps(print))
    done = run_process(tmp_path / "hostile.pth", "-o", tmp_path / "out.safetensors", "--layout", "taylor-shift")
    assert (done.returncode, done.stdout) == (4, "")
    assert "was not loaded" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.pth"]


@pytest.mark.parametrize(
    ("source", "options", "code", "message"),
    [
        ("good.pth", (), 2, "give active"),
        ("good.pth", ("--active", "9"), 4, "active 9"),
        ("good.pth", ("--active", "2", "--heads", "3"), 2, "heads is 3"),
        ("good.pth", ("--active", "2", "--preset", "listops"), 2, "preset 'listops' is unknown"),
        ("good.pth", ("--active", "zwei"), 2, "zwei"),
        ("extra.pth", ("--active", "2"), 4, "left over: extra"),
        ("nothing.pth", (), 4, "does not exist"),
    ],
)
def test_refusals_leave_nothing_behind(
    source: str,
    options: tuple[str, ...],
    code: int,
    message: str,
    tmp_path: Path,
    generator: torch.Generator,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = authors.switch_head_state(generator)
    torch.save(good, tmp_path / "good.pth")
    torch.save(good | {"extra": torch.ones(1)}, tmp_path / "extra.pth")
    before = sorted(tmp_path.iterdir())
    assert run(tmp_path / source, "-o", tmp_path / "out.safetensors", "--layout", "switch-head", *options) == code
    printed = capsys.readouterr()
    assert printed.out == "" and message in printed.err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("output", "message"), [("no/out.safetensors", "does not exist"), ("file", "it is a file")])
def test_unwritable_outputs_are_refused_before_the_source_is_read(
    output: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "source.pth").write_bytes(b"never read")
    (tmp_path / "file").touch()
    assert run(tmp_path / "source.pth", "-o", tmp_path / output, "--layout", "switch-head") == 4
    assert message in capsys.readouterr().err


def test_the_python_function_names_its_options(tmp_path: Path) -> None:
    (tmp_path / "source.pth").write_bytes(b"never read")
    with pytest.raises(UsageError, match="has no option experts"):
        hsm_export.import_checkpoint(tmp_path / "source.pth", tmp_path / "out", layout="switch-head", experts=3)


def test_a_recorded_run_proves_the_import(
    tmp_path: Path, generator: torch.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    state = authors.switch_head_state(generator, relative=True)
    torch.save({"model": state}, tmp_path / "a.pth")
    tokens = torch.randint(13, (2, 9), generator=generator).numpy()
    logits = authors.switch_head_logits(state, tokens, heads=2, active=2).astype(np.float32)
    np.savez(tmp_path / "run.npz", input_0=tokens, output_0=logits)
    command = (tmp_path / "a.pth", "-o", tmp_path / "a.safetensors", "--layout", "switch-head")
    assert run(*command, "--active", "2", "--check", tmp_path / "run.npz", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    verdicts = {report["runtime"]: report["verdict"] for report in result["check"]["runtimes"]}
    assert verdicts["recorded run"] == "passed" and verdicts["ort-fused"] == "passed"
    (tmp_path / "a.safetensors").unlink()
    assert run(*command, "--active", "1", "--check", tmp_path / "run.npz") == 5
    assert "recorded run" in capsys.readouterr().err and not (tmp_path / "a.safetensors").exists()
