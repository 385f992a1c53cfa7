"""Everything that a server keeps, and what concerns several parts of it: completion, deletion, retention."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from redline.errors import RedlineError
from redline.serve.options import ServeOptions
from redline.serve.store.archive import Archive
from redline.serve.store.database import Database
from redline.serve.store.files import RecordingFolder
from redline.serve.store.jobs import JobQueue, QueueOptions, TranscriptionJob
from redline.serve.store.pipeline_runs import PipelineRuns
from redline.serve.store.uploads import UploadTable
from redline.types import Transcript

_DAY_S = 86_400.0
_LEFT_BEHIND_S = 3600.0  # a file that no row tells of may be one that is just coming in


class Store:
    """The database and the folder of recordings of a server. Blocks; safe to use from any thread."""

    def __init__(self, options: ServeOptions, now: Callable[[], float] = time.time) -> None:
        """Open what is there, or make it; raises `ConfigError` for a database that cannot be used."""
        self.options, self.now = options, now
        self.database = Database(options.database_url, options.data_dir)
        try:
            self.recordings = RecordingFolder(options.data_dir)
        except OSError as error:
            raise RedlineError(f"{options.data_dir}: cannot keep recordings: {error.strerror}") from error
        queue = QueueOptions(options.lease_s, options.job_attempts, options.max_queued_jobs)
        self.jobs = JobQueue(self.database, queue, now)
        self.uploads = UploadTable(self.database, options.upload_keep_s, now)
        self.archive = Archive(self.database, now)
        self.pipeline_runs = PipelineRuns(self.database, now)

    @property
    def data_dir(self) -> Path:
        return self.options.data_dir

    def complete(self, job: TranscriptionJob, transcript: Transcript, sha256: str | None) -> None:
        """A job is done: its transcript is in the archive, at once; raises `LeaseLostError` where it is not ours."""
        has_audio = self.options.keep_audio
        with self.database.write() as connection:
            self.jobs.finish(connection, job, transcript.duration)
            self.archive.add(
                connection, transcript, owner=job.owner, name=job.name, job_id=job.id, sha256=sha256,
                has_audio=has_audio,
            )  # fmt: skip
            if pipeline := job.options.get("pipeline"):
                self.pipeline_runs.add(connection, job.id, pipeline)
        if not has_audio:
            self.recordings.drop_audio(job.id)

    def keep(self, transcript: Transcript, *, owner: str, name: str, id: str | None = None) -> str:
        """Keep the transcript of a request, whose recording is not kept; returns its id."""
        with self.database.write() as connection:
            return self.archive.add(connection, transcript, owner=owner, name=name, id=id)

    def cancel(self, id: str) -> TranscriptionJob | None:
        """Cancel a job; its recording is gone."""
        job = self.jobs.cancel(id)
        if job is not None and job.state == "cancelled":
            self.recordings.drop_audio(id)
        return job

    def delete_transcript(self, id: str, owner: str | None) -> bool:
        """Delete a transcript, its job and its recording: no file holds a word of it. False where there is none."""
        entry = self.archive.get(id, owner)
        if entry is None:
            return False
        self._forget(id, entry.entry.job_id)
        self.database.scrub()
        return True

    def tidy(self) -> int:
        """Delete what is older than `retention_days`, expired uploads, files that nobody needs; gives their number."""
        removed = 0
        if self.options.retention_days is not None:
            until = self.now() - self.options.retention_days * _DAY_S
            for job_id in self.jobs.over_before(until):
                self._forget(self.archive.id_of_job(job_id), job_id)
                removed += 1
            for id in self.archive.requests_before(until):
                self._forget(id, None)
                removed += 1
            if removed:
                self.database.scrub()
        for id in self.uploads.expired(for_s=_DAY_S):  # so long they are told as expired
            self.uploads.forget(id)
            self.recordings.upload(id).unlink(missing_ok=True)
            removed += 1
        return removed + self.recordings.sweep(self._is_needed, _LEFT_BEHIND_S)

    def close(self) -> None:
        self.database.close()

    def _forget(self, id: str | None, job_id: str | None) -> None:
        with self.database.write() as connection:
            if id is not None:
                self.archive.delete(connection, id)
            if job_id is not None:
                self.jobs.delete(connection, job_id)
        if job_id is not None:
            self.recordings.drop_audio(job_id)

    def _is_needed(self, name: str) -> bool:
        if name.startswith("up_"):
            return self.uploads.get(name, None) is not None
        job = self.jobs.get(name)
        return job is not None and (not job.is_over or self.archive.keeps_audio_of(name))
