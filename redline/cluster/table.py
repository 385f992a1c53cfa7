"""The parquet file of a shard: a row for each recording, with its transcript or why there is none."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

from redline.cluster.source import SourceRecording
from redline.errors import packages_of
from redline.types import JsonRecord


def shard_table(rows: Sequence[tuple[SourceRecording, JsonRecord, bytes | None]]) -> bytes:
    """Recordings, what came of each, and the JSON of its transcript -> the bytes of a parquet file, always the same."""
    with packages_of("cluster", "writing parquet"):
        import pyarrow as pa
        from pyarrow import parquet

    columns = pa.schema(
        [
            ("row", pa.int64()),
            ("audio", pa.string()),
            ("start", pa.float64()),
            ("end", pa.float64()),
            ("id", pa.string()),
            ("text", pa.string()),
            ("language", pa.string()),
            ("duration", pa.float64()),
            ("reference", pa.string()),
            ("transcript", pa.string()),  # the JSON
            ("reason", pa.string()),
        ]
    )
    values = []
    for recording, result, data in rows:
        row = result.to_dict()
        transcript = {} if data is None else json.loads(data)
        values.append(
            {
                "row": recording.row,
                "audio": _unicode(recording.audio),
                "start": recording.start,
                "end": recording.end,
                "id": row["id"],
                "text": transcript.get("text"),
                "language": transcript.get("language"),
                "duration": row["duration"],
                "reference": recording.text,
                "transcript": None if data is None else data.decode("utf-8"),
                "reason": None if row["reason"] is None else _unicode(row["reason"]),
            }
        )
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(values, schema=columns), out, compression="zstd")
    return out.getvalue()


def _unicode(text: str) -> str:
    """A text without halves of characters, as names of files may have them."""
    return text.encode("utf-8", "backslashreplace").decode()
