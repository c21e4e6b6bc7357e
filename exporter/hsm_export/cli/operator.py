"""`hsm-export operator`: operators of one's own."""

from __future__ import annotations

import importlib

import click

COMMANDS = {"new": "operator_new", "build": "operator_build", "test": "operator_test"}


class OperatorGroup(click.Group):
    """A group that imports a command's module when the command is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f".{COMMANDS[cmd_name]}", __package__).command
        assert isinstance(command, click.Command)
        return command


@click.group("operator", cls=OperatorGroup)
def command() -> None:
    """Make operators of your own; docs/adding-a-mixer.md says what one is.

    \b
    Examples:
      hsm-export operator new acme::DecayMix --step --kernels
      hsm-export operator test decay_mix
      hsm-export operator build decay_mix
      hsm-export operator build my_mixer.py --only onnxruntime,torch
    """
