"""`redline batch`: an archive of recordings -> transcripts in a folder or bucket, on one machine or many."""

from __future__ import annotations

import math
import re
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.progress import BarColumn, TextColumn

import redline
from redline.cli import console, show
from redline.cli.recording_options import (
    AudioTrack,
    Channel,
    LongestWindow,
    MinSilence,
    Pad,
    Quiet,
    VadThreshold,
)
from redline.cli.speaker_options import Speakers, speaker_count_of
from redline.cli.stopping import Stopper
from redline.cli.train import (
    Device,
    DraftLm,
    EncoderEngine,
    ModelEffort,
    ModelName,
    Precision,
    Punctuate,
    Threads,
)
from redline.cli.transcribe import _DRAFTS, _DRAFTS_HELP, ALL_DONE, NOTHING_DONE, SOME_FAILED, arguments_of, keywords_of
from redline.engine import start
from redline.errors import RedlineError, packages_of
from redline.types import TaskName, listed

if TYPE_CHECKING:
    from redline.cluster.ledger import Ledger, RunSettings
    from redline.cluster.progress import ShardShare, Tally
    from redline.cluster.ray_start import RayOptions
    from redline.cluster.report import BatchReport
    from redline.cluster.source import Source

MOST_FAILURES = 20
"""Failures that are printed; all are in DEST/failed."""
_SOURCE_HELP = """A folder or bucket of recordings, a manifest (jsonl, parquet) or a list of addresses (txt): a path,
s3://, gs:// or https://."""
_OUT_HELP = "Folder or bucket (s3://, gs://) of the transcripts; the same command goes on from what is there."
_SHARD_HELP = "Without Ray, in this process: every n-th shard, from the i-th on; 1/1 is all. For Slurm arrays and cron."
_RAY_HELP = "Join a Ray cluster: host:port, auto, or ray://host:port; default: start Ray on this machine."
_LINE_S = 60.0
_OPERATIONAL = (
    *("source", "out", "write", "shard", "ray", "shard_size", "retry_failed", "price", "quiet", "threads", "debug"),
    *("workers", "decoders"),
)
"""Parameters that change no transcript."""


def batch(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help=_SOURCE_HELP)],
    out: Annotated[str, typer.Option("--out", metavar="DEST", help=_OUT_HELP)],
    model: ModelName = "tiny",
    revision: Annotated[str | None, typer.Option(help="Revision of a hub id.")] = None,
    shard: Annotated[str | None, typer.Option(metavar="i/n", help=_SHARD_HELP)] = None,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help=_RAY_HELP)] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="With Ray: processes that recognize; default: one per GPU or machine.")
    ] = None,
    decoders: Annotated[
        int | None, typer.Option(min=1, help="With Ray: CPUs that read and decode; default: as many as the rates ask.")
    ] = None,
    write: Annotated[str, typer.Option(help="json: one a recording; parquet: one a shard; or both.")] = "json",
    shard_size: Annotated[int, typer.Option(min=1, help="Recordings that are taken for done together.")] = 64,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again also what was given up after three attempts.")
    ] = False,
    price: Annotated[
        float | None, typer.Option(min=0, help="Of a machine and hour, to tell what the run costs.")
    ] = None,
    language: Annotated[str | None, typer.Option(help="Spoken, where the manifest tells none.")] = None,
    task: Annotated[
        str, typer.Option(callback=console.choice_of(*get_args(TaskName)), help="transcribe, or translate --to.")
    ] = "transcribe",
    target_language: Annotated[str | None, typer.Option("--to", help="Language to translate into.")] = None,
    speakers: Speakers = None,
    words: Annotated[bool, typer.Option("--word-timestamps", help="Start and end of each word.")] = False,
    keywords: Annotated[
        str | None, typer.Option(help="Names and terms: a file with one a line, or a, b, c; a => how it is said :2.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="An instruction in place of the model's own.")] = None,
    beams: Annotated[int, typer.Option(min=1, help="Hypotheses of beam search; 1: greedy.")] = 1,
    drafts: Annotated[str, typer.Option(callback=console.choice_of(*_DRAFTS), help=_DRAFTS_HELP)] = "own",
    effort: ModelEffort = "full",
    engine: EncoderEngine = "auto",
    dtype: Precision = None,
    draft_lm: DraftLm = "own",
    device: Device = None,
    threads: Threads = None,
    channel: Channel = None,
    track: AudioTrack = None,
    vad: Annotated[bool, typer.Option(help="Voice activity detection: leave out what is not speech.")] = True,
    vad_threshold: VadThreshold = None,
    min_silence_s: MinSilence = None,
    pad_s: Pad = None,
    window_s: LongestWindow = None,
    digits: Annotated[bool, typer.Option("--digits", help="Inverse text normalisation: twenty three is 23.")] = False,
    punctuate: Punctuate = True,
    quiet: Quiet = False,
) -> None:
    """Transcribe an archive, on this machine or many; killed at any moment, the same command goes on.

    DEST says what is done: run.json the model and the options, shards/ each recording with its transcript or why it has
    none, report.json what the run came to (docs/cluster.md).

    Exit status: 0 when all went well, 1 when some recordings failed, 2 when nothing was produced, 130 when it was
    interrupted.
    """
    if (task == "translate") != (target_language is not None):
        message = "translate needs --to, the language to translate into, and --to needs translate"
        raise typer.BadParameter(message, param_hint="--task")
    if shard is not None and ray is not None:
        raise typer.BadParameter("--shard works without Ray; leave one of them out", param_hint="--shard --ray")
    if shard is not None and (workers or decoders):
        message = "--shard works in one process; leave them out, or --shard"
        raise typer.BadParameter(message, param_hint="--workers --decoders")
    share = _share_of(shard)
    start.open_libraries()
    with start.recognizing_only():
        from redline.audio import AudioOptions
        from redline.cluster.ledger import Ledger
        from redline.cluster.report import REPORT
        from redline.cluster.source import Source
        from redline.cluster.store import open_store

    notes = console.Notes()
    own: dict[str, Any] = {
        "words": words,
        "speakers": speaker_count_of(speakers),
        "keywords": keywords_of(keywords),
        "audio_options": AudioOptions(channel, track),
    }
    detection = (vad, vad_threshold, min_silence_s, pad_s, window_s)
    ledger = Ledger(open_store(out), _settings(context, write, shard_size, own["keywords"]))
    recordings = Source(source)
    loading = partial(redline.load_model, model, **arguments_of(redline.load_model, context))
    asked = _Asked(arguments_of(_transcribe_each(), context) | own, detection)
    with Stopper() as stopper, Watching(notes, price, enabled=not quiet) as watching:
        try:
            if share is not None:
                report = _run_here(ledger, recordings, loading, asked, share, watching, retry_failed, price)
            else:
                options = _ray_options(ray, workers, decoders, device, threads)
                report = _run_on_ray(ledger, recordings, loading, asked, options, watching, retry_failed, price)
        except KeyboardInterrupt:
            notes.say(f"interrupted; what is done is in {out}, and the same command goes on", "yellow")
            raise typer.Exit(stopper.status) from None
    name = REPORT if share is None or share.count == 1 else f"report-{share.index}-of-{share.count}.json"
    if report.recognized or report.failed or not ledger.store.exists(name):  # else it has the rates of the run before
        ledger.store.write(name, report.render())
    _tell(notes, report, f"{out.rstrip('/')}/{name}", quiet=quiet)
    raise typer.Exit((SOME_FAILED if report.done else NOTHING_DONE) if report.failed else ALL_DONE)


class _Asked:
    """The options of the recordings, of which those about detection need the model's own."""

    def __init__(self, options: dict[str, Any], detection: tuple[Any, ...]) -> None:
        self._options, self._detection = options, detection

    def __call__(self, transcriber: Any) -> dict[str, Any]:
        if all(value is None for value in self._detection[1:]):
            return self._options
        from redline.cli.detection import session_options

        return self._options | {"session_options": session_options(transcriber.options, *self._detection)}


def _transcribe_each() -> Any:
    with start.recognizing_only():
        from redline.transcriber import Transcriber
    return Transcriber.transcribe_each


def _share_of(text: str | None) -> ShardShare | None:
    """Which shards are this process's; raises `BadParameter` for what is no share."""
    if text is None:
        return None
    from redline.cluster.progress import ShardShare

    if (found := re.fullmatch(r"(\d+)/(\d+)", text)) is None:
        raise typer.BadParameter(f"{text!r}; allowed is i/n, such as 1/1 or 3/16", param_hint="--shard")
    try:
        return ShardShare(int(found[1]), int(found[2]))
    except RedlineError as error:
        raise typer.BadParameter(str(error), param_hint="--shard") from error


def _settings(context: typer.Context, write: str, shard_size: int, keywords: list[str]) -> RunSettings:
    with start.recognizing_only():
        from redline.checkpoints.folder import resolve
        from redline.cluster.ledger import RunSettings
        from redline.engine.int8 import kernel
        from redline.files import file_hash, folder_hash
        from redline.load import pick_device, pick_precision

    given = {name: value for name, value in context.params.items() if name not in _OPERATIONAL}
    model, folder = given.pop("model"), resolve(context.params["model"], given["revision"])
    draft_lm, place = Path(given["draft_lm"]), pick_device(given["device"])
    precision = str(pick_precision(folder, given["dtype"], place, given["effort"])).removeprefix("torch.")
    given |= {
        "keywords": keywords or None,
        "device": place.type,
        "dtype": f"int8 ({kernel()})" if precision == "int8" else precision,  # other machines may have another default
        "draft_lm": file_hash(draft_lm) if draft_lm.is_file() else str(draft_lm),
    }
    options = {name: value for name, value in given.items() if value is not None}
    outputs = tuple(dict.fromkeys(name.lower() for name in listed(write)))
    return RunSettings(model, folder_hash(folder)[:16], options, shard_size, outputs, redline.__version__)


def _run_here(
    ledger: Ledger,
    source: Source,
    loading: Any,
    asked: _Asked,
    share: ShardShare,
    watching: Watching,
    retry_failed: bool,
    price: float | None,
) -> BatchReport:
    from redline.audio import isolation
    from redline.cluster.local import LocalRun
    from redline.cluster.stages import PlanBook

    began = time.monotonic()
    ledger.open()  # another run is refused before the model is loaded
    isolation.prepare()
    watching.wait_for("loading the model")
    with start.recognizing_only():
        transcriber = loading()
    plans = PlanBook.of(transcriber, **asked(transcriber))
    run = LocalRun(
        ledger, source, transcriber, plans, share,
        scorer=_scorer(), retry_failed=retry_failed, on_progress=watching.advance_to,
    )  # fmt: skip
    run.tally.began = began
    return run.run(price=price)


def _ray_options(
    address: str | None, workers: int | None, decoders: int | None, device: str | None, threads: int | None
) -> RayOptions:
    from redline.cluster.ray_start import RayOptions

    on_gpus = None if device in (None, "auto") else str(device).startswith("cuda")
    return RayOptions(address, workers, threads, decoders, on_gpus)


def _run_on_ray(
    ledger: Ledger,
    source: Source,
    loading: Any,
    asked: _Asked,
    options: RayOptions,
    watching: Watching,
    retry_failed: bool,
    price: float | None,
) -> BatchReport:
    from redline.cluster.ray_run import RayRun
    from redline.cluster.ray_start import start_ray

    began = time.monotonic()
    ledger.open()
    watching.wait_for("starting Ray" if options.address is None else f"joining Ray at {options.address}")
    if (dashboard := start_ray(options)) is not None:
        watching.say(f"Ray's dashboard: {dashboard}")
    watching.wait_for("loading the model, measuring how fast this machine is")
    run = RayRun(
        ledger, source, loading, asked, options,
        scorer=_scorer(), retry_failed=retry_failed, on_progress=watching.advance_to, say=watching.say,
    )  # fmt: skip
    run.tally.began = began
    return run.run(price=price)


def _scorer() -> Any:
    """What counts word errors where the source has references; None where its packages are not installed."""
    try:
        with packages_of("evaluate", "scoring"):
            import jiwer as _jiwer  # noqa: F401
            import whisper_normalizer as _normalizer  # noqa: F401
    except RedlineError:
        return None
    from redline.evaluate.metrics.wer import word_error_counts

    return word_error_counts


class Watching:
    """The progress of a run on standard error: recordings, hours, speed, time left, cost.

    A bar on a terminal; elsewhere, as in the log of a Slurm job, a line a minute.
    """

    def __init__(self, notes: console.Notes, price: float | None, *, enabled: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=18), TextColumn("{task.fields[state]}"))
        self._bar = console.progress(notes, *columns)
        self._bar.disable |= not enabled
        self._told = time.monotonic() if enabled and not notes.is_terminal else math.inf
        self._notes, self._is_quiet, self._price = notes, not enabled, price
        self._task = self._bar.add_task("transcribing", total=None, state="starting")

    def __enter__(self) -> Watching:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def wait_for(self, what: str) -> None:
        """What goes on before the first recording."""
        self._bar.update(self._task, state=what)
        if self._told < math.inf:
            self._notes.say(what, "dim")

    def say(self, line: str) -> None:
        if not self._is_quiet:
            self._notes.say(line, "dim")

    def advance_to(self, tally: Tally, machines: int = 1) -> None:
        """So much is done."""
        state = f"{(tally.audio_s + tally.settled_s) / 3600:.2f} h, {show.speed(tally.recognized_s, tally.wall_s)}"
        if (left := tally.left_s) is not None:
            state += f", {show.clock(left)} left"
            if self._price is not None:
                state += f", {self._price * machines * (tally.wall_s + left) / 3600:.2f} in all"
        done = tally.done + tally.failed + tally.settled
        description = f"transcribing {done}/{tally.recordings}"
        self._bar.update(self._task, description=description, completed=done, total=tally.recordings, state=state)
        if time.monotonic() - self._told >= _LINE_S:
            self._told = time.monotonic()
            self._notes.say(f"{description}, {state}", "dim")


def _tell(notes: console.Notes, report: BatchReport, where: str, *, quiet: bool) -> None:
    """The failures, and what the run came to in a table."""
    for failure in report.failures[:MOST_FAILURES]:
        console.complain(f"{failure.audio}: {failure.reason.removeprefix(f'{failure.audio}: ')}")
    if report.failed > MOST_FAILURES:
        console.complain(f"{report.failed - MOST_FAILURES} more failed; all are in {where.rsplit('/', 1)[0]}/failed")
    if quiet:
        return
    lines = [
        ("recordings", f"{report.done} of {report.recordings} have a transcript, {report.failed} failed"),
        ("audio", f"{report.audio_hours:.2f} h"),
        (
            "this run",
            f"{report.recognized} recordings, {report.recognized_hours:.2f} h in {show.length(report.wall_s)}",
        ),
    ]
    if report.recognized:
        per_machine = report.speed / report.machines
        lines.append(("speed", f"{report.speed:.1f} x real time, {per_machine:.1f} x per machine ({report.machines})"))
    if report.cost is not None:
        lines.append(("cost", f"{report.cost:.2f}"))
    if report.score is not None:
        score = report.score
        lines.append(("WER", f"{100 * score.wer:.2f} % of {score.words} words in {score.recordings} recordings"))
    width = max(len(name) for name, _ in lines)
    for name, line in (*lines, ("report", where)):
        notes.say(f"{name:{width}}  {line}", "dim")
