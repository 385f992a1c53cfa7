"""What is done to one recording, whoever does it where: read, and written.

Between the two it is cut and recognized by the library's own `Session` and `Scheduler`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from redline import audio, files, formats
from redline.audio import AudioOptions, BlockReader
from redline.cluster.ledger import ATTEMPTS, Ledger, RowResult
from redline.cluster.source import Shard, SourceRecording
from redline.cluster.store import RemoteFile, UnreadableError, local_path
from redline.engine.recording_plan import RecordingPlan
from redline.errors import AudioError, DataError, RecognitionError, RedlineError, UnsupportedTaskError
from redline.transcriber import Transcriber
from redline.types import Transcript

Scorer = Callable[[str, str, str | None], tuple[int, int]]
"""Reference, text and language -> words of the reference, and word errors."""
_HASH_BYTES = 1 << 20


@dataclass(frozen=True)
class PlanBook:
    """The plan of every recording of a run: as the options say, in the language that its row says, if it says one."""

    usual: RecordingPlan
    by_language: Mapping[str, RecordingPlan | str]
    """Where a row says a language: its plan, or why there is none."""

    @classmethod
    def of(cls, transcriber: Transcriber, **options: object) -> PlanBook:
        """Raises `UnsupportedTaskError` for what the model cannot do."""
        usual = transcriber.plan(**options)  # type: ignore[arg-type]
        plans: dict[str, RecordingPlan | str] = {}
        for language in transcriber.languages:
            try:
                plans[language] = transcriber.plan(**{**options, "language": language})  # type: ignore[arg-type]
            except RedlineError as error:
                plans[language] = str(error)
        return cls(usual, plans)

    def plan(self, recording: SourceRecording) -> RecordingPlan:
        """Raises `UnsupportedTaskError` where its language is not the model's."""
        if recording.language is None:
            return self.usual
        plan = self.by_language.get(recording.language)
        if plan is None:
            known = ", ".join(self.by_language)
            message = f"the source says language {recording.language}; {self.usual.model} knows {known}"
            raise UnsupportedTaskError(message)
        if isinstance(plan, str):
            raise UnsupportedTaskError(plan)
        return plan


@dataclass(frozen=True)
class OpenedRecording:
    """A recording that can be decoded, and the id of its transcript."""

    reader: BlockReader
    id: str
    size: int
    """Bytes that were read."""


def open_recording(recording: SourceRecording, options: AudioOptions) -> OpenedRecording:
    """Read a recording, and begin to decode it.

    Raises `AudioError` and `DataError` for what will fail again, and `UnreadableError` where reading failed.
    """
    if recording.problem is not None:
        raise DataError(recording.problem)
    if recording.is_part:
        options = replace(options, parts=((recording.start, math.inf if recording.end is None else recording.end),))
    path = local_path(recording.audio)
    if path is not None:
        reader = audio.open_blocks(path, options=options)
        try:
            digest, size = _hash_of(path)
        except BaseException:
            reader.close()
            raise
        return OpenedRecording(reader, transcript_id(digest, recording), size)
    file = HashedFile(recording.audio)
    try:
        reader = audio.open_blocks(file, options=options)  # type: ignore[arg-type] # all it needs is `read`
    except AudioError as error:
        raise (file.remote.problem or error) from error
    finally:
        file.remote.close()
    return OpenedRecording(reader, transcript_id(file.digest, recording), file.size)


class HashedFile:
    """A remote file that is hashed while it is read."""

    def __init__(self, address: str) -> None:
        self.name, self.remote, self.size = address, RemoteFile(address), 0
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.remote.read(size)
        self._hash.update(data)
        self.size += len(data)
        return data

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def _hash_of(path: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(_HASH_BYTES):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise UnreadableError(files.describe_os_error(error)) from error
    return digest.hexdigest(), size


def transcript_id(digest: str, recording: SourceRecording) -> str:
    """The hash of a content, the part that is meant, and the language where the source tells it."""
    id = digest[:32]
    if recording.is_part:
        id += f"@{recording.start:.6f}-" + ("" if recording.end is None else f"{recording.end:.6f}")
    return id + (f".{recording.language}" if recording.language else "")


def render(transcript: Transcript) -> bytes:
    """The JSON of a transcript, as `redline transcribe --format json` writes it."""
    rendered = formats.render_transcript(transcript, "json")
    assert isinstance(rendered, str)
    return files.encoded(rendered)


def result_of(recording: SourceRecording, id: str, data: bytes, scorer: Scorer | None) -> RowResult:
    """What a transcript that is written says about its recording; raises `DataError` for what is none."""
    try:
        values = json.loads(data)
        text, duration, language = str(values["text"]), float(values["duration"]), values["language"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{id}.json is no transcript: {error}") from error
    words = errors = None
    if recording.text is not None and scorer is not None:
        words, errors = scorer(recording.text, text, recording.language or language)
    return RowResult(recording.row, recording.audio, id, duration, words=words, errors=errors)


def known_transcript(ledger: Ledger, shard: Shard, id: str) -> bytes | None:
    """The transcript of a content, where it is there and can be read."""
    data = ledger.transcript(shard, id)
    try:
        return data if data is None or "segments" in json.loads(data) else None
    except (TypeError, ValueError, RecursionError):
        return None


def failure_of(recording: SourceRecording, error: Exception | str, attempts: int, id: str | None = None) -> RowResult:
    """A recording that failed for the `attempts`-th time; one that is itself to blame is not tried again."""
    again = isinstance(error, UnreadableError | RecognitionError) and attempts < ATTEMPTS
    reason = " ".join(str(error).split()) or type(error).__name__
    return RowResult(recording.row, recording.audio, id, reason=reason, attempts=attempts, is_final=not again)


def process_cpu_s() -> float:
    """CPU seconds of this process and of the workers that it has started; on systems without /proc those that ended."""
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime + _living_children_s()


def children_cpu_s() -> float:
    """The part of `process_cpu_s` that the workers have used."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime + _living_children_s()


def _living_children_s() -> float:
    ticks = 0
    with suppress(OSError, ValueError, IndexError):
        tick_s = os.sysconf("SC_CLK_TCK")
        for task in Path("/proc/self/task").iterdir():
            for child in (task / "children").read_text().split():
                with suppress(OSError, ValueError, IndexError):
                    fields = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / tick_s
    return 0.0


class StageClock:
    """Seconds that a stage took in all: `with watch: ...`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds, self._clock, self._began = 0.0, clock, 0.0

    def __enter__(self) -> None:
        self._began = self._clock()

    def __exit__(self, *_: object) -> None:
        self.seconds += self._clock() - self._began
