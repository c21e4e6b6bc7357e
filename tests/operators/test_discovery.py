"""Operators from elsewhere: entry points, modules, files and folders."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from hsm_export import Operator, OperatorError, Port, load_operators
from hsm_operators import discovery, find, operators

FILE = """
import hsm_export

@hsm_export.operator("{domain}::Twice", "x[B,T] -> y[B,T]")
def twice(x):
    return 2 * x
"""
SPEC = """
from hsm_operators import Operator, Port

X, Y = (Port(name, "T", ("B",)) for name in "xy")
OPERATORS = (Operator("Kept", "Keeps.", (X,), (Y,), domain="{domain}", body="y = Identity (x)"),)
"""


def _operator(domain: str, name: str = "Kept") -> Operator:
    port = Port("x", "T", ("B",), "")
    return Operator(name, "Keeps.", (port,), (Port("y", "T", ("B",), ""),), domain=domain, body="y = Identity (x)")


def test_a_file_is_loaded_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE.format(domain="fromfile"))
    load_operators(str(path))
    found = find("fromfile", "Twice")
    assert found is not None and found.torch_name == "twice"
    load_operators(str(path))
    assert find("fromfile", "Twice") is found


def test_a_folder_of_an_operator_is_a_package(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "spec.py").write_text(SPEC.format(domain="fromfolder"))
    (folder / "torch_op.py").write_text(
        "from hsm_export import register\nfrom .spec import OPERATORS\nkept = register(OPERATORS[0], lambda x: x)\n"
    )
    load_operators(str(folder))
    assert find("fromfolder", "Kept") in operators()


def test_a_folder_of_folders_and_files(tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text(FILE.format(domain="fromtree"))
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "spec.py").write_text(SPEC.format(domain="fromtree"))
    load_operators(str(tmp_path))
    assert find("fromtree", "Twice") and find("fromtree", "Kept")


def _not_python(path: Path) -> str:
    path.write_text("def")
    return "cannot be loaded: SyntaxError"


def _fails(path: Path) -> str:
    path.write_text("1 / 0")
    return "cannot be loaded: ZeroDivisionError"


def _wrong(path: Path) -> str:
    path.write_text("OPERATORS = [3]")
    return "is a int, which holds no operators"


@pytest.mark.parametrize("write", [_not_python, _fails, _wrong])
def test_what_cannot_be_loaded_is_named(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "broken.py"
    message = write(path)
    for _ in range(2):  # it is not taken for loaded
        with pytest.raises(OperatorError, match=message):
            load_operators(str(path))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="there is no file"):
        load_operators(str(tmp_path / "absent.py"))
    with pytest.raises(OperatorError, match="no module and no file"):
        load_operators("no_such_module_of_anybody")
    with pytest.raises(OperatorError, match="holds no operators"):
        load_operators(str(tmp_path))


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Entry points that a test adds; the next search finds them."""
    found: list[EntryPoint] = []
    monkeypatch.setattr(discovery, "entry_points", lambda group: found)
    monkeypatch.setattr(discovery, "_entries_done", False)
    return found


@pytest.mark.parametrize("what", ["OPERATOR", "MANY", "make", "module"])
def test_an_entry_point_may_be_an_operator_some_or_a_function(
    what: str, entries: list[EntryPoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = f"entry{what.lower()}"
    body = SPEC.format(domain=domain)
    (tmp_path / f"package_{domain}.py").write_text(
        f"{body}\nOPERATOR = OPERATORS[0]\nMANY = list(OPERATORS)\ndef make():\n    return MANY\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    value = f"package_{domain}" if what == "module" else f"package_{domain}:{what}"
    entries.append(EntryPoint("mine", value, discovery.GROUP))
    assert find(domain, "Kept") is not None


def test_a_broken_entry_point_is_warned_of(entries: list[EntryPoint]) -> None:
    entries.append(EntryPoint("mine", "no_such_module_of_anybody", discovery.GROUP))
    with pytest.warns(RuntimeWarning, match="no_such_module_of_anybody cannot be loaded: ModuleNotFoundError"):
        assert find("com.microsoft", "Gelu") is None


def test_a_function_of_ours_is_registered_already() -> None:
    from tests.operators.samples import window_mean

    discovery.collect([window_mean], "here")
    assert find("samples", "WindowMean") is window_mean.operator


def test_two_specifications_of_one_name_are_refused() -> None:
    discovery.collect(_operator("doubled"), "here")
    discovery.collect(_operator("doubled"), "here")  # the same again
    other = Operator(**{**vars(_operator("doubled")), "description": "Another."})
    with pytest.raises(ValueError, match="doubled::Kept is registered already"):
        discovery.collect(other, "here")


def test_the_command_line_and_the_environment_name_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE.format(domain="fromcli") + "print('loaded', __name__)\n")
    command = [sys.executable, "-m", "hsm_export"]
    listed = subprocess.run([*command, "--operators", str(path), "doctor"], capture_output=True, text=True, check=True)
    assert listed.stdout.count("loaded") == 1
    script = "import hsm_operators; print(hsm_operators.find('fromcli', 'Twice').qualified_name)"
    environment = {**os.environ, discovery.VARIABLE: str(path)}
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.split()[-1] == "fromcli::Twice"
    wrong = subprocess.run([*command, "--operators", "absent.py", "doctor"], capture_output=True, text=True)
    assert wrong.returncode == 4
    assert "there is no file absent.py" in wrong.stderr and "Traceback" not in wrong.stderr
