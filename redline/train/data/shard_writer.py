"""Writing shards: the recordings of a manifest as WebDataset tars in a folder or a bucket.

A shard has NAME.flac (16 kHz, mono, 16 bits) and NAME.json (the row of the manifest) for each utterance.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from redline.errors import DataError, packages_of
from redline.manifest import Utterance
from redline.train.data.feature_cache import cut_samples, utterance_cut
from redline.types import SAMPLE_RATE

_BLOCK = 512


@dataclass(frozen=True)
class ShardOptions:
    """How large shards are."""

    shard_mb: float = 256.0


def write_shards(
    rows: Sequence[Utterance],
    folder: str,
    options: ShardOptions = ShardOptions(),
    progress: Callable[[float], None] = lambda seconds: None,
    skipped: Callable[[str], None] = lambda reason: None,
) -> list[Utterance]:
    """Write the recordings of a manifest into shards in a folder or bucket (`s3://...`); returns their new rows.

    A shard is whole or not there. A recording that cannot be read is left out, and `skipped` gets the reason. Raises
    `DataError` where there are shards already, or nothing can be written.
    """
    import soundfile

    with packages_of("cluster", "a folder of shards"):
        import fsspec
    try:
        files, root = fsspec.core.url_to_fs(folder)
        files.makedirs(root, exist_ok=True)
        there = files.glob(f"{root}/shard-*.tar")
    except (OSError, ImportError, ValueError) as error:
        raise DataError(f"{folder}: cannot be written: {error}") from error
    if there:
        raise DataError(
            f"{folder}: has {len(there)} shards already; name an empty folder, since manifests point into them"
        )
    written: list[Utterance] = []
    shard = _Shard()
    for number, row in enumerate(rows):
        progress(row.duration)
        try:
            samples = cut_samples(utterance_cut(row))
        except DataError as error:
            skipped(str(error).splitlines()[0])
            continue
        sound, name = io.BytesIO(), f"{number:09d}"
        soundfile.write(sound, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        kept = replace(
            row, audio=Path(f"{name}.flac"), start=0.0, end=None, duration=len(samples) / SAMPLE_RATE, shard=""
        )
        data = sound.getvalue()
        first = shard.add(f"{name}.flac", data)
        shard.add(f"{name}.json", json.dumps(_described(kept), ensure_ascii=False).encode())
        shard.rows.append((kept, first, len(data)))
        if shard.size >= options.shard_mb * 1e6:
            written += shard.close(files, root, folder)
            shard = _Shard(shard.number + 1)
    if shard.rows:
        written += shard.close(files, root, folder)
    if not written:
        raise DataError(
            f"none of {len(rows)} recordings can be read; the first is {rows[0].audio if rows else 'missing'}"
        )
    return written


def _described(row: Utterance) -> dict[str, Any]:
    return {**row.to_dict(), "audio": row.audio.name}


class _Shard:
    """One tar file in memory, until it is large enough."""

    def __init__(self, number: int = 0) -> None:
        self.number, self.rows, self._bytes = number, list[tuple[Utterance, int, int]](), io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._bytes, mode="w", format=tarfile.USTAR_FORMAT)

    @property
    def size(self) -> int:
        return self._bytes.tell()

    def add(self, name: str, data: bytes) -> int:
        """The place of the data of a new member."""
        member = tarfile.TarInfo(name)
        member.size = len(data)
        first = self._bytes.tell() + _BLOCK
        self._tar.addfile(member, io.BytesIO(data))
        return first

    def close(self, files: Any, root: str, folder: str) -> list[Utterance]:
        self._tar.close()
        name = f"shard-{self.number:06d}.tar"
        try:
            with files.transaction, files.open(f"{root}/{name}", "wb") as file:
                file.write(self._bytes.getvalue())
        except OSError as error:
            raise DataError(f"{folder}/{name}: cannot be written: {error}") from error
        where = folder if "://" in folder else str(Path(folder).resolve())
        return [replace(row, shard=f"{where}/{name}#{first}+{size}") for row, first, size in self.rows]
