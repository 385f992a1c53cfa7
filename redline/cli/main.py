"""The command `redline`. Each verb is a function in a module of its own, imported when it is asked for."""

from __future__ import annotations

import importlib
import os
import re
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from redline import __version__, signatures
from redline.cli import console, stopping
from redline.engine.start import settle_threads
from redline.errors import RedlineError

VERBS = {
    "transcribe": "redline.cli.transcribe:transcribe",
    "batch": "redline.cli.batch:batch",
    "chunks": "redline.cli.chunks:chunks",
    "live": "redline.cli.live:live",
    "serve": "redline.cli.serve:serve",
    "mcp": "redline.cli.mcp:mcp",
    "pipeline": "redline.cli.pipeline:pipeline",
    "plan": "redline.cli.plan:plan",
    "search": "redline.cli.search:search",
    "align": "redline.cli.align:align",
    "info": "redline.cli.info:info",
    "models": "redline.cli.info:models",
    "evaluate": "redline.cli.evaluate:evaluate",
    "sweep": "redline.cli.sweep:sweep",
    "bench": "redline.cli.bench:bench",
    "prepare": "redline.cli.prepare:prepare",
    "shards": "redline.cli.shards:shards",
    "check": "redline.cli.check:check",
    "train": "redline.cli.train:train",
    "finetune": "redline.cli.finetune:finetune",
}
"""Verb -> module and the function, or the Typer app, that is the verb."""

UsageError: Any = typer.BadParameter.__bases__[0]  # typer gives no name to it, and brings its own since 0.26
DEBUG = typer.Option("--debug", help="Print tracebacks, and what is logged.", callback=console.debug)


OPTIONAL_VALUES = {
    "--speakers": (re.compile(r"\d+(-\d+)?|auto"), "auto"),
    "--ray": (re.compile(r"auto|local|[\w.\[\]:-]+:\d+|ray://.+"), "local"),
}
"""Options that need no value: what one looks like, and what it is where none follows."""


class Verb(TyperCommand):
    """A command whose `OPTIONAL_VALUES` may be left out, also in front of a file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {name for param in self.params if not getattr(param, "is_flag", True) for name in param.opts}
        end = args.index("--") if "--" in args else len(args)
        filled: list[str] = []
        for place, argument in enumerate(args):
            filled.append(argument)
            if place < end and argument in own & set(OPTIONAL_VALUES):
                value, default = OPTIONAL_VALUES[argument]
                if place + 1 == end or not value.fullmatch(args[place + 1]):
                    filled.append(default)
        return super().parse_args(ctx, filled)


class Verbs(TyperGroup):
    """A group whose commands are imported one by one, so that `redline transcribe --help` loads nothing else."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a verb; None when there is no such verb."""
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name].partition(":")
        command = _command(getattr(importlib.import_module(module), name), cmd_name)
        (debug,) = (option for option in _command(redline, cmd_name).params if option.name == "debug")
        debug.expose_value = False
        command.params.append(debug)
        return command

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; whatever it raises ends in one line, and in an exit status that tells what it was."""
        console.prepare_streams()
        arguments = [*getattr(ctx, "_protected_args", ()), *ctx.args]
        try:
            return super().invoke(ctx)
        except UsageError as error:
            if advice := _advice(error, arguments):
                raise UsageError(advice, ctx=error.ctx) from error
            raise
        except (typer.Exit, typer.Abort, BrokenPipeError, *UsageError.__bases__):  # who reads the output has enough
            raise
        except (RedlineError, OSError) as error:
            raise console.refused(error) from error
        except KeyboardInterrupt:
            console.complain("interrupted")
            raise typer.Exit(console.INTERRUPTED) from None
        except Exception as error:
            raise console.internal_error(error) from error


def _command(verb: Any, name: str) -> Any:
    """A verb, which is a function or a Typer app, as a command."""
    if not isinstance(verb, typer.Typer):
        function, verb = verb, typer.Typer(add_completion=False)
        verb.command(name, cls=Verb)(function)
    command = typer.main.get_command(verb)
    command.name = name
    return command


def _advice(error: Any, arguments: list[str]) -> str | None:
    """What to say about an option that is not there: it may be the name of a file, or of another package's option."""
    unknown = getattr(error, "option_name", None)
    if unknown is None:
        return None
    for argument in arguments[1:]:
        if argument == "--":
            break
        if argument.startswith(unknown) and len(argument) > 1 and os.path.lexists(argument):
            return (
                f"{argument} is taken for an option, because it begins with a dash; put -- before the files: "
                f"redline {arguments[0]} [OPTIONS] -- {argument}"
            )
    foreign = signatures.option(unknown)
    return f"No such option: {unknown}; {foreign}" if foreign else None


app = typer.Typer(cls=Verbs, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(enabled: bool) -> None:
    if enabled:
        typer.echo(f"redline {__version__}")
        raise typer.Exit()


@app.callback()
def redline(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, DEBUG] = False,
) -> None:
    """Speech recognition by editing: a CTC draft, then one editing pass over it."""


def main() -> None:
    settle_threads()
    try:
        app(prog_name="redline")
    finally:
        stopping.let_go()
