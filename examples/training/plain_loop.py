"""Train any of the mixers in a loop of your own: python plain_loop.py {hsm,taylor_shift,switch_head} TEXT OUT.

The modules are plain PyTorch, so a loop like this one can go into Lightning or Accelerate; see docs/zoo.md.
"""

import sys
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import hsm_models as hsm

MIXERS = {
    "hsm": hsm.HSMConfig(),
    "taylor_shift": hsm.TaylorShiftConfig(heads=4, causal=True),
    "switch_head": hsm.SwitchHeadConfig(),
}


def main(mixer: str, text: str, output: str, steps: int = 200, length: int = 64) -> float:
    layer = hsm.LayerConfig(MIXERS[mixer], hsm.MLPConfig(hidden=128))
    config = hsm.ModelConfig(task="language_model", width=64, vocab_size=256, layers=(layer, layer))
    model = hsm.LanguageModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    symbols = torch.frombuffer(bytearray(Path(text).read_bytes()), dtype=torch.uint8)
    for _ in range(steps):
        starts = torch.randint(len(symbols) - length, (16, 1))
        rows = symbols[starts + torch.arange(length + 1)].long()
        loss = cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    hsm.save_checkpoint(model.eval(), output)
    return loss.item()


if __name__ == "__main__":
    print(f"loss {main(*sys.argv[1:]):.3f}")
