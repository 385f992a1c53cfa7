"""`redline info` and `redline models`: what is installed, and what a model is."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from redline import __version__
from redline.cli import console

ABILITIES = {
    "granite_speech_nar": "transcribe by editing a draft, keywords; word timestamps by alignment",
    "granite_speech5_ctc": "transcribe, keywords; word timestamps by alignment",
    "granite_speech": "transcribe, translate, keywords; word timestamps by alignment",
    "granite_speech_plus": "transcribe, keywords, speakers, word timestamps, prefixes",
}
"""What a kind of checkpoint can do, by its `model_type`."""
models = typer.Typer(invoke_without_command=True, add_completion=False)


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
    model: Annotated[str | None, typer.Option(help="A bundled model, a folder or a hub id.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a hub id.")] = None,
) -> None:
    """Versions and devices, and with --model the facts of a model."""
    from redline.checkpoints.folder import bundled_names, resolve
    from redline.engine.int8 import kernel
    from redline.load import pick_device

    facts = {
        "redline": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "device": str(pick_device(None)),
        "int8": str(kernel()),
        "bundled models": ", ".join(bundled_names()) or "none",
    }
    if model is not None:
        facts |= _model_facts(model, resolve(model, revision))
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(f"{name:<{width}}  {console.one_line(value)}")


def _model_facts(name: str, folder: Path) -> dict[str, str]:
    """What the files of a checkpoint say, without loading its weights."""
    from redline import tensor_file, untrusted
    from redline.checkpoints.shared import DRAFT_LM, SHARED_PARTS, shared_part
    from redline.load import pick_device, pick_precision

    optional: dict[str, str] = {}
    files = {path: tensor_file.read_header(path) for path in sorted(folder.glob("*.safetensors"))}
    parameters, size_bytes = 0, sum(path.stat().st_size for path in files)
    shared = {part: found for part in SHARED_PARTS if (found := shared_part(folder, part))}
    for path, tensors in shared.values():
        files[path] = tensors, tensor_file.read_header(path)[1]
        optional["shared"] = f"{' and '.join(shared)} of {path.parent}"
    for path, (tensors, metadata) in files.items():
        if path.name == DRAFT_LM:
            ngrams = sum(len(ids) for key, ids in tensors.items() if key.startswith("tokens.") and ids.dim())
            optional["n-gram LM"] = f"{ngrams / 1e6:.2f} million n-grams of up to {metadata.get('order')} tokens"
        else:
            parameters += sum(tensor.numel() for tensor in tensors.values())
    config = untrusted.read_json(folder / "config.json")
    kind, languages = str(config.get("model_type", "unknown")), config.get("languages")
    if (folder / "README.md").is_file():
        optional["model card"] = str(folder / "README.md")
    return {
        "model": name,
        "kind": kind,
        "can": ABILITIES.get(kind, "unknown"),
        "languages": ", ".join(map(str, languages if isinstance(languages, list) else ())) or "not stated",
        "parameters": f"{parameters / 1e6:.1f} million",
        "precision": str(pick_precision(folder, None, pick_device(None), "full")).removeprefix("torch."),
        "on disk": f"{size_bytes / 1e6:.1f} MB",
        "folder": str(folder),
        **optional,
    }
