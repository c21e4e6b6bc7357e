"""Taking the place of PyTorch's operators."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import torch

from hsm_export.runtimes.operator_calls import operators_called_by


def test_every_operator_is_called_by_ours() -> None:
    seen = []

    def call(operator: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        seen.append(operator)
        return operator(*arguments, **options)

    with operators_called_by(call):
        torch.ones(2) + 1
    torch.ones(2)
    assert [item.overloadpacket.__name__ for item in seen] == ["ones", "add"]


# PyTorch's compiler takes seconds to load; a mixer's operator, random weights and a watched run do without it.
WITHOUT_COMPILER = """
import sys
import torch
from hsm_export.runtimes.reference_maths import reference_maths
from hsm_models import HSMConfig, LayerConfig, ModelConfig
from hsm_models.checkpoint import build_model, load_checkpoint, save_checkpoint
model = build_model(ModelConfig("language_model", 8, (LayerConfig(HSMConfig(), None),), vocab_size=5))
save_checkpoint(model, sys.argv[1])
model = load_checkpoint(sys.argv[1]).double()
with reference_maths(torch.float64):
    model(torch.zeros(1, 4, dtype=torch.int64))
print("torch._dynamo" in sys.modules)
"""


def test_a_comparison_does_not_load_the_compiler(tmp_path: Any) -> None:
    command = [sys.executable, "-c", WITHOUT_COMPILER, str(tmp_path / "model.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout.strip() == "False", done.stderr
