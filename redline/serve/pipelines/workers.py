"""What runs pipelines and sends webhooks beside a server's requests."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from redline.errors import RedlineError
from redline.serve.api_errors import ApiError
from redline.serve.options import ServeOptions
from redline.serve.pipelines.pipeline import Pipeline, read_pipeline
from redline.serve.pipelines.run import PipelineResult, PipelineRunner
from redline.serve.pipelines.webhooks import WebhookQueue
from redline.serve.store.jobs import LeaseLostError
from redline.serve.store.pipeline_runs import LEASE_S, PipelineRun
from redline.serve.store.store import Store

_log = logging.getLogger(__name__)
_LOOK_S = 1.0


class PipelineWorkers:
    """The pipelines that a server offers, and the two tasks that run them and send their webhooks."""

    def __init__(self, store: Store, options: ServeOptions) -> None:
        """Raises `ConfigError` for a file in the folder of pipelines that is none."""
        self.store = store
        self.webhooks = WebhookQueue(store.database)
        files = sorted(options.pipelines_dir.glob("*.toml")) if options.pipelines_dir else []
        self.pipelines: dict[str, Pipeline] = {path.stem: read_pipeline(path) for path in files}
        for name, pipeline in self.pipelines.items():
            for missing in pipeline.missing_secrets():
                _log.warning("pipeline %s: the environment variable %s is not set", name, missing)
        self._runner = PipelineRunner(self.webhooks)
        self._tasks: list[asyncio.Task[None]] = []

    def check(self, name: str | None) -> None:
        """Raises `ApiError` for a pipeline that is not offered."""
        if name is not None and name not in self.pipelines:
            offered = ", ".join(self.pipelines) or "none (start with --pipelines FOLDER)"
            raise ApiError(
                422, f"there is no pipeline {name!r}; offered are {offered}", code="invalid", param="pipeline"
            )

    def start(self) -> None:
        """Begin to run and to send."""
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._send())]

    async def stop(self) -> None:
        """End; a run in the middle of a step goes on where its lease expires."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            run = await _logged(asyncio.to_thread(self.store.pipeline_runs.lease))
            if run is None:
                await asyncio.sleep(_LOOK_S)
                continue
            # A thread that ends with the process: a language model may take minutes, and a stop should not.
            ended = asyncio.Event()
            arguments = (run, asyncio.get_running_loop(), ended)
            threading.Thread(target=self._in_thread, args=arguments, name="redline-pipeline", daemon=True).start()
            while not ended.is_set():
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(ended.wait(), LEASE_S / 4)
                if not ended.is_set():
                    with suppress(LeaseLostError):
                        await asyncio.to_thread(self.store.pipeline_runs.beat, run)

    def _in_thread(self, run: PipelineRun, loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
        try:
            self._execute(run)
        except LeaseLostError:
            _log.info("the pipeline behind job %s is no longer ours", run.job_id)
        except Exception as error:
            _log.exception("the pipeline behind job %s failed", run.job_id)
            what = f"an internal error ({type(error).__name__}); the server's log has it"
            outcome = PipelineResult(run.pipeline, errors={"pipeline": what})
            with suppress(Exception):  # where it cannot be written it is run again
                self.store.pipeline_runs.beat(run, outcome.to_dict(), "failed")
        finally:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(ended.set)

    def _execute(self, run: PipelineRun) -> None:
        runs, archive = self.store.pipeline_runs, self.store.archive
        transcript_id = archive.id_of_job(run.job_id)
        found = None if transcript_id is None else archive.get(transcript_id)
        pipeline = self.pipelines.get(run.pipeline)
        if found is None or pipeline is None:
            what = "the transcript was deleted" if found is None else f"the server offers no pipeline {run.pipeline}"
            outcome = PipelineResult(run.pipeline, errors={"pipeline": what})
        else:
            begun = None if run.outcome is None else PipelineResult(**run.outcome)
            about = {
                "source": found.entry.name,
                "id": transcript_id,
                "job_id": run.job_id,
                "url": f"/v1/transcripts/{transcript_id}",
            }
            outcome = self._runner.run(
                pipeline, found.transcript, about, begun=begun, keep=lambda so_far: runs.beat(run, so_far.to_dict())
            )
        runs.beat(run, outcome.to_dict(), "failed" if outcome.failed else "done")

    async def _send(self) -> None:
        while True:
            await _logged(asyncio.to_thread(self.webhooks.deliver_due))
            await asyncio.sleep(_LOOK_S)


async def _logged(work: Any) -> Any:
    """What comes of it; None, and a line in the log, where it fails."""
    try:
        return await work
    except Exception:
        _log.exception("the database could not be asked")
        return None


@asynccontextmanager
async def pipeline_workers(state: Any) -> AsyncIterator[None]:
    """The pipelines of a server, beside the doors and behind its jobs."""
    try:
        state.pipelines = workers = PipelineWorkers(state.store, state.options)
    except RedlineError:
        _log.exception("the pipelines cannot be read")
        raise
    workers.start()
    try:
        yield
    finally:
        await workers.stop()
