"""Write docs/cli.md from the commands' own help texts, so that the two never differ."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from hsm_export.cli import cli

TARGET = Path(__file__).resolve().parent.parent / "docs" / "cli.md"

INTRODUCTION = """# Command line

Written from the commands' help texts by `python tools/write_cli_docs.py`; do not edit.

Results go to stdout, everything else to stderr; `--json` makes the result machine-readable. Every command is a Python
function of the same name in `hsm_export` (`import` is `import_checkpoint`) that returns a typed result.

| exit code | meaning |
| ---: | --- |
| 0 | good |
| 1 | internal error; run again with `hsm-export --traceback …` and report it |
| 2 | usage: options that do not fit each other or the file |
| 3 | environment: a library, tool or device is missing |
| 4 | bad input file, or an output that cannot be written |
| 5 | numbers differ beyond the derived tolerance |
| 6 | build refused by the target |
| 7 | nothing differs, but something could not be judged |
| 8 | a limit on time or memory was reached before everything was compared; what was compared does not differ |
| 130 | interrupted with Ctrl-C |

Shell completion is click's: put one of these lines into the shell's start-up file.

    eval "$(_HSM_EXPORT_COMPLETE=bash_source hsm-export)"     # bash
    eval "$(_HSM_EXPORT_COMPLETE=zsh_source hsm-export)"      # zsh
    _HSM_EXPORT_COMPLETE=fish_source hsm-export | source      # fish
"""


def text() -> str:
    """Return the whole document."""
    root = click.Context(cli, info_name="hsm-export", max_content_width=100, terminal_width=100)
    return INTRODUCTION + "".join(_sections(cli, root, "##"))


def _sections(group: click.Group, parent: click.Context, marks: str) -> Iterator[str]:
    """Yield the help of a group's commands, and of theirs."""
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=parent, max_content_width=100, terminal_width=100)
        title = context.command_path.removeprefix("hsm-export ")
        yield f"\n{marks} {title}\n\n```text\n{command.get_help(context)}\n```\n"
        if isinstance(command, click.Group):
            yield from _sections(command, context, f"{marks}#")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    target.write_text(text())
    print(f"wrote {target.name}", file=sys.stderr)
