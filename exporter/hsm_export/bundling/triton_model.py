"""Text from Triton's Python back end, made by libhsm_runtime.so: many requests share the rows of one scheduler.

`hsm-export bundle --format triton` copies this file into a model repository as model.py. It needs NumPy, which the back
end has, and none of our packages. Each request is one prompt; with `stream` its pieces of text are responses of their
own, which is why the model's transaction policy is decoupled. docs/bundle.md lists inputs and outputs.
"""

from __future__ import annotations

import ctypes
import json
import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

_BUNDLE = "bundle.hsm"
_DECODE, _UNAVAILABLE = 1, 7  # HSMRT_DECODE, HSMRT_UNAVAILABLE
_ENDINGS = ("length", "stop", "cancelled", "timeout", "error")
_CANCELLED = 2
_ON_TOKEN = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64)
_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class _Error(ctypes.Structure):
    _fields_ = (("message", ctypes.c_char * 1024),)


class _Sampling(ctypes.Structure):
    """hsmrt_sampling up to what is used here: the library takes the rest for zeros."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("temperature", ctypes.c_double),
        ("top_k", ctypes.c_int64),
        ("top_p", ctypes.c_double),
        ("min_p", ctypes.c_double),
        ("repetition_penalty", ctypes.c_double),
        ("presence_penalty", ctypes.c_double),
        ("frequency_penalty", ctypes.c_double),
    )


class _SchedulerOptions(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("rows", ctypes.c_int64),
        ("capacity", ctypes.c_int64),
        ("reserve", ctypes.c_int64),
        ("chunk", ctypes.c_int64),
        ("most_waiting", ctypes.c_size_t),
    )


class _Reply(ctypes.Structure):
    """How hsmrt_reply begins."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("id", ctypes.c_uint64),
        ("ending", ctypes.c_int32),
        ("code", ctypes.c_int32),
        ("message", ctypes.c_char_p),
    )


_ON_END = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(_Reply))


class _Request(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("prompt", ctypes.POINTER(ctypes.c_int64)),
        ("prompt_count", ctypes.c_size_t),
        ("max_tokens", ctypes.c_int64),
        ("sampling", ctypes.POINTER(_Sampling)),
        ("seed", ctypes.c_uint64),
        ("stop_tokens", ctypes.POINTER(ctypes.c_int64)),
        ("stop_token_count", ctypes.c_size_t),
        ("priority", ctypes.c_int32),
        ("timeout_ms", ctypes.c_int64),
        ("resume", ctypes.c_char_p),
        ("park", ctypes.c_char_p),
        ("on_token", _ON_TOKEN),
        ("on_end", _ON_END),
        ("user", ctypes.c_void_p),
    )


class _RefusedError(Exception):
    """What is wrong with a request, and the code of Triton's for it."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class _Runtime:
    """libhsm_runtime.so: a function that fails raises."""

    def __init__(self, library: str) -> None:
        self.library = ctypes.CDLL(library)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function whose last argument is an error.

        Raises:
            _RefusedError: it failed, with what it says.
        """
        error = _Error()
        code = getattr(self.library, name)(*arguments, ctypes.byref(error))
        if code:
            kind = pb_utils.TritonError.UNAVAILABLE if code == _UNAVAILABLE else pb_utils.TritonError.INVALID_ARG
            raise _RefusedError(error.message.decode(errors="replace"), kind)

    def open(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """Call a function whose last argument but one is a handle; return that."""
        handle = ctypes.c_void_p()
        self.call(name, *arguments, ctypes.byref(handle))
        return handle

    def close(self, kind: str, handle: ctypes.c_void_p | None) -> None:
        """Close a handle."""
        getattr(self.library, f"hsmrt_{kind}_close")(handle)


class _Text:
    """The text of one reply as its tokens come."""

    def __init__(self, runtime: _Runtime, tokenizer: ctypes.c_void_p, stops: Sequence[bytes]) -> None:
        self._runtime = runtime
        words = (ctypes.c_char_p * len(stops))(*stops)
        self._stream = runtime.open("hsmrt_text_stream_create", tokenizer, words, ctypes.c_size_t(len(stops)))

    def push(self, token: int) -> str:
        """Return the text that became certain with a token."""
        return self._read("hsmrt_text_stream_push", ctypes.c_int64(token))

    def finish(self) -> str:
        """Return what is left at the end."""
        return self._read("hsmrt_text_stream_finish")

    @property
    def stopped(self) -> bool:
        """Whether a stop word came."""
        return bool(self._runtime.library.hsmrt_text_stream_stopped(self._stream))

    def close(self) -> None:
        self._runtime.close("text_stream", self._stream)

    def _read(self, name: str, *arguments: Any) -> str:
        text, size = ctypes.c_void_p(), ctypes.c_size_t()
        self._runtime.call(name, self._stream, *arguments, ctypes.byref(text), ctypes.byref(size))
        return ctypes.string_at(text, size.value).decode() if text.value else ""


class _Job:
    """One request on its way: what was made of it, and whom to tell."""

    def __init__(self, sender: Any, text: _Text, stream: bool) -> None:
        self.sender, self.text, self.stream = sender, text, stream
        self.pieces: list[str] = []
        self.gone = False  # the client cancelled, or cannot be reached

    def take(self) -> str:
        """Return the text that nobody was sent so far."""
        text, self.pieces = "".join(self.pieces), []
        return text


class TritonPythonModel:
    """The model as Triton's Python back end calls it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle, make the scheduler and run it once.

        Args:
            args: of the back end; its "model_config" has our settings in `parameters`.
        """
        config = json.loads(args["model_config"])
        settings = {name: entry.get("string_value", "") for name, entry in config.get("parameters", {}).items()}
        self._default_tokens = int(settings["max_tokens"])
        self._runtime = runtime = _Runtime(settings["library"])
        try:
            self._open(Path(__file__).with_name(_BUNDLE), settings)
        except _RefusedError as refusal:
            raise pb_utils.TritonModelException(str(refusal)) from refusal
        self._jobs: dict[int, _Job] = {}
        self._count = 0
        # Kept, as C calls them; they only queue: a response goes through Triton's own queues, which may be full.
        self._callbacks = (_ON_TOKEN(self._on_token), _ON_END(self._on_end))
        self._outbox: queue.SimpleQueue[tuple[_Job, str, str, Any] | None] = queue.SimpleQueue()
        self._postman = threading.Thread(target=self._deliver, daemon=True)
        self._postman.start()
        prompt = (ctypes.c_int64 * 1)(0)
        warm_up = _Request(size=ctypes.sizeof(_Request), prompt=prompt, prompt_count=1, max_tokens=2)
        runtime.call("hsmrt_scheduler_submit", self._scheduler, ctypes.byref(warm_up), None)
        runtime.call("hsmrt_scheduler_drain", self._scheduler)

    def _open(self, folder: Path, settings: dict[str, str]) -> None:
        runtime, library = self._runtime, self._runtime.library
        library.hsmrt_options_create.restype = ctypes.c_void_p
        library.hsmrt_scheduler_close.argtypes = library.hsmrt_tokenizer_close.argtypes = (ctypes.c_void_p,)
        bundle = runtime.open("hsmrt_bundle_open", str(folder).encode(), ctypes.c_int32(1))
        options = ctypes.c_void_p(library.hsmrt_options_create())
        for name in ("threads", "onnxruntime_library"):
            if settings.get(name):
                runtime.call("hsmrt_options_set", options, name.encode(), settings[name].encode())
        session = runtime.open("hsmrt_session_open", bundle, ctypes.c_int32(_DECODE), options)
        self._tokenizer = runtime.open("hsmrt_tokenizer_open", bundle)
        size = _SchedulerOptions(
            size=ctypes.sizeof(_SchedulerOptions),
            rows=int(settings["rows"]),
            capacity=int(settings["capacity"]),
            most_waiting=int(settings["most_waiting"]),
        )
        self._scheduler = runtime.open("hsmrt_scheduler_create", session, ctypes.byref(size))
        for kind, handle in (("session", session), ("options", options), ("bundle", bundle)):
            runtime.close(kind, handle)  # the scheduler keeps what it needs

    def execute(self, requests: Sequence[Any]) -> None:
        """Queue requests; their responses come from another thread, whenever there is text."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._submit(request, sender)
            except _RefusedError as refusal:
                error = pb_utils.TritonError(str(refusal), refusal.code)
                sender.send(pb_utils.InferenceResponse(output_tensors=[], error=error), flags=_FINAL)

    def _submit(self, request: Any, sender: Any) -> None:
        def given(name: str, default: Any) -> Any:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            return default if tensor is None else tensor.as_numpy().reshape(-1)[0].item()

        tokens = self._encode(_strings(request, "text_input")[0])
        text = _Text(self._runtime, self._tokenizer, _strings(request, "stop_words"))
        job = _Job(sender, text, bool(given("stream", False)))
        sampling = _Sampling(
            size=ctypes.sizeof(_Sampling),
            temperature=given("temperature", 0.0),
            top_k=given("top_k", 0),
            top_p=given("top_p", 0.0),
            min_p=given("min_p", 0.0),
            repetition_penalty=given("repetition_penalty", 0.0),
            presence_penalty=given("presence_penalty", 0.0),
            frequency_penalty=given("frequency_penalty", 0.0),
        )
        self._count += 1
        number = self._count
        self._jobs[number] = job
        order = _Request(
            size=ctypes.sizeof(_Request),
            prompt=tokens,
            prompt_count=len(tokens),
            max_tokens=given("max_tokens", self._default_tokens),
            sampling=ctypes.pointer(sampling),
            seed=given("random_seed", 0),
            timeout_ms=given("timeout_ms", 0),
            on_token=self._callbacks[0],
            on_end=self._callbacks[1],
            user=number,
        )
        try:
            self._runtime.call("hsmrt_scheduler_submit", self._scheduler, ctypes.byref(order), None)
        except _RefusedError:
            self._jobs.pop(number).text.close()
            raise

    def _encode(self, text: bytes) -> Any:
        count, room = ctypes.c_size_t(), 0
        tokens = (ctypes.c_int64 * room)()
        for _ in range(2):  # first how many there are
            size = ctypes.c_size_t(len(text))
            arguments = (self._tokenizer, text, size, tokens, ctypes.c_size_t(room), ctypes.byref(count))
            self._runtime.call("hsmrt_tokenizer_encode", *arguments)
            if room or not count.value:
                break
            room = count.value
            tokens = (ctypes.c_int64 * room)()
        return tokens

    def _on_token(self, user: int, token: int) -> int:
        job = self._jobs[user]
        job.pieces.append(job.text.push(token))
        if job.stream and (text := job.take()):
            self._outbox.put((job, text, "", None))
        return 0 if job.gone or job.text.stopped else 1

    def _on_end(self, user: int, reply: Any) -> None:
        job = self._jobs.pop(user)
        job.pieces.append(job.text.finish())
        stopped = job.text.stopped
        job.text.close()
        ending = reply.contents.ending
        error = None
        if reply.contents.code:
            error = pb_utils.TritonError(reply.contents.message.decode(errors="replace"))
        elif ending == _CANCELLED and not stopped:
            error = pb_utils.TritonError("the request was cancelled", pb_utils.TritonError.CANCELLED)
        self._outbox.put((job, job.take(), "stop" if stopped else _ENDINGS[ending], error))

    def _deliver(self) -> None:
        """Send what the scheduler made; the last response of a request says why it ended."""
        while (item := self._outbox.get()) is not None:
            job, text, reason, error = item
            outputs = [] if error else [_string("text_output", text), _string("finish_reason", reason)]
            try:
                response = pb_utils.InferenceResponse(output_tensors=outputs, error=error)
                job.sender.send(response, flags=_FINAL if reason else 0)
                job.gone = job.gone or (not reason and job.sender.is_cancelled())
            except Exception as failure:  # of the server: the others are served on
                pb_utils.Logger.log_warn(f"a response could not be sent: {failure}")
                job.gone = True

    def finalize(self) -> None:
        """End what is left, and close everything."""
        self._runtime.close("scheduler", self._scheduler)
        self._outbox.put(None)
        self._postman.join()
        self._runtime.close("tokenizer", self._tokenizer)


def _strings(request: Any, name: str) -> list[bytes]:
    """Return the texts of an input in UTF-8; none for an input that was not sent."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    values = [] if tensor is None else tensor.as_numpy().reshape(-1)
    return [value if isinstance(value, bytes) else str(value).encode() for value in values]


def _string(name: str, text: str) -> Any:
    return pb_utils.Tensor(name, np.array([text.encode()], dtype=np.object_))
