"""`redline prepare`: recordings with transcripts or captions -> a manifest to train on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, TimeRemainingColumn

from redline import files, languages
from redline.cli import console
from redline.cli.stopping import Stopper
from redline.cli.train import Threads
from redline.errors import DataError, RedlineError
from redline.manifest import write_manifest


def prepare(
    source: Annotated[Path, typer.Argument(help="A recording, or a folder of recordings with texts beside them.")],
    out: Annotated[Path, typer.Option("--out", help="The manifest to write (.jsonl).")],
    text: Annotated[
        Path | None, typer.Option(help="Transcript (.txt) or captions (.srt, .vtt) of a single recording.")
    ] = None,
    model: Annotated[str, typer.Option(help="The model that aligns text and sound.")] = "tiny",
    language: Annotated[str, typer.Option(help="Language of the recordings: en, English or en-US.")] = "en",
    longest_s: Annotated[
        float, typer.Option("--longest", min=2, max=30, help="Seconds of the longest utterance.")
    ] = 20.0,
    most_regret: Annotated[
        float, typer.Option("--tolerance", min=0, help="How badly a text may fit, in nats a character.")
    ] = 1.5,
    threads: Threads = None,
) -> None:
    """Cut recordings into utterances with the text said in them; what does not fit the sound is dropped and listed.

    In a folder, talk.mp3 goes with talk.srt, talk.vtt or talk.txt. A transcript needs no times, and those of captions
    are not believed: words are placed by forced alignment. Labels such as `JANE DOE:` become the speaker of a row. What
    is dropped is written beside the manifest, with the reason. Ctrl-C keeps what is done, in OUT.partial. Exit status
    1: less than half of the words of some recording fit.
    """
    from redline.checkpoints import nar
    from redline.normalize import letters_of
    from redline.prepare.corpus import PreparedCorpus, recordings_with_texts
    from redline.prepare.segment_transcripts import SegmentationOptions
    from redline.threads import use

    notes = console.Notes()
    pairs = recordings_with_texts(source, text)
    use(threads)
    encoder, config, _ = nar.load_nar(model)
    language_code = languages.code(language, config.languages)
    if language_code is None and len(config.languages) == 1:
        (language_code,) = config.languages
    if language_code is None or language_code not in config.languages:
        known = ", ".join(config.languages)
        why = "a text is placed in one language" if language_code is None else f"{model} does not know it"
        raise DataError(f"--language {language}: {why}; name one of {known}")
    options = SegmentationOptions(longest_s=longest_s, most_regret=most_regret, letters=letters_of(language_code))
    _check_out(out, [file for pair in pairs for file in pair])  # makes the folder, so all that is refused came before
    corpus = PreparedCorpus(encoder, language_code, options)
    columns = ("{task.description}", BarColumn(), "{task.percentage:.0f} %", TimeRemainingColumn())
    with Stopper() as stopper:
        try:
            for recording, transcript in pairs:
                printed = len(corpus.notes)
                with console.progress(notes, *columns) as bar:
                    try:
                        corpus.add(recording, transcript, partial(bar.update, bar.add_task(recording.name)))
                    except (RedlineError, OSError) as error:
                        corpus.failures.append(console.error_text(error))
                for note in corpus.notes[printed:]:
                    notes.print(note, style="yellow")
        except KeyboardInterrupt:
            where = ""
            if corpus.kept:
                write_manifest(partial_out := out.with_name(f"{out.name}.partial"), corpus.kept)
                where = f"; {len(corpus.kept)} utterances are in {partial_out}"
            notes.say(f"interrupted; {corpus.recordings} of {len(pairs)} recordings are done{where}", "yellow")
            raise typer.Exit(stopper.status) from None
    if corpus.speakers:
        named = ", ".join(f"{name} ({turns})" for name, turns in corpus.speakers.most_common(20))
        more = f" and {len(corpus.speakers) - 20} more" if len(corpus.speakers) > 20 else ""
        notes.print(f"labels taken for speakers, with their turns: {named}{more}")
    rest = _dropped(out)
    if corpus.dropped:
        write_manifest(rest, corpus.dropped)
    elif corpus.kept:
        rest.unlink(missing_ok=True)  # what an earlier run dropped
    for reason in corpus.failures:
        console.complain(reason)
    if corpus.kept:
        write_manifest(out, corpus.kept)
        minutes = sum(row["duration"] for row in corpus.kept) / 60
        words = f"{corpus.kept_words} of {corpus.words} words"
        notes.print(f"{out}: {len(corpus.kept)} utterances, {minutes:.1f} min, {words}")
    else:
        console.complain(f"nothing fits, so {out} is not written")
    if corpus.dropped:
        notes.print(f"{rest}: {len(corpus.dropped)} that do not fit, with the reason", style="yellow")
    if corpus.failures:
        raise typer.Exit(1)


def _check_out(out: Path, inputs: Sequence[Path]) -> None:
    """Refuse a place where no manifest can be written before any work is done."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        console.check_outputs([out, _dropped(out)], inputs)
    except OSError as error:
        seen = files.advice(error).partition(";")[0]
        raise DataError(f"{out}: cannot be written, {seen}; choose another --out") from error


def _dropped(out: Path) -> Path:
    return out.with_suffix(".dropped.jsonl")
