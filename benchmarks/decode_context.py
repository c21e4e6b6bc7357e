"""Milliseconds per generated token against the tokens that came before: HSM, TaylorShift, SwitchHead, softmax."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import common
import numpy as np
import torch

import hsm_export
from hsm_export import DecodeSession
from hsm_export.decoding.session import Snapshot
from hsm_models import load_checkpoint

CONTEXTS = (1, 256, 1024, 4096, 16384, 65536)
FLAT_FROM = 1024
# Models whose state does not grow read their whole context; caches are filled with random numbers instead, because
# reading it costs the square of its length.
CONSTANT = ("hsm-lm", "taylor-shift-lm")
GROWING = ("switch-head-lm", "baseline-softmax")
BASELINE = "baseline-softmax"
CHUNK = 1024
TURN_SECONDS, TURN_STEPS = 0.03, 64


@dataclass
class Place:
    """A model in front of its next token, after so many others."""

    model: str
    context: int
    session: DecodeSession
    seconds: list[float] = field(default_factory=list)

    def turn(self) -> None:
        """Take single-token steps for a while, from the same place each time; note their median."""
        growing = self.session.spec.needs_capacity
        session = self.session if growing else self.session.fork()
        token = np.zeros((1, 1), np.int64)
        times: list[float] = []
        while len(times) < 2 or (sum(times) < TURN_SECONDS and len(times) < TURN_STEPS):
            start = time.perf_counter()
            session.step(token)
            times.append(time.perf_counter() - start)
            if growing:
                session.rollback(1)
        self.seconds.append(statistics.median(times[1:]))

    @property
    def milliseconds(self) -> float:
        """Return the median over the turns."""
        return statistics.median(self.seconds) * 1e3


def main() -> None:
    """Time every model at every context, in turns."""
    quick = common.arguments(__doc__ or "")
    report = common.Report(Path(__file__).stem, quick)
    contexts = CONTEXTS[:2] if quick else CONTEXTS
    names = (CONSTANT[0], BASELINE) if quick else (*CONSTANT, *GROWING)
    places = [place for name in names for place in prepare(name, contexts)]
    for turn in range(2 if quick else 15):
        start = turn % len(places)
        for place in places[start:] + places[:start]:
            place.turn()
    rate = read_rate()
    for place in places:
        size = place.session.state_bytes
        report.row(
            model=place.model,
            context=place.context,
            ms_per_token=place.milliseconds,
            state_bytes=size,
            # What a growing cache costs at least: each step reads all of it.
            reading_it_ms=size / rate * 1e3 if place.model in GROWING else 0.0,
        )
    for name in set(names) & set(CONSTANT):
        judge_flatness(report, [place for place in places if place.model == name])
        judge_crossover(report, name, places)
    report.finish()


def read_rate() -> float:
    """Return how many bytes a second are read from memory here, by a sum over more than the caches hold."""
    array = torch.ones(1 << 25)
    spread = common.take_turns({"sum": array.sum}, 5)["sum"]
    return array.nbytes / spread.median


def prepare(name: str, contexts: tuple[int, ...]) -> list[Place]:
    """Export and check a model, and bring a session to each context."""
    folder = common.RESULTS / "models"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.decode.onnx"
    hsm_export.export(f"zoo:{name}", output=path, decode=True)
    check(name, path)
    rng = np.random.default_rng(0)
    if name in CONSTANT:
        return read(name, DecodeSession(path, "ort-fused"), contexts, rng)
    return [Place(name, context, filled(path, context, rng)) for context in contexts]


def check(name: str, path: Path) -> None:
    """Hold a prefill and single steps to PyTorch's full pass in float64; end the script when they are wrong."""
    tokens = np.random.default_rng(1).integers(0, 256, (1, 96))
    session = DecodeSession(path, "ort-fused", capacity=96)
    pieces = [session.step(tokens[:, :64]), *(session.step(tokens[:, [index]]) for index in range(64, 96))]
    model = load_checkpoint(f"zoo:{name}")
    with torch.inference_mode():
        native = model(torch.from_numpy(tokens)).numpy()
        reference = model.double()(torch.from_numpy(tokens)).numpy()
    common.check(name, np.concatenate(pieces, axis=1), reference, native)


def read(name: str, session: DecodeSession, contexts: tuple[int, ...], rng: np.random.Generator) -> list[Place]:
    """Read random tokens; return a copy of the session at each context."""
    places = []
    for context in contexts:
        while (left := context - int(session.positions[0])) > 0:
            session.step(rng.integers(0, 256, (1, min(left, CHUNK))))
        places.append(Place(name, context, session.fork()))
    return places


def filled(path: Path, context: int, rng: np.random.Generator) -> DecodeSession:
    """Return a session whose caches hold random keys and values of `context` tokens and have room for one more."""
    session = DecodeSession(path, "ort-fused", capacity=context + 1)
    state = {name: rng.standard_normal(array.shape, np.float32) for name, array in session.snapshot().state.items()}
    positions = np.array([context])
    session.restore(Snapshot(positions, positions, state))
    return session


def judge_flatness(report: common.Report, places: list[Place]) -> None:
    """Claim that all times from 1k tokens on are within 10 % of their mean."""
    times = [place.milliseconds for place in places if place.context >= FLAT_FROM or len(places) < len(CONTEXTS)]
    mean = statistics.mean(times)
    claim = f"{places[0].model}: largest deviation of ms/token from its mean, {FLAT_FROM} to {CONTEXTS[-1]} tokens"
    report.at_most(claim, max(abs(value / mean - 1) for value in times), 0.1)


def judge_crossover(report: common.Report, name: str, places: list[Place]) -> None:
    """Record from which context on the softmax baseline is slower."""
    ours = {place.context: place.milliseconds for place in places if place.model == name}
    theirs = {place.context: place.milliseconds for place in places if place.model == BASELINE}
    ratios = {context: theirs[context] / ours[context] for context in ours}
    report.row(
        model=name, **{f"softmax_over_it_at_{context}": ratio for context, ratio in ratios.items()},
        crossover_tokens=crossover(ratios),
    )  # fmt: skip
    last = max(ratios)
    report.at_least(f"{name}: softmax baseline's time per token over its own, {last} tokens", ratios[last], 1)


def crossover(ratios: dict[int, float]) -> str:
    """Return where the ratio passes 1, from the logarithms of its neighbours."""
    contexts = sorted(ratios)
    if ratios[contexts[0]] >= 1:
        return "none: quicker from the first token on"
    for low, high in itertools.pairwise(contexts):
        if ratios[high] >= 1:
            share = math.log(1 / ratios[low]) / math.log(ratios[high] / ratios[low])
            return f"{low * (high / low) ** share:.0f}"
    return f"above {contexts[-1]}"


if __name__ == "__main__":
    main()
