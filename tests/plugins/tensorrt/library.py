"""Where the plugin library under test is, and processes in which TensorRT loads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hsm_export.building.portable.linking import search_path
from hsm_export.errors import MissingDependencyError
from hsm_export.native import tensorrt_plugin_path
from hsm_operators import OPERATORS

HERE = Path(__file__).parent
REGISTER = "libhsm_tensorrt_register.so"
# Engines compile the bodies of the others.
PLUGINS = {name: operator for name, operator in OPERATORS.items() if operator.plugin}


def plugin_library() -> Path:
    """Return the installed plugin library, or the one that HSM_TEST_TENSORRT_PLUGINS names; skip without one."""
    given = os.environ.get("HSM_TEST_TENSORRT_PLUGINS")
    if given:
        return Path(given)
    try:
        return tensorrt_plugin_path()
    except MissingDependencyError as error:
        pytest.skip(str(error))


def converse(script: str, job: Any, directory: Path, *arguments: str) -> Any:
    """Run a script of this folder in a process of its own: it reads a job and writes an answer, both JSON files.

    TensorRT-RTX finds itself there by the name under which its parser looks for plugins. A crash is an error that
    shows the process's last words.
    """
    question, answer = directory / "job.json", directory / "answer.json"
    question.write_text(json.dumps(job), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment.update(search_path(directory, environment))
    done = subprocess.run(
        [sys.executable, "-P", str(HERE / script), str(question), str(answer), *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert answer.is_file(), f"{script} ended with {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(answer.read_text(encoding="utf-8"))
