"""The archive: finished transcripts, their search index, names of speakers and corrections; deleted without a rest."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, insert, select

from redline.errors import DataError
from redline.formats import rename_speakers
from redline.serve.store import search_index
from redline.serve.store.corrections import Correction, corrected, merge_corrections
from redline.serve.store.database import Database
from redline.serve.store.files import new_id
from redline.serve.store.tables import (
    corrections_table,
    jobs_table,
    segments_table,
    speaker_names_table,
    transcripts_table,
)
from redline.types import JsonRecord, Transcript

_HEAD = [column for column in transcripts_table.c if column.name != "body"]


@dataclass(frozen=True)
class ArchiveEntry:
    """What the archive tells of a transcript without reading it."""

    id: str
    number: int
    owner: str
    job_id: str | None
    name: str
    created_at: float
    sha256: str | None
    duration_s: float
    language: str | None
    model: str
    has_audio: bool


@dataclass(frozen=True)
class ArchivedTranscript:
    """A transcript of the archive: the machine's text, and beside it what people said about it."""

    entry: ArchiveEntry
    machine: Transcript
    speaker_names: Mapping[str, str]
    corrections: Sequence[Correction]

    @property
    def transcript(self) -> Transcript:
        """The text with corrections and names."""
        return rename_speakers(corrected(self.machine, self.corrections), self.speaker_names)


@dataclass(frozen=True)
class SearchHit(JsonRecord):
    """A segment that was found: where it is, in seconds, and the text around the words; marks are characters of it."""

    transcript_id: str
    name: str
    segment: int
    start: float
    end: float
    speaker: str | None
    snippet: str
    marks: list[tuple[int, int]]


class Archive:
    """All transcripts of a database. `owner` is whose are seen; None sees those of all."""

    def __init__(self, database: Database, now: Callable[[], float] = time.time) -> None:
        self.database, self.now = database, now

    def add(
        self, connection: Connection, transcript: Transcript, *, owner: str, name: str, id: str | None = None,
        job_id: str | None = None, sha256: str | None = None, has_audio: bool = False,
    ) -> str:  # fmt: skip
        """Keep a transcript, in the transaction of the caller; returns its id."""
        id = id or new_id("tr")
        connection.execute(
            insert(transcripts_table).values(
                id=id, owner=owner, job_id=job_id, name=name, created_at=self.now(), sha256=sha256,
                duration_s=transcript.duration, language=transcript.language, model=transcript.model,
                has_audio=has_audio, body=json.dumps(transcript.to_dict(all_edits=True), ensure_ascii=False),
            )
        )  # fmt: skip
        _index(connection, id, transcript)
        return id

    def entries(self, owner: str | None = None, *, before: int | None = None, limit: int = 50) -> list[ArchiveEntry]:
        """Transcripts, the newest first; `before` is the number of one that was listed."""
        query = select(*_HEAD).order_by(transcripts_table.c.number.desc()).limit(limit)
        if owner is not None:
            query = query.where(transcripts_table.c.owner == owner)
        if before is not None:
            query = query.where(transcripts_table.c.number < before)
        with self.database.read() as connection:
            return [ArchiveEntry(**row._asdict()) for row in connection.execute(query)]

    def search(self, query: str, owner: str | None = None, *, limit: int = 50, offset: int = 0) -> list[SearchHit]:
        """Segments with all words and "phrases in quotes" of a query, without case and diacritics; the newest first."""
        with self.database.read() as connection:
            matching = search_index.matching(connection, query)
            if matching is None:
                return []
            rows = (
                select(segments_table, transcripts_table.c.name, speaker_names_table.c.name.label("called"))
                .join(transcripts_table, transcripts_table.c.id == segments_table.c.transcript_id)
                .outerjoin(
                    speaker_names_table,
                    (speaker_names_table.c.transcript_id == segments_table.c.transcript_id)
                    & (speaker_names_table.c.label == segments_table.c.speaker),
                )
                .where(matching)
                .order_by(transcripts_table.c.number.desc(), segments_table.c.segment)
                .limit(limit)
                .offset(offset)
            )
            if owner is not None:
                rows = rows.where(transcripts_table.c.owner == owner)
            return [_hit(row, query) for row in connection.execute(rows)]

    def get(self, id: str, owner: str | None = None) -> ArchivedTranscript | None:
        """A transcript, where it is there and the owner's."""
        with self.database.read() as connection:
            return _read(connection, id, owner)

    def id_of_job(self, job_id: str) -> str | None:
        """The transcript of a job that is done."""
        with self.database.read() as connection:
            query = select(transcripts_table.c.id).where(transcripts_table.c.job_id == job_id)
            return connection.execute(query).scalar_one_or_none()

    def change(
        self, id: str, owner: str | None = None, *, name: str | None = None,
        speakers: Mapping[str, str | None] | None = None, corrections: Iterable[Correction] = (),
    ) -> ArchivedTranscript | None:  # fmt: skip
        """Rename the recording or speakers (None takes a name back), correct words -> the transcript as it is now.

        None where there is no such transcript; raises `DataError` for speakers and words that are not there, and
        changes nothing then.
        """
        with self.database.write() as connection:
            found = _read(connection, id, owner)
            if found is None:
                return None
            if name is not None:
                mine = transcripts_table.c.id == id
                connection.execute(transcripts_table.update().where(mine).values(name=name))
            if speakers:
                _rename(connection, found, speakers)
            changes = list(corrections)
            if changes:
                now = merge_corrections(found.corrections, changes, found.machine)
                connection.execute(delete(corrections_table).where(corrections_table.c.transcript_id == id))
                rows = [{**each.to_dict(), "transcript_id": id, "corrected_at": self.now()} for each in now]
                if rows:
                    connection.execute(insert(corrections_table), rows)
                _forget_segments(connection, id)
                _index(connection, id, corrected(found.machine, now))
            return _read(connection, id, owner)

    def corrected_ids(self, owner: str | None = None) -> Sequence[str]:
        """The transcripts with corrections and audio, the oldest first."""
        table = transcripts_table
        query = select(table.c.id).where(
            table.c.has_audio, exists().where(corrections_table.c.transcript_id == table.c.id)
        )
        if owner is not None:
            query = query.where(table.c.owner == owner)
        with self.database.read() as connection:
            return connection.execute(query.order_by(table.c.number)).scalars().all()

    def delete(self, connection: Connection, id: str) -> None:
        """Forget a transcript and its job, in the transaction of the caller; `Database.scrub` makes it final."""
        _forget_segments(connection, id)
        mine = transcripts_table.c.id == id
        job_id = connection.execute(select(transcripts_table.c.job_id).where(mine)).scalar_one_or_none()
        connection.execute(delete(transcripts_table).where(mine))
        if job_id is not None:
            connection.execute(delete(jobs_table).where(jobs_table.c.id == job_id))

    def requests_before(self, until: float) -> Sequence[str]:
        """The transcripts that belong to no job and are older than this, in seconds since 1970."""
        table = transcripts_table
        query = select(table.c.id).where(table.c.job_id.is_(None), table.c.created_at < until)
        with self.database.read() as connection:
            return connection.execute(query).scalars().all()

    def keeps_audio_of(self, job_id: str) -> bool:
        """Whether the recording of a job belongs to a transcript."""
        table = transcripts_table
        with self.database.read() as connection:
            query = select(table.c.id).where(table.c.job_id == job_id, table.c.has_audio)
            return connection.execute(query).first() is not None


def _read(connection: Connection, id: str, owner: str | None) -> ArchivedTranscript | None:
    row = connection.execute(select(transcripts_table).where(transcripts_table.c.id == id)).one_or_none()
    if row is None or owner not in (None, row.owner):
        return None
    names, words = speaker_names_table, corrections_table
    called = connection.execute(select(names.c.label, names.c.name).where(names.c.transcript_id == id))
    changes = connection.execute(
        select(words.c.segment, words.c.word, words.c.text, words.c.count)
        .where(words.c.transcript_id == id)
        .order_by(words.c.segment, words.c.word)
    )
    values = row._asdict()
    machine = Transcript.from_dict(json.loads(values.pop("body")))
    corrections = [Correction(**each._asdict()) for each in changes]
    return ArchivedTranscript(ArchiveEntry(**values), machine, {each.label: each.name for each in called}, corrections)


def _rename(connection: Connection, found: ArchivedTranscript, speakers: Mapping[str, str | None]) -> None:
    known = labels_of(found.machine)
    if unknown := [label for label in speakers if label not in known]:
        there = ", ".join(known) or "nobody: the recording was transcribed without speakers"
        raise DataError(f"nobody is called {', '.join(unknown)}; there are {there}")
    mine = speaker_names_table.c.transcript_id == found.entry.id
    connection.execute(delete(speaker_names_table).where(mine, speaker_names_table.c.label.in_(list(speakers))))
    called = {label: " ".join(name.split()) for label, name in speakers.items() if name is not None}
    rows = [{"transcript_id": found.entry.id, "label": label, "name": name} for label, name in called.items() if name]
    if rows:
        connection.execute(insert(speaker_names_table), rows)


def labels_of(transcript: Transcript) -> list[str]:
    """The labels of the speakers of a transcript, as the machine gave them."""

    def speakers() -> Iterator[str | None]:
        for segment in transcript.segments:
            yield segment.speaker
            yield from (word.speaker for word in segment.words)
        yield from (turn.speaker for turn in transcript.turns)

    return sorted({speaker for speaker in speakers() if speaker is not None})


def _index(connection: Connection, id: str, transcript: Transcript) -> None:
    texts: dict[int, str] = {}
    for at, segment in enumerate(transcript.segments):
        values = {"transcript_id": id, "segment": at, "start_s": segment.start, "end_s": segment.end}
        values |= {"speaker": segment.speaker, "text": segment.text}
        result = connection.execute(insert(segments_table).values(values))
        assert result.inserted_primary_key is not None
        texts[result.inserted_primary_key[0]] = segment.text
    search_index.add(connection, texts)


def _forget_segments(connection: Connection, id: str) -> None:
    mine = segments_table.c.transcript_id == id
    numbers = connection.execute(select(segments_table.c.number).where(mine)).scalars().all()
    search_index.remove(connection, numbers)
    connection.execute(delete(segments_table).where(mine))


def _hit(row: Row[Any], query: str) -> SearchHit:
    text, marks = search_index.snippet(row.text, query)
    speaker = row.called or row.speaker
    return SearchHit(row.transcript_id, row.name, row.segment, row.start_s, row.end_s, speaker, text, marks)
