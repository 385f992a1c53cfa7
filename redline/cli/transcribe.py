"""`redline transcribe`: recordings -> text on standard output, or files in a folder."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
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
    MinSilence,
    OutputDir,
    Overwrite,
    Pad,
    Quiet,
    SkipExisting,
    VadThreshold,
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
    from redline.longform.session import SessionOptions

ALL_DONE, SOME_FAILED, NOTHING_DONE = 0, 1, 2
_DRAFTS = ("own", "exact", "fast", "trust", "none")
_FORMAT_HELP = f"""{", ".join(TRANSCRIPT_FORMATS)}, several with commas, or all that can be filled with what is asked
for (rttm with --speakers). Default: txt, or ctm with --word-timestamps."""
_DRAFTS_HELP = """Speculative decoding: the CTC draft is verified (exact, fast), is the text (trust), or is not written
(none). own: as suits the model."""
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
    language: Annotated[str | None, typer.Option(help="Spoken: en, English, en-US; default: auto, identified.")] = None,
    task: Annotated[
        str, typer.Option(callback=console.choice_of(*get_args(TaskName)), help="transcribe, or translate --to.")
    ] = "transcribe",
    target_language: Annotated[str | None, typer.Option("--to", help="Language to translate into.")] = None,
    speakers: Annotated[bool, typer.Option("--speakers", help="Diarization: who speaks, turn by turn.")] = False,
    words: Annotated[bool, typer.Option("--word-timestamps", help="Start and end of each word.")] = False,
    keywords: Annotated[str | None, typer.Option(help="Names and terms: a file with one a line, or a, b, c.")] = None,
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
    track: AudioTrack = None,
    parts: AudioParts = None,
    vad: Annotated[bool, typer.Option(help="Voice activity detection: leave out what is not speech.")] = True,
    vad_threshold: VadThreshold = None,
    min_silence_s: MinSilence = None,
    pad_s: Pad = None,
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
    finished NAME.FORMAT.partial.

    Exit status: 0 when all went well, 1 when some recordings failed, 2 when nothing was produced, 130 when it was
    interrupted.
    """
    if (task == "translate") != (target_language is not None):
        message = "translate needs --to, the language to translate into, and --to needs translate"
        raise typer.BadParameter(message, param_hint="--task")
    formats = formats_of(format or ("ctm" if words else "txt"), speakers=speakers, words=task != "translate")
    outputs = Outputs(
        formats,
        output_dir,
        overwrite,
        skip_existing,
        show_edits,
        style_of(context.params, formats),
        speaker_names_of(speaker_names, speakers=_asks_for_speakers(speakers, formats)),
    )
    start.open_libraries()
    from redline.audio import AudioOptions, isolation  # and numpy, meanwhile
    from redline.audio.parts import parse_parts
    from redline.cli.inputs import expand

    audio_options = AudioOptions(channel, track, parse_parts(parts) if parts else ())
    detection = {"--vad-threshold": vad_threshold, "--min-silence": min_silence_s, "--pad": pad_s}
    given = [name for name, value in detection.items() if value is not None]
    if given and not vad:
        raise typer.BadParameter("speech is not detected with --no-vad; leave that out", param_hint=" ".join(given))
    if given:  # what cannot be is refused before anything is made
        from redline.longform.session import SessionOptions

        _detecting(SessionOptions(), *detection.values())
    inputs, problems, left_out = expand(files)
    outputs.check(len(inputs))
    notes = console.Notes()
    for note in left_out:
        notes.say(note, "dim")
    for problem in problems:
        console.complain(problem)
    if not inputs:
        raise typer.Exit(NOTHING_DONE)
    job = Job(outputs, notes, quiet)
    try:
        with Stopper() as stopper:
            outputs.prepare()
            job.plan(inputs)
            if job.work:
                isolation.prepare()
                own = {
                    "words": words or any(TRANSCRIPT_FORMATS[name].needs_words for name in formats),
                    "speakers": _asks_for_speakers(speakers, formats),
                    "keywords": keywords_of(keywords),
                    "audio_options": audio_options,
                }
                with start.recognizing_only():  # from here on it takes seconds
                    loaded = redline.load_model(model, **arguments_of(redline.load_model, context))
                if given:
                    own["session_options"] = _detecting(loaded.options, *detection.values())
                job.run(loaded, arguments_of(loaded.transcribe_each, context) | own, stopper)
            elif job.skipped and not quiet:
                job.sum_up(0.0, 0.0)
    except BrokenPipeError:
        raise
    except (RedlineError, OSError) as error:
        raise console.refused(error, SOME_FAILED if job.done else NOTHING_DONE) from error
    except KeyboardInterrupt:
        where = f"; their files are in {output_dir}" if job.done and output_dir is not None else ""
        notes.say(f"interrupted; {job.done} of {len(inputs)} recordings are done{where}", "yellow")
        raise typer.Exit(stopper.status) from None
    if not (job.done or job.skipped):
        raise typer.Exit(NOTHING_DONE)
    raise typer.Exit(SOME_FAILED if problems or job.failed else ALL_DONE)


def _detecting(
    options: SessionOptions, threshold: float | None, min_silence_s: float | None, pad_s: float | None
) -> SessionOptions:
    """How speech is found and cut, with what is given; raises `ConfigError` for what cannot be."""
    vad, window = options.vad, options.window
    if vad is not None and threshold is not None:  # speech ends at the same share of it as ever
        vad = replace(vad, onset=threshold, offset=threshold * vad.offset / vad.onset)
    if vad is not None and min_silence_s is not None:
        vad = replace(vad, min_silence_s=min_silence_s)
    return replace(options, vad=vad, window=window if pad_s is None else replace(window, pad_s=pad_s))


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
