"""docs/serving.md, run in an empty folder by a shell that stops at the first command that fails."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.plugins.native import ROOT, needs

import hsm_export
from hsm_export.native import find_library

PAGE = ROOT / "docs" / "serving.md"
SITE = Path(sysconfig.get_paths()["purelib"])
OWN = ("hsm_", "_editable", "pip", "__pycache__")  # what is in the wheel, and what the new environment keeps
# Two minutes of compiling on two cores, one more for the rest; a busy machine takes several times as long.
LIMIT_S = 1800


def commands() -> str:
    """Return the page's commands in their order."""
    return "\n".join(re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL))


def test_the_server_stands_where_the_page_says() -> None:
    source = ROOT / "plugins" / "examples" / "serve_tcp" / "main.cc"
    assert f"a program of {len(source.read_text().splitlines())} lines" in PAGE.read_text()
    # What `pip install` is played with below changes nothing else of the page.
    assert commands().count("venv/bin/activate\n") == 1


def native_files() -> Iterator[tuple[Path, str]]:
    """Yield the installed native files with their names in a wheel; without CUDA's, which nothing here can run."""
    root = Path(str(hsm_export.cmake_prefix_path()))
    for folder in ("bin", "include", "lib", "share"):
        for path in (root / folder).rglob("*"):
            if path.is_file() and not re.search(r"cuda|tensorrt", path.name):
                yield path, f"hsm_export/{path.relative_to(root)}"


def make_wheel(folder: Path) -> None:
    """Pack this installation as the wheel that an index would serve; building one anew takes many minutes."""
    distribution = importlib.metadata.distribution("hsm-export")
    name = f"hsm_export-{distribution.version}"
    tag = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
    files = dict(native_files())
    for package in ("exporter/hsm_export", "models/hsm_models", "plugins/hsm_operators"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                files[path] = str(path.relative_to((ROOT / package).parent))
    with zipfile.ZipFile(folder / f"{name}-{tag}.whl", "w") as wheel:
        for path, inside in files.items():
            wheel.write(path, inside)
        for record in ("METADATA", "entry_points.txt"):
            wheel.writestr(f"{name}.dist-info/{record}", distribution.read_text(record) or "")
        wheel.writestr(f"{name}.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")


@pytest.mark.slow
@needs("c++")
@needs("cmake")
@needs("pkg-config")
@pytest.mark.skipif(find_library("libhsm_runtime.so") is None, reason="this installation has no libhsm_runtime.so")
def test_the_page_leads_to_a_running_server(tmp_path: Path) -> None:
    index, empty = tmp_path / "index", tmp_path / "empty"
    index.mkdir()
    empty.mkdir()
    make_wheel(index)
    # In place of an index: the wheel, and what it depends on lies in the new environment already, as links.
    environment = {
        name: text for name, text in os.environ.items() if not name.startswith(("HSM_", "PYTHON", "VIRTUAL"))
    }
    environment.update(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(index), HOME=str(tmp_path), sources=str(ROOT))
    tools = [str(Path(sys.executable).parent), environment["PATH"]]
    environment["PATH"] = os.pathsep.join(tools)
    links = [str(path) for path in SITE.iterdir() if not path.name.startswith(OWN)]
    (tmp_path / "links").write_text("\n".join(links))
    packages = "venv/lib/python3.*/site-packages"
    link = (
        f"rm -rf {packages}/[!p]* {packages}/pkg_resources\nxargs -d '\\n' ln -s -t {packages} < '{tmp_path}/links'\n"
    )
    script = commands().replace("venv/bin/activate\n", f"venv/bin/activate\n{link}")
    shell = ["bash", "-eux", "-c", script]
    with (tmp_path / "output").open("w") as output:
        done = subprocess.run(
            shell, cwd=empty, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=LIMIT_S, check=False
        )
    text = (tmp_path / "output").read_text(errors="replace")
    assert done.returncode == 0, text[-4000:]
    assert (empty / "reply.1").stat().st_size > 0
    # The program of one file needs nobody's library of ours.
    linked = subprocess.run(["ldd", empty / "serve_static"], capture_output=True, text=True, check=True).stdout
    assert "hsm" not in linked and "onnxruntime" not in linked
