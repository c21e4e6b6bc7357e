"""Train softmax attention, shift mixing and hybrids of both at one size, and compare them on text that none has seen.

HSM's abstract (arXiv:2601.22852) says that simple mixing comes close to softmax attention, that hybrids can beat it,
and that the parameters which mixing saves do most good in the feed-forward network. Here every model has seven layers
of one width, and the hidden width of its feed-forward networks fills it up to the baseline's parameters. Layer l mixes
with the token 2^l before, so that pure mixing sees exactly the window of 128 bytes.

All models have the zoo's learning rate, tuned for none of them, and all of a seed see the same batches, so that
differences to the baseline are taken seed by seed.

    python -m tests.studies.trained_mixers [--out FILE] [--steps N] [--lr X] [--seeds N] [MODEL ...]

Runs that are recorded in FILE are not repeated; at the end stands the table of docs/zoo.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hsm_models import HSMConfig, LayerConfig, MLPConfig, ModelConfig, SoftmaxConfig
from hsm_models.checkpoint import build_model
from hsm_models.data import load_text
from hsm_models.parts import MixerConfig
from hsm_models.trainer import Trainer, run
from hsm_models.training_settings import TrainingSettings
from hsm_models.zoo import recipes

WIDTH, LAYERS, LENGTH = 64, 7, 128
BASELINE, BASELINE_HIDDEN = "softmax", 192
ATTENDING = {  # the layers of softmax attention
    BASELINE: range(LAYERS),
    "hsm scalar": (),
    "hsm gated2": (),
    "hybrid scalar": (2, 5),
    "hybrid gated2": (2, 5),
}
# Student's t of a two-sided interval of 95 %, by degrees of freedom.
STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36}

Record = dict[str, Any]


def config(name: str, hidden: int) -> ModelConfig:
    """Return a model whose feed-forward networks have this hidden width."""

    def mixer(index: int) -> MixerConfig:
        if index in ATTENDING[name]:
            return SoftmaxConfig(heads=4)
        return HSMConfig(shifts=(2**index,), mixing=name.split()[-1])

    layers = tuple(LayerConfig(mixer(index), MLPConfig(hidden=hidden)) for index in range(LAYERS))
    return ModelConfig(task="language_model", width=WIDTH, vocab_size=256, layers=layers, tie_embeddings=True)


def parameters(chosen: ModelConfig) -> int:
    """Return how many parameters a model has."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(chosen).parameters())


def of_one_size(name: str) -> ModelConfig:
    """Return the model of this name whose number of parameters is next to the baseline's."""
    wanted, empty, step = parameters(config(BASELINE, BASELINE_HIDDEN)), *_line(name)
    return config(name, round((wanted - empty) / step))


def _line(name: str) -> tuple[int, int]:
    """Return the parameters that a model has apart from hidden channels, and those that each of these adds."""
    one, two = (parameters(config(name, hidden)) for hidden in (1, 2))
    return 2 * one - two, two - one


def trained(name: str, text: Path, settings: TrainingSettings) -> Record:
    """Train one model and return its figures."""
    torch.manual_seed(settings.seed)
    chosen = of_one_size(name)
    trainer = Trainer(build_model(chosen), load_text(text, settings.length), settings)
    start = time.process_time()
    run(trainer)
    return {
        "model": name,
        "parameters": parameters(chosen),
        "steps": settings.steps,
        "lr": settings.lr,
        "seed": settings.seed,
        "bits_per_byte": trainer.evaluate(),
        "cpu_seconds": round(time.process_time() - start, 1),
    }


class Log:
    """Records in a file of JSON lines; what stands there is not trained again."""

    def __init__(self, path: Path, text: Path) -> None:
        self.path, self.text = path, text
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.records: list[Record] = [json.loads(line) for line in lines]

    def get(self, name: str, settings: TrainingSettings) -> Record:
        """Return the record of a run, after training if there is none."""
        wanted = {"model": name, "steps": settings.steps, "lr": settings.lr, "seed": settings.seed}
        for record in self.records:
            if wanted.items() <= record.items():
                return record
        self.records.append(trained(name, self.text, settings))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.records[-1]) + "\n")
        print(self.records[-1], file=sys.stderr, flush=True)
        return self.records[-1]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its interval of 95 %."""
    count = len(values)
    mean = sum(values) / count
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    return mean, STUDENT[count - 1] * spread / math.sqrt(count)


def table(records: Sequence[Record]) -> str:
    """Return the measured models as a Markdown table."""
    lines = [
        "| model | parameters | bits per byte | less than softmax, 95 % interval | CPU time of a run |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    names = dict.fromkeys(record["model"] for record in records)
    runs = {name: [record for record in records if record["model"] == name] for name in names}
    baseline = {record["seed"]: record["bits_per_byte"] for record in runs[BASELINE]}
    for name, own in runs.items():
        mean, _ = interval([record["bits_per_byte"] for record in own])
        less, half = interval([baseline[record["seed"]] - record["bits_per_byte"] for record in own])
        gain = "" if name == BASELINE else f"{less:+.4f} ± {half:.4f}"
        seconds = sum(record["cpu_seconds"] for record in own) / len(own)
        lines.append(f"| {name} | {own[0]['parameters']:,} | {mean:.4f} | {gain} | {seconds:.0f} s |")
    return "\n".join(lines)


def main() -> int:
    """Train what is not recorded yet and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"besides {BASELINE}, of {', '.join(ATTENDING)}")
    parser.add_argument("--out", type=Path, default=Path("build/studies/trained_mixers.jsonl"), help="records")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seeds", type=int, choices=[count + 1 for count in STUDENT], default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    settings = TrainingSettings(steps=options.steps, batch=8, length=LENGTH, lr=options.lr, warmup=100)
    log = Log(options.out, Path(recipes.data_path(recipes.get("hsm-lm"))))
    names = dict.fromkeys([BASELINE, *(options.models or ATTENDING)])
    print(table([log.get(name, replace(settings, seed=seed)) for seed in range(options.seeds) for name in names]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
