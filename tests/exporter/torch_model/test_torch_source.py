"""What names the PyTorch model that a file is held to."""

from __future__ import annotations

import pytest
import torch

from hsm_export.errors import UsageError
from hsm_export.torch_model.torch_source import open_source


@pytest.mark.parametrize("wrong", [["ort"], torch.nn.Linear(2, 2).state_dict(), torch.zeros(2), 3])
def test_what_is_no_module_is_refused_in_one_sentence(wrong: object) -> None:
    with pytest.raises(UsageError, match=f"a {type(wrong).__name__} is none of them"):
        open_source(wrong)  # type: ignore[arg-type]
