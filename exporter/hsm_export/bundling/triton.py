"""Model repositories for Triton Inference Server: an existing engine serves, where one machine is not enough."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hsm_operators import DOMAIN

from ..errors import BadInputError, UsageError
from ..files import atomic_directory, replace_directory
from ..formats.result import Result
from ..native import CUSTOM_OPS, TENSORRT_PLUGINS
from ..onnx_model.fusing import fusion
from ..onnx_model.model_file import FileFacts, open_model
from ..onnx_model.nodes import nodes_of
from ..onnx_model.parsing import parse
from ..validation.cases import shaped_cases
from .protobuf_text import protobuf_text
from .sources import Engine, Parts, external_files, find_tokenizer, read_engines, read_parts, read_tokenizer
from .triton_config import Config, Serving, engine_config, onnx_config, text_config, warm_up
from .writing import bundle

CONFIG, README, VERSION, BUNDLE, RUNTIME = "config.pbtxt", "README.md", "1", "bundle.hsm", "libhsm_runtime.so"
_ONNXRUNTIME = "/opt/tritonserver/backends/onnxruntime"  # where Triton's containers have libonnxruntime.so
_WARM_UP_LENGTH = 16


@dataclass(frozen=True)
class RepositoryResult(Result):
    """A model repository that was written.

    Attributes:
        repository: its folder.
        models: what each model of it is, by its name.
        max_batch: rows that Triton may run at a time.
        left_out: what was asked for and cannot be served, with the reason.
        command: how to start the server.
    """

    repository: Path
    models: Mapping[str, str]
    max_batch: int
    left_out: tuple[str, ...]
    command: str


@dataclass
class _Plan:
    """What goes into a repository: per model its configuration and the files of its version."""

    configs: dict[str, Config] = field(default_factory=dict)
    files: dict[str, dict[str, Path]] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    warm_up: dict[str, dict[str, bytes]] = field(default_factory=dict)  # per model the inputs of its first request
    text: str = ""  # the model of text, if there is one

    def add(self, config: Config, files: dict[str, Path], description: str) -> None:
        self.configs[config["name"]] = config
        self.files[config["name"]] = files
        self.models[config["name"]] = description


def write_repository(
    model: str | Path | None,
    output: str | Path,
    *,
    engines: Sequence[str | Path] = (),
    decode: str | Path | None = None,
    tokenizer: str | Path | None = None,
    max_batch: int = 8,
    threads: int = 1,
    candidates: int | None = None,
    idle: float = 60.0,
    capacity: int = 4096,
    libraries: str | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> RepositoryResult:
    """Write a model repository: each ONNX file on the ONNX Runtime back end, its engines on the TensorRT back end.

    A decoding file becomes a model of sequences whose states the server keeps (a client sends tokens, position and
    lengths, and gets logits), and one of text on the Python back end (a client sends a prompt, and gets text).

    Args:
        model: the ONNX file that reads whole sequences.
        output: the repository's folder.
        engines: engines that `build` made from one of the files; those for TensorRT-RTX are left out.
        decode: the ONNX file of `export(..., decode=True)`; a model of sequences needs a fixed capacity.
        tokenizer: as for `bundle`; without one there is no model of text.
        max_batch: rows that may be run at a time.
        threads: threads of each model on the CPU.
        candidates: sequences that may be open at a time; None: four times `max_batch`.
        idle: seconds after which the server gives up a sequence that stands still.
        capacity: tokens that a row of the model of text must be able to reach, where the file leaves that open.
        libraries: the folder of our libraries on the server; None: they are on its library path.
        force: replace a repository that this function wrote.
        progress: receives the name of each phase.

    Raises:
        UsageError: nothing to serve, nothing that Triton can serve, or the tokenizer's ids are not the model's.
        BadInputError: a file cannot be used, or the folder cannot be made.
    """
    report = progress or (lambda _phase: None)
    folder = Path(output)
    _check_output(folder, force)
    report("reading the files")
    parts = read_parts(model, decode)
    compiled = read_engines(engines, parts)
    spoken = read_tokenizer(tokenizer or find_tokenizer(parts, None)[0], parts)[0]
    serving = Serving(max_batch, threads, candidates or 4 * max_batch, idle, capacity, libraries=libraries)
    plan = _plan(parts, compiled, serving, spoken is not None)
    command = _command(folder, compiled, plan, libraries)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_directory(folder.parent) as scratch:
        inside = scratch / folder.name
        _write(inside, plan)
        if plan.text:
            bundle(None, inside / plan.text / VERSION / BUNDLE, decode=decode, tokenizer=tokenizer, progress=report)
        report("writing the repository")
        (inside / README).write_text(_readme(plan, command), encoding="utf-8")
        replace_directory(inside, folder, scratch)
    return RepositoryResult(folder, plan.models, max_batch, tuple(plan.left_out), command)


def _check_output(folder: Path, force: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / README).is_file() or not (folder / README).read_text(errors="replace").startswith(_TITLE):
        raise BadInputError(f"{folder} exists and is not a repository of ours", "name a new folder")
    if not force:
        raise BadInputError(f"{folder} exists already", "add --force to replace it, or name a new folder")


def _plan(parts: Parts, engines: Sequence[Engine], serving: Serving, tokenizer: bool) -> _Plan:
    plan = _Plan()
    for part, source in parts.sources.items():
        _plan_onnx(plan, source, serving)
        _plan_engines(plan, source, [engine for engine in engines if engine.entry.of == part], serving)
    if parts.decode is not None:
        _plan_text(plan, parts.decode, serving, tokenizer)
    if not plan.configs:
        raise UsageError(f"Triton can serve nothing of this: {'; '.join(plan.left_out)}", "export in fp32 or fp16")
    return plan


def _plan_onnx(plan: _Plan, source: FileFacts, serving: Serving) -> None:
    if source.precision == "bf16":
        plan.left_out.append(f"{source.path.name}: ONNX Runtime has no bf16 arithmetic on the CPU")
        return
    graph = parse(source.path)
    needed = [CUSTOM_OPS] if any(node.domain == DOMAIN for node in nodes_of(graph.graph.node)) else []
    needed += [path.name for path in fusion(graph, "onnxruntime").libraries]
    custom_ops = [serving.on_server(name) for name in needed]
    state = source.state() if source.metadata.get("decode") == "1" else None
    if state is not None and state.needs_capacity:
        plan.left_out.append(f"{source.path.name} as sequences: Triton needs states of a fixed size (--capacity)")
        return
    config = onnx_config(_name(source), source, state, serving, custom_ops, "model.onnx")
    if state is None:
        (row, *_) = shaped_cases(open_model(source.path), [(1, _WARM_UP_LENGTH)])
        config["model_warmup"], plan.warm_up[_name(source)] = warm_up(config, row.feed)
    files = {"model.onnx": source.path, **external_files([source])}
    plan.add(config, files, f"{source.path.name} in ONNX Runtime on the CPU{_kind(config)}")


def _plan_text(plan: _Plan, source: FileFacts, serving: Serving, tokenizer: bool) -> None:
    """Plan the model of text, whose bundle is written later."""
    if not tokenizer:
        plan.left_out.append(f"{source.path.name} as text: it has no tokenizer (--tokenizer)")
        return
    plan.text = f"{_name(source)}-text"
    config = text_config(plan.text, source.state().needs_capacity, serving, serving.on_server(RUNTIME))
    files = {"model.py": Path(__file__).with_name("triton_model.py")}
    plan.add(config, files, f"{source.path.name} as text, in Python's back end with {RUNTIME}")


def _plan_engines(plan: _Plan, source: FileFacts, engines: Sequence[Engine], serving: Serving) -> None:
    served = {f"{engine.path.stem}.plan": engine for engine in engines if engine.entry.target == "tensorrt"}
    plan.left_out += [
        f"{engine.path.name}: Triton has no back end for TensorRT-RTX, build it with --target tensorrt"
        for engine in engines
        if engine.entry.target != "tensorrt"
    ]
    if not served:
        return
    state = source.state() if source.metadata.get("decode") == "1" else None
    entries = {file: engine.entry for file, engine in served.items()}
    config = engine_config(f"{_name(source)}-tensorrt", source, state, serving, entries)
    files = {file: engine.path for file, engine in served.items()}
    gpus = sorted({gpu for entry in entries.values() for gpu in entry.architectures})
    plan.add(config, files, f"{source.path.name} in TensorRT for {', '.join(gpus) or 'one GPU'}{_kind(config)}")


def _name(source: FileFacts) -> str:
    return source.path.stem


def _kind(config: Config) -> str:
    return ", sequences with their states in the server" if "sequence_batching" in config else ""


def _write(folder: Path, plan: _Plan) -> None:
    for name, config in plan.configs.items():
        version = folder / name / VERSION
        version.mkdir(parents=True)
        (folder / name / CONFIG).write_text(protobuf_text(config), encoding="utf-8")
        for file, path in plan.files[name].items():
            shutil.copyfile(path, version / file)
        for tensor, data in plan.warm_up.get(name, {}).items():
            (folder / name / "warmup").mkdir(exist_ok=True)
            (folder / name / "warmup" / tensor).write_bytes(data)


def _command(folder: Path, engines: Sequence[Engine], plan: _Plan, libraries: str | None) -> str:
    """Return how to start the server; TensorRT's plugins are named there, for all models together."""
    served = [engine.entry for engine in engines if engine.entry.target == "tensorrt"]
    # libhsm_runtime.so finds the server's own ONNX Runtime there.
    paths = ([] if libraries else ["LIBRARIES"]) + ([_ONNXRUNTIME] if plan.text else [])
    words = [f"LD_LIBRARY_PATH={':'.join(paths)}:$LD_LIBRARY_PATH"] if paths else []
    words += ["tritonserver", f"--model-repository={folder}"]
    plugins = dict.fromkeys(
        name for engine in engines if engine.entry.target == "tensorrt" for name in engine.libraries
    )
    if plugins:
        named = ";".join(Serving(libraries=libraries or "LIBRARIES").on_server(name) for name in plugins)
        quote = "'" if ";" in named else ""
        words.append(f"--backend-config=tensorrt,plugins={quote}{named}{quote}")
    if any(entry.embedded_plugins for entry in served):
        words.append("--backend-config=tensorrt,version-compatible=true")
    return " ".join(words)


_TITLE = "# Model repository for Triton Inference Server, written by hsm-export"


def _readme(plan: _Plan, command: str) -> str:
    models = "\n".join(f"* `{name}`: {description}" for name, description in plan.models.items())
    return f"""{_TITLE}

{models}

    {command}

LIBRARIES is the folder of `{CUSTOM_OPS}`, `{RUNTIME}` and `{TENSORRT_PLUGINS}` on the server;
`hsm-export doctor` tells where they are here.

{_TABLE}
docs/bundle.md of hsm-export says more, and examples/triton/chat.py is a client of the model of text.
"""


_TABLE = """A model of sequences gives `logits`. With a sequence id and the flags of first and last request it takes:

| input | shape of a request | |
| --- | --- | --- |
| `tokens` | (1, T) int64 | the next tokens: a prompt, a piece of one, or one token |
| `position` | (1, 1) int64 | tokens of the sequence that came before |
| `lengths` | (1, 1) int64 | T |

A model of text takes `text_input` and, all optional, `stream`, `max_tokens`, `stop_words`, `temperature`, `top_k`,
`top_p`, `min_p`, `repetition_penalty`, `presence_penalty`, `frequency_penalty`, `random_seed` and `timeout_ms`.
It gives `text_output` and, with the last response, `finish_reason`. In HTTP: POST /v2/models/NAME/generate, or
generate_stream with "stream": true; in gRPC: ModelStreamInfer.
"""
