"""Models of the authors' layouts decode the same in every CPU runtime: one call, pieces, single steps and forks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.models.importers import goose, hazy, relatives

import hsm_export
from hsm_models.checkpoint import build_model
from hsm_models.importers import ImportedModel, ImportOptions, convert
from hsm_models.importers.state_file import StateFile

RUNTIMES = ["onnx-reference", "ort", "ort-fused", "cpp"]


def moeut(generator: torch.Generator) -> ImportedModel:
    state = relatives.moeut_state(generator, trained=False)
    return convert(StateFile(state), "moeut", ImportOptions(layers=4, active=2, feed_forward_active=3))


def sigma_moe(generator: torch.Generator) -> ImportedModel:
    return convert(StateFile(relatives.sigma_state(generator), relatives.SIGMA_CONFIG), "sigma-moe")


def based(generator: torch.Generator) -> ImportedModel:
    return convert(StateFile(hazy.state(generator), hazy.CONFIG), "based")


def rwkv7(generator: torch.Generator) -> ImportedModel:
    return convert(StateFile(goose.state(generator, layers=2)), "rwkv7")


@pytest.mark.slow
@pytest.mark.parametrize("layout", [moeut, sigma_moe, based, rwkv7])
def test_every_runtime_decodes_as_the_model(
    layout: Callable[[torch.Generator], ImportedModel], generator: torch.Generator, tmp_path: Path
) -> None:
    imported = layout(generator)
    model = build_model(imported.config).eval()
    model.load_state_dict(imported.weights)
    hsm_export.export(model, output=tmp_path / "decode.onnx", decode=True)
    result = hsm_export.validate(tmp_path / "decode.onnx", against=model, runtimes=RUNTIMES)
    assert result.passed, result.summary
    ran = {report.runtime for report in result.runtimes if report.verdict == "passed"}
    assert ran >= set(RUNTIMES)
