"""`redline live`: speech while it is spoken, from a microphone or as raw PCM, -> text line by line."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import redline
from redline.cli import console, show
from redline.cli.recording_options import STDIN, Quiet, VadThreshold
from redline.cli.stopping import Stopper
from redline.cli.train import Device, DraftLm, EncoderEngine, ModelEffort, ModelName, Precision, Punctuate, Threads
from redline.cli.transcribe import LANGUAGE_HELP, arguments_of, keywords_of
from redline.engine import start
from redline.errors import RedlineError
from redline.formats import TRANSCRIPT_FORMATS, save_transcript, subtitle_notices
from redline.formats.format import with_speaker

if TYPE_CHECKING:
    from redline.engine.live import LiveEvent, LiveStream

_SOURCE_HELP = "Raw PCM (s16le) or WAV: - for standard input, a named pipe or a file; default: the microphone."
_FORMAT_HELP = "txt: a line for each committed text; json: a line for each event."
_PARTIALS_HELP = "Text that may still change: by default on a terminal, and in json."


def live(
    context: typer.Context,
    source: Annotated[str | None, typer.Argument(help=_SOURCE_HELP)] = None,
    model: ModelName = "tiny",
    revision: Annotated[str | None, typer.Option(help="Revision of a hub id.")] = None,
    rate: Annotated[int | None, typer.Option(help="Sample rate in Hz (16000, or what a WAV header says).")] = None,
    channels: Annotated[int | None, typer.Option(help="Channels, mixed down (1, or what a WAV header says).")] = None,
    device_in: Annotated[str | None, typer.Option(help="Microphone: its number, or a part of its name.")] = None,
    format: Annotated[str, typer.Option(callback=console.choice_of("txt", "json"), help=_FORMAT_HELP)] = "txt",
    save: Annotated[
        list[Path] | None, typer.Option(help="Also write all of it to this file at the end, as its ending says.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --save that is there.")] = False,
    language: Annotated[str | None, typer.Option(help=LANGUAGE_HELP)] = None,
    speakers: Annotated[bool, typer.Option("--speakers", help="Diarization: who speaks, turn by turn.")] = False,
    words: Annotated[bool, typer.Option("--word-timestamps", help="In json: start and end of each word.")] = False,
    keywords: Annotated[str | None, typer.Option(help="Names and terms: a file with one a line, or a, b, c.")] = None,
    digits: Annotated[bool, typer.Option("--digits", help="Inverse text normalisation: twenty three is 23.")] = False,
    punctuate: Punctuate = True,
    partials: Annotated[bool | None, typer.Option(help=_PARTIALS_HELP)] = None,
    pause_s: Annotated[float, typer.Option("--pause", help="Seconds of a pause behind which text is final.")] = 0.28,
    max_s: Annotated[
        float, typer.Option("--max-window", help="Seconds of speech that is final without a pause.")
    ] = 8.0,
    vad: Annotated[bool, typer.Option(help="Voice activity detection: leave out what is not speech.")] = True,
    vad_threshold: VadThreshold = None,
    effort: ModelEffort = "full",
    engine: EncoderEngine = "auto",
    dtype: Precision = None,
    draft_lm: DraftLm = "own",
    device: Device = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Transcribe speech while it is spoken.

    Text that is printed never changes. On a terminal, the last line shows what may still change. Ctrl-C, or the end of
    the stream, finishes the last text.

    Exit status: 0 when the stream ended or Ctrl-C ended it, 2 when the sound cannot be read, 143 after SIGTERM.
    """
    start.open_libraries()
    from redline.audio.pcm import PcmHead
    from redline.cli.sources import microphone, reading
    from redline.engine.live import LiveOptions

    if source is not None and device_in is not None:
        raise typer.BadParameter(f"the sound comes from {source}; leave one of them out", param_hint="--device-in")
    saved = save or []
    written = [TRANSCRIPT_FORMATS.get(path.suffix[1:].lower()) for path in saved]
    for path, kind in zip(saved, written, strict=True):
        if kind is None:
            allowed = ", ".join(f".{each}" for each in TRANSCRIPT_FORMATS)
            raise typer.BadParameter(f"{path}: its ending names no format; allowed are {allowed}", param_hint="--save")
        if path.exists() and not overwrite:
            raise RedlineError(f"--save: {path} is there already; --overwrite replaces it, or choose another name")
    console.check_outputs(saved, [Path(source)] if source not in (None, STDIN) else [])
    notes = console.Notes()
    screen = Screen(format == "json", notes, quiet)
    shown = screen.shows_partials if partials is None else partials
    threshold = {} if vad_threshold is None else {"onset": vad_threshold}
    own = LiveOptions(0.3 if shown else math.inf, pause_s, max_s, **threshold)
    name = {None: "<microphone>", STDIN: "<stdin>"}.get(source, str(source))
    asked: dict[str, Any] = {
        "words": words or any(kind is not None and kind.needs_words for kind in written),
        "speakers": speakers or any(kind is not None and kind.needs_speakers for kind in written),
        "keywords": keywords_of(keywords),
    }
    stream: LiveStream | None = None
    try:
        with Stopper() as stopper:
            opened = reading(source) if source is not None else microphone(device_in, rate or 16_000, channels or 1)
            with start.recognizing_only():
                loaded = redline.load_model(model, **arguments_of(redline.load_model, context))
            try:
                with opened as sound:
                    screen.begin(name)
                    head = PcmHead(rate, channels, name)
                    while (data := sound.take()) is not None or stream is None:
                        with stopper.held():
                            pcm = head.take(data or b"", last=data is None)
                            if stream is None and head.format is not None:
                                asked |= {"sample_rate": head.format[0], "channels": head.format[1]}
                                asked |= {"language": language, "vad": vad, "digits": digits, "live_options": own}
                                stream = loaded.live(**asked)
                            if stream is not None:
                                screen.show(stream.feed(pcm))
                        if stopper.signal is not None or data is None:
                            break
            except KeyboardInterrupt:
                if stopper.signal is None:  # not ours
                    raise
            if stream is not None:
                screen.show(stream.close())
                screen.end()
                transcript = stream.transcript()
                for path in saved:
                    save_transcript(transcript, path)
                    for notice in subtitle_notices(transcript, path.suffix[1:].lower()):
                        notes.say(show.notice_line(str(path), notice), "yellow")
                    notes.say(f"written to {path}", "dim")
    except (RedlineError, OSError) as error:
        screen.end()
        raise console.refused(error) from error
    except KeyboardInterrupt:
        screen.end()
        raise
    if stopper.signal is not None and stopper.status != console.INTERRUPTED:
        raise typer.Exit(stopper.status)


class Screen:
    """Events on standard output, and what may still change on the last line of a terminal."""

    def __init__(self, is_json: bool, notes: console.Notes, quiet: bool) -> None:
        self._is_json, self._notes, self._quiet = is_json, notes, quiet
        self._out = console.results()
        self._has_status = False
        self.shows_partials = is_json or (notes.is_terminal and not quiet)
        """Whether partial texts are seen by anyone."""

    def begin(self, name: str) -> None:
        """Say that it listens."""
        if self._notes.is_terminal and not self._quiet:
            self._notes.say(f"listening to {name}; Ctrl-C ends", "dim")

    def show(self, events: list[LiveEvent]) -> None:
        """Print what is new."""
        for event in events:
            if self._is_json:
                self._print(json.dumps(event.to_dict(), ensure_ascii=not self._out.encoding.startswith("utf")))
            elif event.kind == "committed":
                self._print(with_speaker(event.speaker, event.text))
            elif event.kind == "partial":
                self._status(event.text)
            if event.kind == "warning" and not self._quiet:
                self._clear()
                notice = redline.Notice(event.code or "", event.text, event.start, event.end)
                self._notes.say(show.notice_line("live", notice), "yellow")

    def end(self) -> None:
        """Leave no partial text on the screen."""
        self._clear()

    def _print(self, line: str) -> None:
        self._clear()
        self._out.file.write((console.one_line(line) if self._out.is_terminal else line) + "\n")
        self._out.file.flush()

    def _status(self, text: str) -> None:
        self._clear()
        if text and self._notes.is_terminal and not self._quiet:
            width = max(10, self._notes.width - 3)
            text = console.one_line(text)
            sys.stderr.write("… " + text[-width:])
            sys.stderr.flush()
            self._has_status = True

    def _clear(self) -> None:
        if self._has_status:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._has_status = False
