"""Corrections as fine-tuning data: clips of the corrected segments and a manifest for `redline finetune`, in a zip."""

from __future__ import annotations

import io
import json
import wave
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redline.audio import open_blocks
from redline.serve.store.archive import ArchivedTranscript
from redline.serve.store.files import new_id
from redline.serve.store.store import Store
from redline.types import SAMPLE_RATE, Segment


def export_corrections(store: Store, owner: str | None) -> Path | None:
    """Make the zip in the folder of uploads -> its path, which the caller removes; None where nothing was corrected."""
    path = store.recordings.upload(new_id("in"))
    rows: list[dict[str, Any]] = []
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for id in store.archive.corrected_ids(owner):
                found = store.archive.get(id, owner)
                if found is None or found.entry.job_id is None:  # deleted meanwhile
                    continue
                for row, clip in _rows(found, store.recordings.audio(found.entry.job_id)):
                    archive.writestr(row["audio"], _wav(clip))
                    rows.append(row)
            manifest = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            archive.writestr("manifest.jsonl", manifest)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if not rows:
        path.unlink()
        return None
    return path


def _rows(found: ArchivedTranscript, audio: Path) -> Iterator[tuple[dict[str, Any], NDArray[np.float32]]]:
    """Rows of the manifest, each with the samples [N] of its clip."""
    places = {each.segment for each in found.corrections}
    transcript = found.transcript
    wanted = {place: transcript.segments[place] for place in sorted(places) if transcript.segments[place].text}
    for place, clip in _clips(audio, wanted):
        name = f"{found.entry.id}-{place}"
        row = {
            "id": name,
            "audio": f"clips/{name}.wav",
            "text": wanted[place].text,
            "duration": round(len(clip) / SAMPLE_RATE, 3),
            "language": wanted[place].language or transcript.language,
            "speaker": wanted[place].speaker,
            "source": "corrections",
            "split": "train",
        }
        yield {key: value for key, value in row.items() if value}, clip


def _clips(audio: Path, wanted: Mapping[int, Segment]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The samples of segments, from one reading of their recording; in order of their ends."""
    spans = {at: (round(each.start * SAMPLE_RATE), round(each.end * SAMPLE_RATE)) for at, each in wanted.items()}
    parts: dict[int, list[NDArray[np.float32]]] = {at: [] for at in spans}
    position = 0
    with open_blocks(audio) as blocks:
        for block in blocks:
            after = position + len(block)
            for at in list(parts):
                start, end = spans[at]
                if start < after:
                    parts[at].append(block[max(0, start - position) : max(0, end - position)])
                if end <= after:
                    yield at, np.concatenate(parts.pop(at))
            position = after
            if not parts:
                return
    for at, pieces in parts.items():  # the recording ends within its last segment
        if pieces:
            yield at, np.concatenate(pieces)


def _wav(samples: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2").tobytes())
    return buffer.getvalue()
