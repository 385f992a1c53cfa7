"""`redline info` and `redline models`: what is installed, and what a model is."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from redline import __version__
from redline.cli import console
from redline.errors import RedlineError

ABILITIES = {
    "granite_speech_nar": "transcribe by editing a draft, keywords; word timestamps by alignment",
    "granite_speech": "transcribe, translate, keywords; word timestamps by alignment",
    "granite_speech_plus": "transcribe, keywords, speakers, word timestamps, prefixes",
}
models = typer.Typer(help="Models that ship with the package.", invoke_without_command=True, add_completion=False)


@models.callback()
def _models(context: typer.Context) -> None:
    """Models that ship with the package; without a command their names are listed."""
    if context.invoked_subcommand is None:
        list_models()


@models.command("list")
def list_models() -> None:
    """Names of the models that ship with the package."""
    from redline.checkpoints.folder import bundled_names

    for name in bundled_names():
        typer.echo(name)


def info(
    model: Annotated[str | None, typer.Option("--model", help="A bundled model, a folder or a hub id.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Revision of a hub id.")] = None,
) -> None:
    """Versions and devices, and with --model the facts of a model."""
    from redline.checkpoints.folder import bundled_names, resolve
    from redline.load import pick_device

    facts = {
        "redline": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "device": str(pick_device(None)),
        "bundled models": ", ".join(bundled_names()) or "none",
    }
    if model is not None:
        try:
            facts |= _model_facts(model, resolve(model, revision))
        except RedlineError as error:
            raise console.refused(error) from error
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(f"{name:<{width}}  {console.one_line(value)}")


def _model_facts(name: str, folder: Path) -> dict[str, str]:
    """What the files of a checkpoint say, without loading its weights."""
    from redline import tensor_file, untrusted
    from redline.decoding.ngram import NAME

    count = bytes = 0
    reads = ""
    for path in sorted(folder.glob("*.safetensors")):
        said, about = tensor_file.read_header(path)
        bytes += path.stat().st_size
        if path.name == NAME:
            grams = sum(len(tensor) for name, tensor in said.items() if name.startswith("tokens.") and tensor.dim())
            reads = f"{grams / 1e6:.2f} million n-grams of up to {about.get('order')} tokens"
        else:
            count += sum(tensor.numel() for tensor in said.values())
    config = untrusted.read_json(folder / "config.json")
    languages = config.get("languages")
    card = folder / "README.md"
    facts = {
        "model": name,
        "kind": str(config.get("model_type", "unknown")),
        "can": ABILITIES.get(str(config.get("model_type")), ABILITIES["granite_speech_nar"]),
        "languages": ", ".join(map(str, languages if isinstance(languages, list) else ())) or "not stated",
        "parameters": f"{count / 1e6:.1f} million",
        "on disk": f"{bytes / 1e6:.1f} MB",
        "folder": str(folder),
    }
    if reads:
        facts["draft model"] = reads
    return facts | ({"model card": str(card)} if card.is_file() else {})
