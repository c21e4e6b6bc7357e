"""Run the own modules of four models' authors on a CPU, and hold our imports of their weights against them.

Their code is fetched by whoever runs this (fla-org/flash-linear-attention, HazyResearch/based, RobertCsordas/moeut,
jubueche/sigma-moe), never a part of ours. They want CUDA, and these programs do without:

- fla's Triton kernels run in Triton's interpreter, each with the first of its tuned configurations.
- Based imports flash-attn, which exists for CUDA alone. Its one attention function, its rotary embedding and its
  embedding are written here in PyTorch; all else is Based's own, its norm by the reference that lies beside the kernel.
- MoEUT's one kernel, products with chosen experts, is written here in PyTorch.
- sigma-MoE has a form for CPUs itself.

    python -m tests.studies.authors_modules record --fla FOLDER --based FOLDER --moeut FOLDER --sigma-moe FOLDER OUT
    python -m tests.studies.authors_modules check OUT

The first wants triton, transformers (for sigma-MoE one of 2024, such as 4.44.2) and einops; it writes random weights as
a checkpoint, and a run of random tokens. The second imports each with `--check`, which compares it in PyTorch and in
every CPU runtime.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

TOKENS = (3, 63)  # from 64 on fla takes its chunked form, which needs what Triton's interpreter lacks


def record_rwkv7(source: Path, output: Path) -> None:
    """Write fla's RWKV-7 and its logits."""
    from tests.models.importers import goose

    _interpreted()
    sys.path.insert(0, str(source))
    from fla.models.rwkv7 import RWKV7Config, RWKV7ForCausalLM

    generator = torch.Generator().manual_seed(1)
    weights = goose.as_transformers(goose.state(generator, heads=2, head=16, width=32))
    tokens = torch.randint(13, TOKENS, generator=generator)
    config = RWKV7Config(
        hidden_size=32, head_dim=16, num_hidden_layers=3, vocab_size=13, intermediate_size=24,
        decay_low_rank_dim=5, a_low_rank_dim=4, gate_low_rank_dim=6, v_low_rank_dim=3,
        fuse_norm=False, fuse_cross_entropy=False, use_cache=False,
    )  # fmt: skip
    model = RWKV7ForCausalLM(config).eval()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    # Reshaped, for goose's vectors have no axes of one element.
    model.load_state_dict({name: tensor.reshape(shapes[name]) for name, tensor in weights.items()})
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits
    _write(output, weights, config.to_dict(), tokens, logits)


def record_based(source: Path, output: Path) -> None:
    """Write Based's language model and its logits."""
    from tests.models.importers import hazy
    from transformers import GPT2Config  # before the stand-ins, for it asks which packages there are

    _stand_ins()
    sys.path.insert(0, str(source))
    from based.models import gpt
    from based.models.mixers import slide_attention
    from based.ops.triton import layer_norm

    layer_norm.rms_norm_fn = lambda x, weight, bias, eps=1e-5, **_: layer_norm.rms_norm_ref(x, weight, bias, eps=eps)
    slide_attention.FlashSelfAttention.forward = _windowed  # theirs turns all into bfloat16 on a GPU
    generator = torch.Generator().manual_seed(2)
    weights = hazy.state(generator)
    tokens = torch.randint(13, TOKENS, generator=generator)
    mixers = {key: dict(value) for key, value in hazy.CONFIG.items() if isinstance(value, dict)}
    mixers["mixer"] |= {"l_max": 128, "kernel_size": 3}
    settings: dict[str, Any] = hazy.CONFIG | mixers | {
        "n_embd": 16, "n_layer": len(hazy.KINDS), "vocab_size": 13, "n_inner": 24, "n_positions": 0,
        "alt_mixer_layers": [hazy.KINDS.index("linear")], "alt_mixer_2_layers": [hazy.KINDS.index("window")],
        "rms_norm": True, "qkv_proj_bias": False, "out_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    }  # fmt: skip
    model = gpt.GPTLMHeadModel(GPT2Config(**json.loads(json.dumps(settings)))).eval()
    for layer in model.transformer.layers:  # theirs rounds the hidden width up to a multiple of 256
        layer.mlp.fc1, layer.mlp.fc2 = nn.Linear(16, 48, bias=False), nn.Linear(24, 16, bias=False)
    model.load_state_dict(weights)
    with torch.no_grad():
        logits = model(tokens).logits
    _write(output, weights, settings, tokens, logits)


def record_moeut(source: Path, output: Path) -> None:
    """Write MoEUT's language model and its logits."""
    sys.modules["moeut.cvmm"] = kernel = types.ModuleType("moeut.cvmm")
    vars(kernel).update(CVMMSel=_Chosen, cvmm_prepare_sel2=_Chosen, cvmm=_chosen_products)
    sys.path.insert(0, str(source))
    from moeut import MoEUTLM

    torch.manual_seed(3)
    sizes = {"n_tokens": 13, "d_model": 16, "n_layers": 6, "n_heads": 2, "ff_n_experts": 7, "att_n_experts": 3}
    model = MoEUTLM(**sizes, d_head=8, ff_expert_size=6, group_size=2, ff_k=3, att_k=2).eval()
    tokens = torch.randint(13, TOKENS)
    with torch.no_grad():
        logits = model(tokens).outputs
    options = ["--layers", "6", "--active", "2", "--feed-forward-active", "3"]
    _write(output, model.state_dict(), None, tokens, logits, options)


def record_sigma_moe(source: Path, output: Path) -> None:
    """Write sigma-MoE's language model and its logits."""
    sys.path.insert(0, str(source))
    from sigma_moe import SigmaMoEConfiguration, SigmaMoEForCausalLM

    torch.manual_seed(4)
    config = SigmaMoEConfiguration(
        vocab_size=13, d_model=16, d_ff=24, num_hidden_layers=3, num_attention_heads=2, n_experts=6, expert_size=6,
        top_k_experts=2, num_sparse_hidden_layers=2, traceable=True,
    )  # fmt: skip
    model = SigmaMoEForCausalLM(config).eval()
    tokens = torch.randint(13, TOKENS)
    with torch.no_grad():
        for parameter in model.parameters():  # theirs are small at first, and all alike: one would not see a swap
            parameter.copy_(0.3 * torch.randn(parameter.shape) + (parameter == 1))
        logits = model(tokens, use_cache=False).logits
    _write(output, model.state_dict(), config.to_dict(), tokens, logits)


class _Chosen:
    """Stands in for MoEUT's plan of products: experts (…,n), and gates (…,n) or (…,g,n/g), which say what is summed."""

    def __init__(self, experts: Tensor, gates: Tensor | None = None) -> None:
        self.experts, self.reduction_weight = experts.long(), gates
        self.sel_index = self.out_index = torch.zeros(1)  # in which order the kernel goes; here it does not matter

    def clone(self) -> _Chosen:
        return _Chosen(self.experts, self.reduction_weight)


def _chosen_products(x: Tensor, chosen: _Chosen, experts: Tensor) -> Tensor:
    """Return the products of x (…,D), or of m of them (…,m,D), with n chosen experts (E,D,w), summed by their gates."""
    rows = x.unsqueeze(-2) if x.dim() == chosen.experts.dim() else x
    rows = rows.repeat_interleave(chosen.experts.shape[-1] // rows.shape[-2], dim=-2)
    products = torch.einsum("...nd,...ndw->...nw", rows, experts[chosen.experts])
    gates = chosen.reduction_weight
    if gates is None:
        return products
    return (products.reshape(*gates.shape, -1) * gates.unsqueeze(-1)).sum(-2)


def _write(
    folder: Path,
    weights: dict[str, Tensor],
    config: dict[str, Any] | None,
    tokens: Tensor,
    logits: Tensor,
    options: list[str] | None = None,
) -> None:
    """Write weights, their configuration, a run, and what the command line has to say besides."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "options.json").write_text(json.dumps(options or []))
    save_file({name: tensor.clone().contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config, default=str, indent=1))
    np.savez(folder / "run.npz", input_0=tokens.numpy(), output_0=logits.double().numpy())
    print(f"{folder}: {tuple(logits.shape)} logits up to {logits.abs().max():.2f}")


def _interpreted() -> None:
    """Let Triton run its kernels on the CPU, without measuring which configuration is the fastest."""
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["FLA_CACHE_RESULTS"] = "0"
    import triton

    tune = triton.autotune
    triton.autotune = lambda configs, *rest, **options: tune(configs[:1], *rest, **options)


def _stand_ins() -> None:
    """Put what Based takes from flash-attn, hydra and torchvision into place, as far as this model needs it."""
    from importlib import import_module

    def instantiate(settings: dict[str, Any], *, _partial_: bool = False, **more: Any) -> Any:
        values = {key: instantiate(value) if _targets(value) else value for key, value in settings.items()}
        module, _, name = values.pop("_target_").rpartition(".")
        made, every = getattr(import_module(module), name), values | more
        return (lambda *given: made(*given, **every)) if _partial_ else made(**every)

    class Drop(nn.Identity):
        def __init__(self, *settings: Any, **more: Any) -> None:
            super().__init__()

    def missing(*_: Any, window_size: Any = None, **__: Any) -> Any:
        raise NotImplementedError("a part of flash-attn that this model does not use")

    names = {
        "hydra": {"utils": types.SimpleNamespace(instantiate=instantiate)},
        "torchvision.ops": {"StochasticDepth": Drop},
        "flash_attn": {
            f"flash_attn_{name}": missing
            for name in ("kvpacked_func", "qkvpacked_func", "varlen_kvpacked_func", "varlen_qkvpacked_func",
                         "with_kvcache", "func")
        },
        "flash_attn.modules.embedding": {"GPT2Embeddings": _Embeddings, "ParallelGPT2Embeddings": None},
        "flash_attn.modules.mha": {"MHA": missing, "ParallelMHA": missing},
        "flash_attn.modules.mlp": dict.fromkeys(("FusedMLP", "Mlp", "ParallelFusedMLP", "ParallelMLP")),
        "flash_attn.ops.activations": {"sqrelu_fwd": missing, "swiglu": None},
        "flash_attn.layers.rotary": {"RotaryEmbedding": _Rotary},
        "flash_attn.utils.distributed": dict.fromkeys(
            ("all_gather_raw", "get_dim_for_local_rank", "sync_shared_params"), missing
        ),
        "flash_attn.utils.generation": {"InferenceParams": object},
        "flash_attn.utils.pretrained": {"state_dict_from_pretrained": missing},
        "based.utils.hf": {"load_config_hf": missing, "load_state_dict_hf": missing},
        "based.generation": {
            name: type(name, (), {}) for name in ("GenerationMixin", "NaiveGenerationMixin", "InferenceParams")
        },
    }  # fmt: skip
    for name, members in names.items():
        parents = name.split(".")
        for depth in range(1, len(parents) + 1):
            part = ".".join(parents[:depth])
            if not part.startswith("based") or depth == len(parents):
                sys.modules.setdefault(part, types.ModuleType(part))
        vars(sys.modules[name]).update(members)


def _targets(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


class _Embeddings(nn.Module):
    """The table of words alone: these models have no positions."""

    def __init__(self, width: int, words: int, positions: int, **_: Any) -> None:
        super().__init__()
        assert positions == 0
        self.word_embeddings = nn.Embedding(words, width)

    def forward(self, tokens: Tensor, position_ids: Tensor | None = None) -> Tensor:
        rows: Tensor = self.word_embeddings(tokens)
        return rows


class _Rotary(nn.Module):
    """RoPE as flash-attn says it: channel i of queries and keys turns with channel i + d/2."""

    def __init__(self, width: int, base: float = 10000.0, **_: Any) -> None:
        super().__init__()
        self.width, self.base = width, base

    def forward(self, qkv: Tensor, **_: Any) -> Tensor:
        half = self.width // 2
        rates = self.base ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(qkv.shape[1], dtype=torch.float64)[:, None] * rates
        cos, sin = (turn(angle).to(qkv.dtype)[None, :, None, None] for turn in (torch.cos, torch.sin))
        a, b = qkv[:, :, :2, :, :half], qkv[:, :, :2, :, half : 2 * half]
        turned = torch.cat((a * cos - b * sin, a * sin + b * cos, qkv[:, :, :2, :, 2 * half :]), -1)
        return torch.cat((turned, qkv[:, :, 2:]), 2)


def _windowed(self: Any, qkv: Tensor, **_: Any) -> Tensor:
    """Attention over the tokens from `window_size[0]` before to the token itself; qkv is (B,T,3,H,d)."""
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
    place = torch.arange(qkv.shape[1])
    back = place[:, None] - place
    scale = self.softmax_scale if self.softmax_scale is not None else q.shape[-1] ** -0.5
    scores = (q @ k.transpose(-1, -2) * scale).masked_fill((back < 0) | (back > self.window_size[0]), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


def check(folder: Path) -> int:
    """Import what was recorded; each import compares itself with the run. Returns the worst exit code."""
    program = Path(sys.executable).with_name("hsm-export")
    codes = [0]
    for source in sorted(path.parent for path in folder.glob("*/run.npz")):
        output = folder / f"{source.name}.safetensors"
        command = [program, "import", source, "-o", output, "--layout", source.name, "--check", source / "run.npz"]
        codes.append(subprocess.run([*command, *json.loads((source / "options.json").read_text())]).returncode)
    return max(codes)


def main() -> int:
    """Record or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("--fla", type=Path, help="folder that holds the package fla")
    recording.add_argument("--based", type=Path, help="folder that holds the package based")
    recording.add_argument("--moeut", type=Path, help="folder that holds the package moeut")
    recording.add_argument("--sigma-moe", type=Path, help="folder that holds the package sigma_moe")
    for command in (recording, commands.add_parser("check")):
        command.add_argument("folder", type=Path, metavar="OUT")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "check":
        return check(options.folder)
    if options.fla is not None:
        record_rwkv7(options.fla, options.folder / "rwkv7")
    if options.based is not None:
        record_based(options.based, options.folder / "based")
    if options.moeut is not None:
        record_moeut(options.moeut, options.folder / "moeut")
    if options.sigma_moe is not None:
        record_sigma_moe(options.sigma_moe, options.folder / "sigma-moe")
    return 0


if __name__ == "__main__":
    sys.exit(main())
