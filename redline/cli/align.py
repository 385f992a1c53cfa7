"""`redline align`: a recording and the text that is said in it -> subtitles and word times."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from redline.cli import console
from redline.cli.job import Job
from redline.cli.outputs import Outputs
from redline.cli.recording_options import AudioParts, AudioTrack, Channel, OutputDir, Overwrite, Quiet, SkipExisting
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
from redline.cli.train import Device, ModelName, Precision, Threads
from redline.cli.transcribe import NOTHING_DONE, SOME_FAILED, formats_of
from redline.errors import DataError, RedlineError


def align(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="A recording, or a folder of recordings with texts beside them.")],
    text: Annotated[
        Path | None, typer.Option(help="What is said in it: .txt, or captions (.srt, .vtt); default: beside it.")
    ] = None,
    model: ModelName = "tiny",
    language: Annotated[str | None, typer.Option(help="Language of the text; default: the model's first.")] = None,
    format: Annotated[str, typer.Option(help="srt, vtt, json, ctm, txt, tsv, ... or several with commas.")] = "srt",
    subtitles: Subtitles = None,
    max_line_width: LineWidth = None,
    max_line_count: LineCount = None,
    min_duration_s: MinDuration = None,
    max_duration_s: MaxDuration = None,
    max_cps: MaxCps = None,
    gap_s: Gap = None,
    highlight_words: HighlightWords = False,
    speaker_names: SpeakerNames = None,
    output_dir: OutputDir = None,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    channel: Channel = None,
    track: AudioTrack = None,
    parts: AudioParts = None,
    dtype: Precision = None,
    device: Device = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Find out when each word of a known text is said: subtitles of scripts, lyrics and court transcripts.

    The text stays as it is. Words that nobody says and speech that is not in the text are told as warnings, with their
    times; in json they are `warnings` of the codes "not-said" and "not-written". Times of captions are not believed.
    In a folder, talk.mp3 goes with talk.txt, talk.srt or talk.vtt.

    Exit status: 0 when all went well, 1 when a recording failed or most of its text was not heard, 2 when nothing was
    produced, 130 when it was interrupted.
    """
    formats = formats_of(format, speakers=True, words=True)
    style, names = style_of(context.params, formats), speaker_names_of(speaker_names, speakers=True)
    outputs = Outputs(formats, output_dir, overwrite, skip_existing, subtitles=style, speaker_names=names)
    from redline.audio import AudioOptions
    from redline.audio.parts import parse_parts
    from redline.cli.inputs import expand
    from redline.load import load_model
    from redline.prepare.align_recording import Aligner
    from redline.prepare.corpus import recordings_with_texts

    audio_options = AudioOptions(channel, track, parse_parts(parts) if parts else ())
    pairs = recordings_with_texts(source, text)
    inputs, problems, _ = expand([str(recording) for recording, _ in pairs])
    if problems:
        raise DataError("; ".join(problems))
    outputs.check(len(inputs))
    notes = console.Notes()
    job, misfits = Job(outputs, notes, quiet), 0
    try:
        with Stopper() as stopper:
            outputs.prepare()
            job.plan(inputs)
            if job.work:
                loaded = load_model(model, effort="draft", dtype=dtype, device=device, threads=threads)
                aligner = Aligner(loaded, {str(recording): own for recording, own in pairs}, language)
                job.run(aligner, {"audio_options": audio_options}, stopper)
                misfits = aligner.misfits
            elif job.skipped and not quiet:
                job.sum_up(0.0, 0.0)
    except KeyboardInterrupt:
        notes.say(f"interrupted; {job.done} of {len(inputs)} recordings are done", "yellow")
        raise typer.Exit(stopper.status) from None
    except (RedlineError, OSError) as error:
        raise console.refused(error, SOME_FAILED if job.done else NOTHING_DONE) from error
    if not (job.done or job.skipped):
        raise typer.Exit(NOTHING_DONE)
    if job.failed or misfits:
        raise typer.Exit(SOME_FAILED)
