"""The command `redline`. Each verb is a function in a module of its own, imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from redline import __version__

VERBS = {
    "transcribe": "redline.cli.transcribe:transcribe",
    "info": "redline.cli.info:info",
    "models": "redline.cli.info:models",
    "evaluate": "redline.cli.evaluate:evaluate",
    "prepare": "redline.cli.prepare:prepare",
    "train": "redline.cli.train:train",
    "finetune": "redline.cli.finetune:finetune",
}
"""Verb -> module and the function, or the Typer app, that is the verb."""


class Verbs(TyperGroup):
    """A group whose commands are imported one by one, so that `redline transcribe --help` loads nothing else."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The verbs, in the order of the help page."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a verb; None when there is no such verb."""
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name].partition(":")
        verb = getattr(importlib.import_module(module), name)
        if not isinstance(verb, typer.Typer):
            function, verb = verb, typer.Typer(add_completion=False)
            verb.command(cmd_name)(function)
        command = typer.main.get_command(verb)
        command.name = cmd_name
        return command


app = typer.Typer(cls=Verbs, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"redline {__version__}")
        raise typer.Exit()


@app.callback()
def redline(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Speech to text the way an editor works: a draft, then one editing pass over it."""


def main() -> None:
    """Run the command line."""
    app(prog_name="redline")
