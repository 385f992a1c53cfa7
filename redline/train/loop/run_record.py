"""What made a model: settings and a summary of the data, kept beside its weights and compared when a run goes on.

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

NAME = "training.json"
"""Beside the weights in the folder of the model."""


def summary(rows: Sequence[Utterance]) -> dict[str, Any]:
    """Counts and hours of some rows, by what the manifest tells of them, and a digest of all that teaches."""
    digest = hashlib.sha256()
    for row in sorted(rows, key=lambda one: one.id):
        digest.update(json.dumps([row.id, row.audio.name, row.start, row.end, row.text]).encode())
    found: dict[str, Any] = {"utterances": len(rows), "hours": round(sum(row.duration for row in rows) / 3600, 3)}
    seconds: dict[str, float] = {}
    for row in rows:
        seconds[row.language] = seconds.get(row.language, 0.0) + row.duration
    found["hours_by_language"] = {name: round(time / 3600, 3) for name, time in sorted(seconds.items()) if name}
    for key in ("speaker", "source"):  # how many, not who: names are private
        found[f"{key}s"] = len({getattr(row, key) for row in rows} - {""})
    return found | {"sha256": digest.hexdigest()}


def fingerprint(folder: Path) -> str:
    """What tells a checkpoint from another of the same name: its configuration, and size and head of its weights."""
    digest = hashlib.sha256()
    for file in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        with file.open("rb") as opened:
            digest.update(f"{file.name} {file.stat().st_size}".encode() + opened.read(1 << 20))
    return digest.hexdigest()


def describe(
    command: str, model: str, settings: Mapping[str, Any], data: Mapping[str, Sequence[Utterance]]
) -> dict[str, Any]:
    """A run before its first step: `settings` as plain data, whose paths are cut down to their names."""
    made: dict[str, Any] = {
        "command": command,
        "model": _bare(model),
        "settings": {key: _bare(value) for key, value in settings.items()},
        "data": {name: summary(rows) for name, rows in data.items()},
        "versions": {"redline": version("redline"), "torch": torch.__version__, "python": platform.python_version()},
    }
    plain: dict[str, Any] = json.loads(json.dumps(made, default=str))
    return plain


def _bare(value: Any) -> Any:
    """A path of this machine without its folders; anything else as it is."""
    if isinstance(value, Mapping):
        return {key: _bare(one) for key, one in value.items()}
    return Path(value).name if isinstance(value, str) and (Path(value).is_absolute() or Path(value).exists()) else value


def begin(path: Path, record: Mapping[str, Any], free: Sequence[str]) -> None:
    """Keep the record of a run, or compare it with that of the run that goes on here.

    Raises `ConfigError` for settings, and `DataError` for data, that are not those it began with; those named in `free`
    may change.
    """
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        old, new = ({"model": one["model"], **one["settings"]} for one in (before, record))
        changed = [
            f"{key} {_told(old.get(key))} (now {_told(value)})"
            for key, value in new.items()
            if key not in free and old.get(key) != value
        ]
        if changed:
            raise ConfigError(
                f"{path.parent} holds a run that began with {', '.join(changed)}; give the settings it began with "
                "to go on, or choose another --out"
            )
        for name, own in record["data"].items():
            if before["data"].get(name, {}).get("sha256") != own["sha256"]:
                then = before["data"].get(name, {}).get("utterances", 0)
                raise DataError(
                    f"{path.parent} holds a run that began with other data ({name}: {then} utterances then, "
                    f"{own['utterances']} now); choose another --out"
                )
    write(path, record)


def _told(value: Any) -> Any:
    return "as the default" if value is None else value


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record; all of it appears at once."""
    files.write(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
