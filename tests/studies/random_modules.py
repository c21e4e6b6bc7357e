"""The study of healthy modules: random PyTorch modules of many shapes are exported, and what exports also validates.

    python -m tests.studies.random_modules [--count 200] [--seed 0] [--out FILE]

An export that passes and a comparison that fails is a fault, and so is a refusal: all modules are ordinary. The last
line is a JSON object.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.studies.study import ALARM, INTERNAL, PASSED, REFUSED, UNJUDGED, Record, arguments, counted, run
from torch import Tensor, nn

import hsm_export
from hsm_export.errors import HsmExportError
from hsm_models import HSM, SwitchHead, TaylorShift

PRECISIONS = ("fp32", "fp16", "bf16")
Made = tuple[nn.Module, tuple[Tensor, ...]]


class Residual(nn.Module):
    """x + f(norm(x))."""

    def __init__(self, width: int, inner: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(self.norm(x))
        return x + (y[0] if isinstance(y, tuple) else y)


class Attention(nn.Module):
    """Attention of a sequence to itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return result


class Reader(nn.Module):
    """One sequence reads another of another length."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.out = nn.Linear(width, 3)

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        result: Tensor = self.out(self.attention(target, source, source, need_weights=False)[0])
        return result


class Pooled(nn.Module):
    """Tokens to classes."""

    def __init__(self, vocabulary: int, width: int, inner: nn.Module) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        self.inner = inner
        self.out = nn.Linear(width, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.out(self.inner(self.table(tokens)).mean(1))
        return result


def _activation(rng: random.Random) -> nn.Module:
    return rng.choice([nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.Hardswish, nn.Softplus])()


def perceptron(rng: random.Random) -> Made:
    widths = [rng.choice([3, 8, 17, 32]) for _ in range(rng.randint(2, 5))]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after, bias=rng.random() < 0.8), _activation(rng)]
        if rng.random() < 0.4:
            layers.append(nn.LayerNorm(after))
    return nn.Sequential(*layers), (torch.randn(rng.randint(1, 4), widths[0]),)


def convolutions(rng: random.Random) -> Made:
    rank = rng.choice([1, 2])
    conv, pool, norm = ((nn.Conv1d, nn.MaxPool1d, nn.BatchNorm1d), (nn.Conv2d, nn.AvgPool2d, nn.BatchNorm2d))[rank - 1]
    channels, layers = 3, []
    for _ in range(rng.randint(1, 4)):
        more, groups = rng.choice([4, 8, 12]), 1
        layers += [conv(channels, more, rng.choice([1, 3, 5]), padding=rng.choice([0, 1, 2]), groups=groups)]
        layers += [norm(more), _activation(rng)] if rng.random() < 0.6 else [_activation(rng)]
        channels = more
    if rng.random() < 0.5:
        layers.append(pool(2))
    return nn.Sequential(*layers), (torch.randn(2, 3, *[rng.randint(20, 28) for _ in range(rank)]),)


def transposed(rng: random.Random) -> Made:
    stride = rng.choice([1, 2, 3])
    layers = [nn.Conv2d(2, 6, 3, stride=2), _activation(rng), nn.ConvTranspose2d(6, 4, 4, stride=stride, padding=1)]
    return nn.Sequential(*layers, nn.GroupNorm(2, 4)), (torch.randn(2, 2, rng.randint(9, 20), rng.randint(9, 20)),)


def mixers(rng: random.Random) -> Made:
    width = 16
    kinds: list[Callable[[], nn.Module]] = [
        lambda: HSM(width, shifts=(1, rng.randint(2, 5))),
        lambda: TaylorShift(width, heads=rng.choice([1, 2, 4])),
        lambda: SwitchHead(width, heads=2, causal=False, positions="none"),
        lambda: Attention(width, rng.choice([1, 2, 4])),
        lambda: nn.Sequential(nn.Linear(width, 24), _activation(rng), nn.Linear(24, width)),
    ]
    layers = [Residual(width, rng.choice(kinds)()) for _ in range(rng.randint(1, 4))]
    return nn.Sequential(*layers), (torch.randn(rng.randint(1, 3), rng.randint(2, 12), width),)


def reader(rng: random.Random) -> Made:
    return Reader(12, rng.choice([1, 2, 3])), (torch.randn(2, rng.randint(2, 7), 12), torch.randn(2, 9, 12))


def tokens(rng: random.Random) -> Made:
    vocabulary, width = rng.randint(5, 60), rng.choice([8, 16])
    inner = rng.choice([lambda: Attention(width, 2), lambda: HSM(width, shifts=(1, 2)), lambda: nn.LayerNorm(width)])()
    return Pooled(vocabulary, width, inner), (torch.randint(0, vocabulary, (2, rng.randint(3, 9))),)


def _dynamic(kind: Callable[..., Made], inputs: tuple[Tensor, ...]) -> dict[str, dict[int, str]] | None:
    """Say which sizes of an image or a signal may change: its channels are none of them, as `export` assumes."""
    if kind not in (convolutions, transposed):
        return None
    return {"input": {0: "batch", **{dim: f"size{dim}" for dim in range(2, inputs[0].dim())}}}


KINDS = (perceptron, convolutions, transposed, mixers, reader, tokens)


def examined(seed: int, number: int) -> Record:
    """Export a module and hold the file to it in ONNX Runtime."""
    draw, precision = divmod(number, len(PRECISIONS))
    rng = random.Random(f"{seed} {draw}")
    torch.manual_seed(seed * 100_003 + draw)
    kind = KINDS[draw % len(KINDS)]
    module, inputs = kind(rng)
    facts = {"kind": kind.__name__, "precision": PRECISIONS[precision]}
    with tempfile.TemporaryDirectory(prefix="hsm-study-") as folder:
        path = Path(folder) / "m.onnx"
        try:
            hsm_export.export(
                module.eval(), inputs, path, precision=PRECISIONS[precision], dynamic=_dynamic(kind, inputs)
            )
            result: Any = hsm_export.validate(path, against=module, runtimes=["ort"])
        except HsmExportError as error:
            return {**facts, "end": REFUSED, "said": error.message}
        except Exception:
            return {**facts, "end": INTERNAL, "said": traceback.format_exc()[-2000:]}
    end = PASSED if result.passed else ALARM if result.verdict == "failed" else UNJUDGED
    return {**facts, "end": end, "said": result.summary}


def main() -> int:
    """Run the study and print what came of it."""
    options = arguments(__doc__, "random_modules.jsonl", count=200, seed=0)

    def one(number: int) -> Callable[[], Record]:
        return lambda: examined(options.seed, number)

    cases = [(f"{options.seed} {number}", one(number)) for number in range(options.count)]
    records = run(options.out, cases, options.until)
    bad = [record for record in records if record["end"] != PASSED]
    print(json.dumps(counted(records, wrong=len(bad), of=len(cases))))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
