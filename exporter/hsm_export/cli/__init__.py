"""The command line `hsm-export`: one module a command, imported only when it is used."""

from __future__ import annotations

import importlib
import os
import signal
import sys

import click

COMMANDS = {
    "export": "export",
    "validate": "validate",
    "diff": "diff",
    "build": "build",
    "bundle": "bundle",
    "inspect": "inspect",
    "bench": "bench",
    "operator": "operator",
    "generate": "generate",
    "perplexity": "perplexity",
    "quantize": "quantize",
    "import": "import_",
    "train": "train",
    "demo": "demo",
    "doctor": "doctor",
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f".{COMMANDS[cmd_name]}", __name__).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(f"{error.message} Commands are {', '.join(COMMANDS)}.", ctx) from error


def _version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        from .. import __version__

        click.echo(f"hsm-export {__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.option("--traceback", is_flag=True, help="Show Python's traceback of an error.")
@click.option(
    "--operators",
    multiple=True,
    metavar="SOURCE",
    help="Operators of your own: a module, a .py file or a folder; repeatable. [env: HSM_EXPORT_OPERATORS]",
)
def cli(traceback: bool, operators: tuple[str, ...]) -> None:
    """Export PyTorch models with HSM, TaylorShift, SwitchHead or your own mixers, and prove their numbers everywhere.

    \b
    Examples:
      hsm-export demo
      hsm-export export zoo:hsm-lm -o hsm-lm.onnx
      hsm-export validate hsm-lm.onnx --against zoo:hsm-lm
      hsm-export build hsm-lm.onnx --arch sm86,sm89 -o hsm-lm.engine

    \b
    Exit codes: 0 good, 1 internal error, 2 usage, 3 environment, 4 bad input file,
    5 numbers differ, 6 build refused,
    7 not judged, 8 out of time or memory, 130 interrupted.
    """
    if operators:
        from hsm_operators import discovery

        # By the environment, so that child processes know them too.
        named = [*operators, *filter(None, os.environ.get(discovery.VARIABLE, "").split(os.pathsep))]
        os.environ[discovery.VARIABLE] = os.pathsep.join(named)
        discovery.load_installed()


def main() -> None:
    """Entry point of the console script: run a command and end with its documented exit code."""
    from ..idle_threads import let_idle_threads_sleep
    from ..interrupts import raise_on

    let_idle_threads_sleep()
    # A polite kill cleans up as Ctrl-C does.
    for number in (signal.SIGINT, signal.SIGTERM):
        raise_on(number, KeyboardInterrupt)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line and return the exit code; prints errors on stderr."""
    show_traceback = "--traceback" in arguments
    try:
        code = cli.main(args=arguments, prog_name="hsm-export", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        # The reader of stdout went away (as `| head` does); nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if show_traceback:
            raise
        return _explain(error)


def _explain(error: Exception) -> int:
    """Print one clear line for an error and return its exit code."""
    from hsm_models.errors import ModelError
    from hsm_operators import OperatorError

    from ..errors import BadInputError, HsmExportError

    if isinstance(error, OperatorError):
        error = BadInputError(error.message, error.hint or None)
    if isinstance(error, HsmExportError):
        click.echo(f"error: {error.message}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        return error.exit_code
    if isinstance(error, ModelError):
        click.echo(f"error: {error}", err=True)
        return 4
    if isinstance(error, ModuleNotFoundError):
        click.echo(f"error: the Python package {error.name!r} is not installed", err=True)
        click.echo("hint: `hsm-export doctor` says what to install", err=True)
        return 3
    click.echo(f"internal error: {type(error).__name__}: {error}", err=True)
    click.echo("hint: run again with `hsm-export --traceback …` and report what it prints", err=True)
    return 1
