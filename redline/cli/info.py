"""`redline info` and `redline models`: what is installed, and what a model is."""

from __future__ import annotations

import json
import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from redline import __version__, files
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
    from redline.models.folder import bundled_names

    for name in bundled_names():
        typer.echo(name)


def info(
    model: Annotated[str | None, typer.Option("--model", help="A bundled model, a folder or a hub id.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Revision of a hub id.")] = None,
) -> None:
    """Versions and devices, and with --model the facts of a model."""
    from redline.model import pick_device
    from redline.models.folder import bundled_names, resolve

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
        typer.echo(f"{name:<{width}}  {value}")


def _model_facts(name: str, folder: Path) -> dict[str, str]:
    """What the files of a checkpoint say, without loading its weights."""
    from safetensors import SafetensorError, safe_open

    from redline.models.ngram import NAME, NgramLM

    count = bytes = 0
    for path in sorted(folder.glob("*.safetensors")):
        bytes += path.stat().st_size
        if path.name == NAME:
            continue
        try:
            with safe_open(path, framework="np") as file:
                count += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
        except SafetensorError as error:
            raise RedlineError(f"{path}: not a whole safetensors file ({error})") from error
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RedlineError(f"{folder / 'config.json'}: cannot be read ({files.advice(error)})") from error
    card = folder / "README.md"
    facts = {
        "model": name,
        "kind": str(config.get("model_type", "unknown")),
        "can": ABILITIES.get(str(config.get("model_type")), ABILITIES["granite_speech_nar"]),
        "languages": ", ".join(config.get("languages", [])) or "not stated",
        "parameters": f"{count / 1e6:.1f} million",
        "on disk": f"{bytes / 1e6:.1f} MB",
        "folder": str(folder),
    }
    if (folder / NAME).is_file():
        reader = NgramLM.load(folder / NAME, config["text_config"]["vocab_size"])
        facts["draft model"] = f"{reader.count / 1e6:.2f} million n-grams of up to {reader.order} tokens"
    return facts | ({"model card": str(card)} if card.is_file() else {})
