"""The public names of hsm_models."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hsm_models


def test_every_public_name_is_importable() -> None:
    for name in hsm_models.__all__:
        assert getattr(hsm_models, name) is not None
    assert set(dir(hsm_models)) == set(hsm_models.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hsm_models.nothing


def test_configurations_and_errors_need_no_torch() -> None:
    code = (
        "import sys\n"
        "from hsm_models import ConfigError, ModelConfig\n"
        "import hsm_models.zoo\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
