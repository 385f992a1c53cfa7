"""The record of a run: what made a model, kept beside its weights and compared when a run goes on.

No text, name or path of the data is in it; the digest tells whether two runs had the same rows.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from redline import files
from redline.errors import ConfigError, DataError
from redline.manifest import Utterance

RUN_RECORD = "training.json"
"""Beside the weights in the folder of the model."""


def data_summary(rows: Sequence[Utterance]) -> dict[str, Any]:
    """Counts and hours of some rows, by what the manifest tells of them, and a digest of all that teaches."""
    digest, hours = hashlib.sha256(), dict[str, float]()
    for row in sorted(rows, key=lambda row: row.id):
        digest.update(json.dumps([row.id, row.audio.name, row.start, row.end, row.text]).encode())
        hours[row.language] = hours.get(row.language, 0.0) + row.duration / 3600
    return {
        "utterances": len(rows),
        "hours": round(sum(hours.values()), 3),
        "hours_by_language": {name: round(hours[name], 3) for name in sorted(hours) if name},
        "speakers": len({row.speaker for row in rows} - {""}),  # how many, not who: names are private
        "sources": len({row.source for row in rows} - {""}),
        "sha256": digest.hexdigest(),
    }


def checkpoint_digest(folder: Path) -> str:
    """What tells a checkpoint from another of the same name: its configuration, and size and head of its weights."""
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(f"{path.name} {path.stat().st_size}".encode() + file.read(1 << 20))
    return digest.hexdigest()


def run_record(
    command: str, model: str, settings: Mapping[str, Any], data: Mapping[str, Sequence[Utterance]]
) -> dict[str, Any]:
    """A run before its first step: `settings` as plain data, whose paths are cut down to their names."""
    record = {
        "command": command,
        "settings": _without_folders({"model": model, **settings}),
        "data": {split: data_summary(rows) for split, rows in data.items()},
        "versions": {"redline": version("redline"), "torch": torch.__version__, "python": platform.python_version()},
    }
    plain: dict[str, Any] = json.loads(json.dumps(record, default=str))
    return plain


def _without_folders(value: Any) -> Any:
    """A path of this machine without its folders; anything else as it is."""
    if isinstance(value, Mapping):
        return {key: _without_folders(item) for key, item in value.items()}
    return Path(value).name if isinstance(value, str) and (Path(value).is_absolute() or Path(value).exists()) else value


def keep_record(path: Path, record: Mapping[str, Any], free: Sequence[str]) -> None:
    """Keep the record of a run, or compare it with that of the run that goes on here.

    Raises `ConfigError` for settings, and `DataError` for data, that are not those it began with; those named in `free`
    may change.
    """
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        settings = {key: (before["settings"].get(key), value) for key, value in record["settings"].items()}
        changed = ", ".join(
            f"{key} {'by default' if old is None else old} (now {'by default' if new is None else new})"
            for key, (old, new) in settings.items()
            if old != new and key not in free
        )
        if changed:
            raise ConfigError(
                f"{path.parent} holds a run that began with {changed}; give the settings it began with to go on, "
                "or choose another --out"
            )
        for split, rows in record["data"].items():
            if (old := before["data"][split])["sha256"] != rows["sha256"]:
                raise DataError(
                    f"{path.parent} holds a run that began with other data ({split}: {old['utterances']} utterances "
                    f"then, {rows['utterances']} now); choose another --out"
                )
    write_record(path, record)


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    files.write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
