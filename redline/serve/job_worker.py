"""Workers of jobs: lease, recognize behind everybody who waits, keep the result; and give back what is not finished."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import httpx

from redline.engine.scheduler import JOBS
from redline.errors import RedlineError
from redline.files import sha256_of
from redline.serve.api_errors import ApiError, api_error_of
from redline.serve.health import VERSION
from redline.serve.job_options import transcribe_arguments
from redline.serve.options import ServeOptions
from redline.serve.outgoing import RefusedAddressError, guarded_client
from redline.serve.service import RecognitionService
from redline.serve.store.answers import JobAnswers
from redline.serve.store.jobs import LeaseLostError, TranscriptionJob
from redline.serve.store.store import Store

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_LOOK_S = 1.0  # how often is looked for jobs that other servers took, or left
_BEAT_S = 1.0
_TIDY_S = 600.0
_MOST_THREADS = 4


class JobWorkers:
    """The workers of one server."""

    def __init__(self, service: RecognitionService, store: Store, options: ServeOptions) -> None:
        self._service, self._store, self._options = service, store, options
        self._name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._stops = False
        self._called = asyncio.Event()
        self._held: set[str] = set()  # ids of jobs that are in work here
        self._in_work: set[asyncio.Task[Any]] = set()
        # Not the threads of others, who fetch recordings for minutes: a heartbeat that waits for them loses its lease.
        self._threads = ThreadPoolExecutor(_MOST_THREADS, "redline-jobs")
        self._tasks = [asyncio.create_task(self._work()) for _ in range(options.job_slots)]
        self._tasks.append(asyncio.create_task(self._tidy()))

    def call(self) -> None:
        """There is a new job."""
        self._called.set()

    async def stop(self) -> None:
        """Take no job more and give back those in work, with the windows that are done."""
        self._stops = True
        self._called.set()
        for task in self._in_work:
            task.cancel()
        self._tasks[-1].cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False)

    async def _in_thread(self, function: Callable[[], _T]) -> _T:
        """What asks the database, in a thread of the workers'."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def _work(self) -> None:
        while not self._stops:
            try:
                job = await self._in_thread(lambda: self._store.jobs.lease(self._name, self._held))
            except Exception:
                _log.exception("no job could be leased")
                job = None
            if job is None:
                self._called.clear()
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._called.wait(), _LOOK_S)
                continue
            self._held.add(job.id)
            try:
                await self._do(job)
            except LeaseLostError:
                _log.info("job %s is no longer ours", job.id)
            except Exception:
                _log.exception("job %s: its end could not be written; it is leased again later", job.id)
            finally:
                self._held.discard(job.id)

    async def _do(self, job: TranscriptionJob) -> None:
        """One attempt at a job; raises `LeaseLostError`."""
        jobs = self._store.jobs
        model = self._service.model
        answers = await self._in_thread(
            lambda: JobAnswers(jobs.answers(job.id), f"{model.name} {model.identity()} {VERSION}")
        )
        reached = [job.done_s, job.known_s]

        def progress(done_s: float, known_s: float) -> None:
            reached[:] = done_s, known_s

        async def beat() -> None:
            """Returns when the lease is lost."""
            beat_at = time.monotonic()
            while time.monotonic() < beat_at + self._options.lease_s:
                await asyncio.sleep(min(_BEAT_S, self._options.lease_s / 4))
                try:
                    await self._beat(job, reached, answers)
                    beat_at = time.monotonic()
                except LeaseLostError:
                    return
                except Exception:
                    _log.exception("job %s: no heartbeat could be written", job.id)

        work = asyncio.create_task(self._transcript(job, answers, progress))
        beats = asyncio.create_task(beat())
        self._in_work.add(work)
        if self._stops:
            work.cancel()
        try:
            await asyncio.wait([work, beats], return_when=asyncio.FIRST_COMPLETED)
            lost = not work.done()
            if lost:
                work.cancel()
            await asyncio.wait([work])
        finally:
            self._in_work.discard(work)
            beats.cancel()
            await asyncio.gather(beats, return_exceptions=True)
        if lost:
            await asyncio.gather(work, return_exceptions=True)
            raise LeaseLostError
        await self._end(job, work, answers, reached)

    async def _end(
        self, job: TranscriptionJob, work: asyncio.Task[Any], answers: JobAnswers, reached: list[float]
    ) -> None:
        jobs = self._store.jobs

        async def give_back() -> None:
            await self._beat(job, reached, answers)
            await self._in_thread(lambda: jobs.give_back(job))

        async def fail(code: str, message: str, *, again: bool = False) -> None:
            if await self._in_thread(lambda: jobs.fail(job, code, message, again=again)) == "failed":
                self._store.recordings.drop_audio(job.id)

        try:
            transcript, sha256 = work.result()
        except asyncio.CancelledError:
            await give_back()
        except _FetchError as error:
            await fail(error.code, str(error), again=error.again)
        except ApiError as error:
            if error.status in (429, 503):  # full, or about to stop: nothing is wrong with the job
                await give_back()
                await asyncio.sleep(0 if self._stops else _LOOK_S)
            else:
                await fail(error.code or "failed", error.message, again=error.status == 504)
        except RedlineError as error:
            path = str(self._store.recordings.audio(job.id))  # nobody else's business
            await fail(api_error_of(error).code or "failed", str(error).replace(path, job.name))
        except Exception:
            _log.exception("job %s failed", job.id)
            await fail("internal_error", "an internal error; the server's log has it", again=True)
        else:
            await self._in_thread(lambda: self._store.complete(job, transcript, sha256))

    async def _beat(self, job: TranscriptionJob, reached: list[float], answers: JobAnswers) -> None:
        """Renew a lease, with the progress and the answers that are new; raises `LeaseLostError`."""

        def beat() -> None:
            with answers.taken() as new:
                self._store.jobs.beat(job, reached[0], reached[1], new)

        await self._in_thread(beat)

    async def _transcript(
        self, job: TranscriptionJob, answers: JobAnswers, progress: Callable[[float, float], None]
    ) -> Any:
        """The transcript of a job's recording, and the SHA-256 of that."""
        path, sha256 = self._store.recordings.audio(job.id), job.sha256
        if job.url is not None and not path.exists():
            sha256 = await self._fetched(job, path)
        arguments = transcribe_arguments(job.options, self._service.model)
        transcript = await self._service.transcribe(
            path, caller=job.owner, priority=JOBS, progress=progress, answers=lambda _: answers, **arguments
        )
        return transcript, sha256

    async def _fetched(self, job: TranscriptionJob, path: Path) -> str:
        assert job.url is not None
        url, gone = job.url, False

        def fetch() -> str:
            with self._store.recordings.incoming() as incoming:
                fetch_recording(url, incoming, self._options, lambda: gone)
                digest = sha256_of(incoming)
                self._store.jobs.fetched(job, digest, name_of_url(url))
                self._store.recordings.keep(incoming, job.id)
            return digest

        try:
            return await asyncio.to_thread(fetch)
        finally:
            gone = True

    async def _tidy(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._store.tidy)
            except Exception:
                _log.exception("what is no longer needed could not be deleted")
            await asyncio.sleep(_TIDY_S)


class _FetchError(RedlineError):
    """A recording could not be fetched."""

    def __init__(self, code: str, message: str, *, again: bool = False) -> None:
        super().__init__(message)
        self.code, self.again = code, again


def check_url(url: str, options: ServeOptions) -> None:
    """Raises `ApiError` for a URL from which this server fetches nothing, before anything is looked up."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("http", "https"):
        raise ApiError(400, "url is no http:// or https:// URL with a host", code="invalid", param="url")
    allowed = {each.lower() for each in options.allow_url_hosts}
    if host not in allowed and "*" not in allowed:
        message = f"recordings are not fetched from {host}; whoever runs the server can allow it; or upload the file"
        raise ApiError(403, message, code="url_refused", param="url")


def fetch_recording(url: str, path: Path, options: ServeOptions, gone: Callable[[], bool]) -> None:
    """Load a recording into a file, within the bounds of uploads; raises a `RedlineError` with a code."""
    private = [host for host in options.allow_url_hosts if host != "*"]
    began, taken = time.monotonic(), 0
    try:
        with (
            guarded_client(url, allow_hosts=private, timeout_s=options.idle_s) as client,
            client.stream("GET", url) as reply,
        ):
            if reply.status_code != 200:
                again = reply.status_code in (408, 429) or reply.status_code >= 500
                outcome = "a redirect, which is not followed" if reply.is_redirect else f"status {reply.status_code}"
                raise _FetchError("url_failed", f"the recording's host answered with {outcome}", again=again)
            with path.open("wb") as file:
                for piece in reply.iter_bytes(1 << 20):
                    taken += len(piece)
                    seconds = time.monotonic() - began
                    if taken > options.max_upload_bytes:
                        raise _FetchError(
                            "too_large", f"the recording has more than {options.max_upload_bytes:,} bytes"
                        )
                    if gone() or (seconds > options.idle_s and taken < seconds * options.least_bytes_per_s):
                        raise _FetchError("url_failed", "the recording's host sends too slowly", again=True)
                    file.write(piece)
    except RefusedAddressError as error:
        raise _FetchError("url_refused", str(error)) from error
    except httpx.HTTPError as error:
        message = f"the recording could not be fetched: {type(error).__name__}"
        raise _FetchError("url_failed", message, again=True) from error


def name_of_url(url: str) -> str:
    """What a recording of a URL is called."""
    return unquote(urlsplit(url).path).rsplit("/", 1)[-1] or urlsplit(url).netloc


@asynccontextmanager
async def job_workers(state: Any) -> AsyncIterator[None]:
    """The store of a server and its workers, beside the doors."""
    state.store = store = await asyncio.to_thread(Store, state.options)
    state.jobs = workers = JobWorkers(state.service, store, state.options)
    try:
        yield
    finally:
        await workers.stop()
        await asyncio.to_thread(store.close)
