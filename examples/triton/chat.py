"""A chat with a model of text in Triton Inference Server: `python chat.py http://localhost:8000 NAME [MAX_TOKENS]`.

Each line of stdin is a turn. The model gets the whole conversation each time, and its reply, up to the end of a line,
is printed as it comes. It needs Python's standard library alone; `hsm-export bundle --format triton` writes the model.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator


def stream(server: str, model: str, text: str, **settings: object) -> Iterator[str]:
    """Yield the pieces of a reply as the server sends them.

    Args:
        server: its address, such as http://localhost:8000.
        model: the model of text.
        text: the prompt.
        settings: inputs of the model, such as max_tokens=64, temperature=0.8, stop_words=["\\n"].

    Raises:
        RuntimeError: the server or the model refused, with what it says.
    """
    document = {"text_input": text, "stream": True, **settings}
    request = urllib.request.Request(
        f"{server}/v2/models/{model}/generate_stream",
        data=json.dumps(document).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as response:
            for line in response:  # server-sent events: "data: JSON", then an empty line
                if line.startswith(b"data:"):
                    event = json.loads(line[len("data:") :])
                    # The status was sent with the first piece: a later failure is an event like any other.
                    if "error" in event:
                        raise RuntimeError(event["error"])
                    yield event["text_output"]
    except urllib.error.HTTPError as error:
        body = error.read().decode(errors="replace")
        raise RuntimeError(json.loads(body)["error"] if body.startswith("{") else f"{error}: {body}") from error


def main(server: str, model: str, max_tokens: str = "64") -> None:
    """Read turns from stdin until it ends."""
    conversation = ""
    for line in sys.stdin:
        conversation += line
        for piece in stream(server, model, conversation, max_tokens=int(max_tokens), stop_words=["\n"]):
            print(piece, end="", flush=True)
            conversation += piece
        print(flush=True)
        conversation += "\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
