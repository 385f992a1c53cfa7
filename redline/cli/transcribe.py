"""`redline transcribe`: recordings -> text on standard output, or files in a folder."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

import redline
from redline import files as file_system
from redline.cli import console
from redline.cli.job import Job
from redline.cli.outputs import Outputs
from redline.cli.recording_options import (
    AudioParts,
    AudioTrack,
    Channel,
    LongestWindow,
    MinSilence,
    OutputDir,
    Overwrite,
    Pad,
    Quiet,
    SkipExisting,
    VadThreshold,
)
from redline.cli.speaker_options import (
    Channels,
    SpeakerDb,
    Speakers,
    SpeakerSamples,
    channels_of,
    speaker_count_of,
    speaker_samples_of,
)
from redline.cli.stopping import Stopper
from redline.cli.subtitle_style import (
    Gap,
    HighlightWords,
    LineCount,
    LineWidth,
    MaxCps,
    MaxDuration,
    MinDuration,
    SpeakerNames,
    Subtitles,
    speaker_names_of,
    style_of,
)
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
from redline.engine import start
from redline.errors import RedlineError
from redline.formats import TRANSCRIPT_FORMATS
from redline.types import TaskName, listed

if TYPE_CHECKING:
    from redline.cli.inputs import Input
    from redline.cli.resuming import Resuming

ALL_DONE, SOME_FAILED, NOTHING_DONE = 0, 1, 2
LANGUAGE_HELP = "Spoken: en, English, en-US; several with commas: one of these; default: auto, identified."
_DRAFTS = ("own", "exact", "fast", "trust", "none")
_FORMAT_HELP = f"""{", ".join(TRANSCRIPT_FORMATS)}, several with commas, or all that can be filled with what is asked
for (rttm with --speakers). Default: txt, or ctm with --word-timestamps."""
_DRAFTS_HELP = """Speculative decoding: the CTC draft is verified (exact, fast), is the text (trust), or is not written
(none). own: as suits the model."""
_RESUME_HELP = """Go on where a run ended, however it did: what is done and has not changed is skipped, inside long
recordings too."""
_EDITS_HELP = "Print the draft as tracked changes instead of the text; in docx and md, too; in json, every edit."


def transcribe(
    context: typer.Context,
    files: Annotated[list[str], typer.Argument(help="Recordings, folders of them, patterns, or - for standard input.")],
    model: ModelName = "tiny",
    revision: Annotated[str | None, typer.Option(help="Revision of a hub id.")] = None,
    format: Annotated[str | None, typer.Option(help=_FORMAT_HELP)] = None,
    output_dir: OutputDir = None,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    resume: Annotated[bool, typer.Option("--resume", help=_RESUME_HELP)] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print the text while it runs, segment by segment.")] = False,
    language: Annotated[str | None, typer.Option(help=LANGUAGE_HELP)] = None,
    task: Annotated[
        str, typer.Option(callback=console.choice_of(*get_args(TaskName)), help="transcribe, or translate --to.")
    ] = "transcribe",
    target_language: Annotated[str | None, typer.Option("--to", help="Language to translate into.")] = None,
    speakers: Speakers = None,
    speaker_samples: SpeakerSamples = None,
    speaker_db: SpeakerDb = None,
    words: Annotated[bool, typer.Option("--word-timestamps", help="Start and end of each word.")] = False,
    keywords: Annotated[
        str | None, typer.Option(help="Names and terms: a file with one a line, or a, b, c; a => how it is said :2.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="An instruction in place of the model's own.")] = None,
    prefix: Annotated[str | None, typer.Option(help="Text of the beginning of the recording, to go on from.")] = None,
    beams: Annotated[int, typer.Option(min=1, help="Hypotheses of beam search; 1: greedy.")] = 1,
    drafts: Annotated[str, typer.Option(callback=console.choice_of(*_DRAFTS), help=_DRAFTS_HELP)] = "own",
    effort: ModelEffort = "full",
    engine: EncoderEngine = "auto",
    dtype: Precision = None,
    draft_lm: DraftLm = "own",
    device: Device = None,
    threads: Threads = None,
    show_edits: Annotated[bool, typer.Option("--show-edits", help=_EDITS_HELP)] = False,
    channel: Channel = None,
    channels: Channels = "mix",
    track: AudioTrack = None,
    parts: AudioParts = None,
    vad: Annotated[bool, typer.Option(help="Voice activity detection: leave out what is not speech.")] = True,
    vad_threshold: VadThreshold = None,
    min_silence_s: MinSilence = None,
    pad_s: Pad = None,
    window_s: LongestWindow = None,
    digits: Annotated[bool, typer.Option("--digits", help="Inverse text normalisation: twenty three is 23.")] = False,
    punctuate: Punctuate = True,
    subtitles: Subtitles = None,
    max_line_width: LineWidth = None,
    max_line_count: LineCount = None,
    min_duration_s: MinDuration = None,
    max_duration_s: MaxDuration = None,
    max_cps: MaxCps = None,
    gap_s: Gap = None,
    highlight_words: HighlightWords = False,
    speaker_names: SpeakerNames = None,
    quiet: Quiet = False,
) -> None:
    """Transcribe recordings of any length.

    Put -- before files whose names begin with a dash. Ctrl-C keeps what is done: finished files, and of one that is not
    finished NAME.FORMAT.partial. With --resume a run may even be killed, and the same command goes on.

    Exit status: 0 when all went well, 1 when some recordings failed, 2 when nothing was produced, 130 when it was
    interrupted.
    """
    if (task == "translate") != (target_language is not None):
        message = "translate needs --to, the language to translate into, and --to needs translate"
        raise typer.BadParameter(message, param_hint="--task")
    count = speaker_count_of(speakers)
    samples = speaker_samples_of(speaker_samples)
    channels, channel = channels_of(channels, channel)
    asks = bool(count) or bool(samples) or speaker_db is not None or channels == "split"
    formats = formats_of(format or ("ctm" if words else "txt"), speakers=asks, words=task != "translate")
    outputs = Outputs(
        formats,
        output_dir,
        overwrite,
        skip_existing,
        show_edits,
        style_of(context.params, formats),
        speaker_names_of(speaker_names, speakers=_asks_for_speakers(asks, formats)),
    )
    start.open_libraries()
    from redline.audio import AudioOptions, isolation  # and numpy, meanwhile
    from redline.audio.parts import parse_parts
    from redline.cli.inputs import expand

    audio_options = AudioOptions(channel, track, parse_parts(parts) if parts else ())
    detection = (vad, vad_threshold, min_silence_s, pad_s, window_s)
    is_detection_given = any(value is not None for value in detection[1:])
    if is_detection_given:  # what cannot be is refused before anything is made
        from redline.cli.detection import session_options

        session_options(None, *detection)
    inputs, problems, left_out = expand(files)
    outputs.check(len(inputs))
    notes = console.Notes()
    for note in left_out:
        notes.say(note, "dim")
    for problem in problems:
        console.complain(problem)
    if not inputs:
        raise typer.Exit(NOTHING_DONE)
    if resume:
        _check_resumable(outputs, inputs)
    if stream and formats[0] != "txt" and output_dir is None:
        raise typer.BadParameter(
            f"{formats[0]} cannot be streamed; take txt, or add --output-dir", param_hint="--stream"
        )
    if stream and channels == "split":
        raise typer.BadParameter("channels are interleaved once all are done; leave it out", param_hint="--stream")
    job = Job(outputs, notes, quiet, stream=stream)
    own: dict[str, Any] = {
        "words": words or any(TRANSCRIPT_FORMATS[name].needs_words for name in formats),
        "speakers": count or _asks_for_speakers(asks, formats),
        "speaker_samples": samples,
        "speaker_db": speaker_db,
        "channels": channels,
        "keywords": keywords_of(keywords),
        "audio_options": audio_options,
    }
    try:
        with Stopper() as stopper, ExitStack() as stack:
            outputs.prepare()
            if resume and output_dir is not None:
                job.resuming = _resuming(context, output_dir, formats, own["keywords"], samples, notes)
                stack.callback(job.resuming.journal.close)
            job.plan(inputs)
            if job.work:
                isolation.prepare()
                with start.recognizing_only():  # from here on it takes seconds
                    loaded = redline.load_model(model, **arguments_of(redline.load_model, context))
                if is_detection_given:
                    own["session_options"] = session_options(loaded.options, *detection)
                job.run(loaded, arguments_of(loaded.transcribe_each, context) | own, stopper)
                if speaker_db is not None and outputs.speaker_names and loaded.embedder is not None:
                    from redline.diarize.known import SpeakerDatabase

                    embedder = loaded.embedder()
                    names = outputs.speaker_names
                    SpeakerDatabase.open(speaker_db, embedder.digest, embedder.size).rename(names)
            elif (job.skipped or resume) and not quiet:
                job.sum_up(0.0, 0.0)
    except BrokenPipeError:
        raise
    except (RedlineError, OSError) as error:
        raise console.refused(error, SOME_FAILED if job.done else NOTHING_DONE) from error
    except KeyboardInterrupt:
        where = f"; their files are in {output_dir}" if job.done and output_dir is not None else ""
        where += "; the same command goes on" if resume else ""
        notes.say(f"interrupted; {job.done} of {len(inputs)} recordings are done{where}", "yellow")
        raise typer.Exit(stopper.status) from None
    if not (job.done or job.skipped):
        raise typer.Exit(NOTHING_DONE)
    raise typer.Exit(SOME_FAILED if problems or job.failed else ALL_DONE)


_NOT_IN_TEXTS = ("files", "output_dir", "overwrite", "skip_existing", "resume", "stream", "quiet", "threads", "debug")
"""Parameters that change no file."""


def _check_resumable(outputs: Outputs, inputs: Sequence[Input]) -> None:
    """Raise `typer.BadParameter` for what cannot be gone on with."""
    wrong = None
    if outputs.folder is None:
        wrong = "what is done is kept in a folder; add --output-dir"
    elif outputs.skip_existing:
        wrong = "what is there is judged by the journal; leave --skip-existing out"
    elif any(source.path is None for source in inputs):
        wrong = "standard input cannot be read again; give a file"
    if wrong:
        raise typer.BadParameter(wrong, param_hint="--resume")


def _resuming(
    context: typer.Context,
    folder: Path,
    formats: Sequence[str],
    keywords: Sequence[str],
    samples: Mapping[str, str],
    notes: console.Notes,
) -> Resuming:
    """The journal of a folder, opened, and what decides about the files that are to be written."""
    from redline.cli.journal import Journal, settings_of
    from redline.cli.resuming import Resuming
    from redline.files import file_hash

    journal = Journal(folder)
    try:
        with start.recognizing_only():
            from redline.checkpoints.folder import resolve
            from redline.load import pick_device
        given = {name: value for name, value in context.params.items() if name not in _NOT_IN_TEXTS}
        model, checkpoint = given.pop("model"), resolve(context.params["model"], given["revision"])
        draft_lm = Path(given["draft_lm"])
        given |= {
            "format": list(formats),
            "keywords": list(keywords),
            "device": pick_device(given["device"]).type,
            "draft_lm": file_hash(draft_lm) if draft_lm.is_file() else str(draft_lm),
            "speaker_samples": {name: file_hash(Path(path)) for name, path in samples.items()} or None,
        }
        settings = settings_of(model, checkpoint, {name: value for name, value in given.items() if value is not None})
        return Resuming(
            journal, settings, notes, with_timing=any(TRANSCRIPT_FORMATS[name].subtitles for name in formats)
        )
    except BaseException:
        journal.close()
        raise


def arguments_of(function: Callable[..., Any], context: typer.Context) -> dict[str, Any]:
    """The options of the command that are keyword arguments of a function, by their common names."""
    return {name: context.params[name] for name in inspect.signature(function).parameters if name in context.params}


def _asks_for_speakers(speakers: bool, formats: Sequence[str]) -> bool:
    return speakers or any(TRANSCRIPT_FORMATS[name].needs_speakers for name in formats)


def formats_of(text: str, *, speakers: bool, words: bool) -> list[str]:
    """The formats that are named; `all` is those that can be filled with what is asked for."""
    names = [name.lower().removeprefix(".") for name in listed(text)]
    unknown = [name for name in names if name not in (*TRANSCRIPT_FORMATS, "all")]
    if unknown or not names:
        allowed = ", ".join([*TRANSCRIPT_FORMATS, "all"])
        raise typer.BadParameter(f"{text!r}; allowed are {allowed}, separated by commas", param_hint="--format")
    if "all" in names:
        can_fill = (each for each in TRANSCRIPT_FORMATS.items() if words or not each[1].needs_words)
        names += [name for name, each in can_fill if speakers or not each.needs_speakers]
    return [name for name in dict.fromkeys(names) if name != "all"]


def keywords_of(text: str | None) -> list[str]:
    """The lines of a file, or the parts of a list with commas."""
    if text is None:
        return []
    try:
        is_file = Path(text).exists() and not Path(text).is_dir()
    except (OSError, ValueError):  # a long list is no file name
        is_file = False
    if is_file:
        try:
            return [line.strip() for line in file_system.read_utf8(text).splitlines() if line.strip()]
        except OSError as error:
            raise RedlineError(f"--keywords: {file_system.describe_os_error(error)}") from error
        except UnicodeDecodeError as error:
            raise RedlineError(f"{text}: a list of keywords is text in UTF-8, one a line ({error})") from error
    if "," not in text and ("/" in text or text.endswith(".txt")):
        raise RedlineError(f"{text}: no such file; --keywords takes a file with one a line, or a list with commas")
    return list(listed(text))
