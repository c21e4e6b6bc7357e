"""The compiled CUDA kernels of a library, object or cubin: architectures, and the disassembler's listing of each."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Architecture:
    """Limits of a multiprocessor (CUDA programming guide) and peaks of one GPU (its data sheet, dense).

    Attributes:
        threads: resident threads.
        blocks: resident blocks.
        shared: shared memory in bytes.
        gpu: the GPU whose peaks follow.
        bandwidth: of its memory, bytes per second.
        flops: in fp32 without tensor cores, per second.
        tensor_flops: fp16 products with fp32 sums on tensor cores, per second.
    """

    threads: int
    blocks: int
    shared: int
    gpu: str
    bandwidth: float
    flops: float
    tensor_flops: float


ARCHITECTURES = {
    75: Architecture(1024, 16, 64 * 1024, "T4", 320e9, 8.1e12, 65e12),
    80: Architecture(2048, 32, 164 * 1024, "A100", 1555e9, 19.5e12, 312e12),
    86: Architecture(1536, 16, 100 * 1024, "RTX 3090", 936e9, 35.6e12, 71e12),
    89: Architecture(1536, 24, 100 * 1024, "RTX 4090", 1008e9, 82.6e12, 165e12),
    90: Architecture(2048, 32, 228 * 1024, "H100 SXM", 3350e9, 67e12, 989e12),
    100: Architecture(2048, 32, 228 * 1024, "B200", 8000e9, 80e12, 2250e12),
    120: Architecture(1536, 24, 100 * 1024, "RTX 5090", 1792e9, 104.8e12, 209.5e12),
}


def run(*command: str) -> str:
    """Return what a program prints; ends this one with its message when it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def disassembler() -> Path:
    """Return cuobjdump: the toolkit's, or the pinned wheel's with nvdisasm beside it."""
    found = shutil.which("cuobjdump")
    if found and shutil.which("nvdisasm"):
        return Path(found)
    folders = [
        Path(run(sys.executable, str(ROOT / "tools" / "fetch.py"), name).strip()) / "nvidia" / "cu13" / "bin"
        for name in ("cuobjdump", "nvdisasm")
    ]
    os.environ["PATH"] = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
    for tool in (folders[0] / "cuobjdump", folders[1] / "nvdisasm"):
        tool.chmod(0o755)
    return folders[0] / "cuobjdump"


@functools.cache
def read_listings(library: Path) -> list[tuple[tuple[str, int], list[str]]]:
    """Return the disassembler's lines of each kernel (demangled, without parameters) and architecture."""
    found: list[tuple[tuple[str, int], list[str]]] = []
    sm = 0
    for line in demangled(run(str(disassembler()), "-sass", str(library))):
        if match := re.match(r"\s*code for sm_(\d+)", line):
            sm = int(match.group(1))
        elif match := re.match(r"\s*Function : (.+)$", line):
            found.append(((bare(match.group(1)), sm), []))
        elif found:
            found[-1][1].append(line)
    return found


def demangled(text: str) -> list[str]:
    """Return the lines of a listing with C++ names in place of symbols."""
    return subprocess.run(["c++filt"], input=text, capture_output=True, text=True, check=True).stdout.splitlines()


def bare(name: str) -> str:
    """Return a demangled kernel's name with its template arguments, without result, parameters and our namespaces."""
    name = name.strip().removeprefix("void ")
    depth = 0
    for position, character in enumerate(name):
        depth += (character in "<") - (character in ">")
        if character == "(" and depth == 0 and not name.startswith("(anonymous", position):
            name = name[:position]
            break
    name = re.sub(r"\((?:int|bool|unsigned int|hsm::[\w:]+)\)", "", name)
    return re.sub(r"hsm::(?:cuda::)?", "", name).replace(" ", "")
