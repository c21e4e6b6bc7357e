"""A TaylorShift language model in eager PyTorch, with the fused kernels and without: forward, training, decoding."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import common
import torch
import torch.nn.functional as F
from torch import Tensor

from hsm_models import LayerConfig, MLPConfig, ModelConfig, TaylorShiftConfig, build_model
from hsm_models.language_model import LanguageModel
from hsm_models.zoo import recipes
from hsm_operators import use_kernels

ZOO = "taylor-shift-lm"
# Name -> width, width of a head.
MEDIUM = {"width 256": (256, 32), "width 512": (512, 64)}
LAYERS = 4
LENGTHS = (512, 1024, 2048)
TRAINED = 512
BOUND = 2.0


def main() -> None:
    """Time each model with the kernels and without, in turns, after its numbers were checked both ways."""
    quick = common.arguments(__doc__ or "")
    report = common.Report(Path(__file__).stem, quick)
    configs = {ZOO: recipes.get(ZOO).config} | {name: medium(*sizes) for name, sizes in MEDIUM.items()}
    for name, config in list(configs.items())[: 1 if quick else None]:
        torch.manual_seed(0)
        model = build_model(config).eval()
        assert isinstance(model, LanguageModel)
        check(name, model)
        for length in (16,) if quick else LENGTHS:
            time(report, name, f"forward of {length} tokens", forward(model, length), quick)
        trained = 16 if quick else TRAINED
        time(report, name, f"training step of {trained} tokens", training_step(model, trained), quick, bound=1.0)
        time(report, name, "decoding step", decoding_step(model), quick)
    report.finish()


def medium(width: int, head_width: int) -> ModelConfig:
    """Return a language model of TaylorShift layers alone."""
    mixer = TaylorShiftConfig(heads=width // head_width, causal=True)
    layers = (LayerConfig(mixer, MLPConfig(4 * width)),) * LAYERS
    return ModelConfig(task="language_model", width=width, vocab_size=256, layers=layers)


def check(name: str, model: LanguageModel) -> None:
    """Hold the kernels' logits to twice the error of PyTorch's own operators."""
    tokens = torch.randint(0, model.config.vocab_size, (2, 300))
    with torch.inference_mode():
        with use_kernels():
            value = model(tokens)
        common.check(name, value.numpy(), copy.deepcopy(model).double()(tokens).numpy(), model(tokens).numpy())


def time(report: common.Report, name: str, what: str, call: common.Call, quick: bool, bound: float = BOUND) -> None:
    """Time a call both ways, and record how many times as fast the kernels make it."""
    ways = {"kernels": use_kernels(True)(call), "reference": use_kernels(False)(call)}
    times = common.take_turns(ways, 2 if quick else 15)
    ratio = times["reference"].median / times["kernels"].median
    milliseconds = {f"{way}_ms": spread.median * 1e3 for way, spread in times.items()}
    report.row(model=name, what=what, **milliseconds, ratio=ratio)
    report.at_least(f"{name}: {what} with kernels over without", ratio, bound)


def forward(model: LanguageModel, length: int) -> common.Call:
    """Return a pass over a sequence, without gradients."""
    return torch.inference_mode()(functools.partial(model, tokens_of(model, length)))


def training_step(model: LanguageModel, length: int) -> common.Call:
    """Return a forward and backward pass."""
    tokens = tokens_of(model, length)

    def step() -> None:
        model.zero_grad()
        F.cross_entropy(model(tokens)[0, :-1], tokens[0, 1:]).backward()

    return step


def decoding_step(model: LanguageModel) -> common.Call:
    """Return a step of one token."""
    state, position = model.initial_state(1, 0), torch.zeros(1, dtype=torch.int64)

    def step() -> Any:
        return model.forward_cached(tokens_of(model, 1), state, position, torch.ones_like(position))

    return torch.inference_mode()(step)


def tokens_of(model: LanguageModel, length: int) -> Tensor:
    """Return a sequence of tokens."""
    return torch.arange(length).remainder(model.config.vocab_size).unsqueeze(0)


if __name__ == "__main__":
    main()
