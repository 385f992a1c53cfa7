"""`redline transcribe`: recordings -> text on standard output, or files in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from redline import files as file_system
from redline import formats
from redline.cli import console
from redline.cli.inputs import expand
from redline.cli.job import Job, Outputs
from redline.cli.stopping import Stopper
from redline.errors import RedlineError
from redline.types import listed

TASKS = ("transcribe", "translate")
DRAFTS = ("own", "exact", "fast", "trust", "none")
ALL = "all"
ALL_DONE, SOME_FAILED, NOTHING_DONE = 0, 1, 2


def transcribe(
    files: Annotated[
        list[str], typer.Argument(help="Recordings, folders of recordings, patterns, or - for standard input.")
    ],
    model: Annotated[str, typer.Option("--model", help="A bundled model, a folder or a hub id.")] = "tiny",
    revision: Annotated[str | None, typer.Option("--revision", help="Revision of a hub id.")] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help=f"One or more of {', '.join(formats.FORMATS)}, separated by commas, or all: those that what is asked "
            "for can fill (rttm with --speakers). Default: txt, or ctm with --word-timestamps.",
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", help="Write <name>.<format> for each recording here, not to standard output."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there; else their recordings are refused.")
    ] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out recordings whose files are there.")
    ] = False,
    language: Annotated[
        str | None,
        typer.Option(
            "--language", help="Language that is spoken: en, English or en-US; default: auto, as the model hears."
        ),
    ] = None,
    task: Annotated[
        str, typer.Option("--task", help="transcribe, or translate into the language of --to.")
    ] = "transcribe",
    to: Annotated[str | None, typer.Option("--to", help="Language to translate into: de, German or de-AT.")] = None,
    speakers: Annotated[bool, typer.Option("--speakers", help="Tell who speaks, turn by turn.")] = False,
    word_timestamps: Annotated[
        bool, typer.Option("--word-timestamps", help="Tell when each word is said (in json, ctm, srt and vtt).")
    ] = False,
    keywords: Annotated[
        str | None,
        typer.Option("--keywords", help="Names and terms to expect: a file with one a line, or a list with commas."),
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="An instruction in place of the model's own.")] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="The beginning of the recording, already written down.")
    ] = None,
    beams: Annotated[int, typer.Option("--beams", min=1, help="Texts that grow side by side; 1: greedy.")] = 1,
    drafts: Annotated[
        str,
        typer.Option(
            "--drafts",
            help="What becomes of the encoder's draft: verified (exact, fast), the text itself (trust), or none. "
            "own: as suits the model.",
        ),
    ] = "own",
    draft_lm: Annotated[
        str,
        typer.Option(
            "--draft-lm", help="Reads along while the draft is written: own (the model's), none, or a safetensors file."
        ),
    ] = "own",
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda or mps; default: the fastest.")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads that compute; default: the CPUs it may use.")
    ] = None,
    show_edits: Annotated[
        bool,
        typer.Option(
            "--show-edits", help="Print the draft as tracked changes instead of the text; in json, every edit."
        ),
    ] = False,
    channel: Annotated[
        int | None, typer.Option("--channel", min=0, help="Hear this channel only, counted from 0; default: all mixed.")
    ] = None,
    track: Annotated[
        int | None,
        typer.Option(
            "--track", min=0, help="Hear this audio track of files with several, counted from 0; default: the main one."
        ),
    ] = None,
    vad: Annotated[bool, typer.Option("--vad/--no-vad", help="Leave out what is not speech.")] = True,
    digits: Annotated[
        bool, typer.Option("--digits", help="Write spelled numbers as digits: 23 for twenty three.")
    ] = False,
    punctuation: Annotated[
        bool, typer.Option("--punctuation/--no-punctuation", help="Capitals and marks, where the model knows them.")
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no summary.")] = False,
) -> None:
    """Write down what is said in recordings.

    Put -- before files whose names begin with a dash. Ctrl-C keeps what is done: finished files, and of one that is not
    finished NAME.FORMAT.partial.

    Exit status: 0 when all went well, 1 when some recordings failed, 2 when nothing was produced, 130 when it was
    interrupted.
    """
    notes = console.notes()
    translates = task == "translate"
    wanted = _formats(format or ("ctm" if word_timestamps else "txt"), speakers=speakers, words=not translates)
    inputs, problems, left_out = expand(files)
    if output_dir is None and len(wanted) > 1:
        raise typer.BadParameter("standard output takes one format; add --output-dir", param_hint="--format")
    if output_dir is None and len(inputs) > 1 and wanted != ["txt"]:
        raise typer.BadParameter("several recordings need --output-dir", param_hint=f"--format {wanted[0]}")
    if output_dir is None and show_edits and wanted not in (["txt"], ["json"]):
        raise typer.BadParameter(f"--show-edits is text; add --output-dir for {wanted[0]}", param_hint="--format")
    if overwrite and skip_existing:
        raise typer.BadParameter("one replaces files, the other leaves them", param_hint="--overwrite --skip-existing")
    for note in left_out:
        notes.print(console.one_line(f"redline: {note}"), style="dim")
    for problem in problems:
        console.complain(problem)
    if not inputs:
        raise typer.Exit(NOTHING_DONE)
    if drafts not in DRAFTS:
        raise typer.BadParameter(f"{drafts!r}; allowed are {', '.join(DRAFTS)}", param_hint="--drafts")
    asked = _asked(
        task, to, wanted, {"speakers": speakers, "words": word_timestamps, "prompt": prompt, "prefix": prefix}
    )
    outputs = Outputs(wanted, output_dir, overwrite, skip_existing, show_edits)
    job = None
    try:
        with Stopper() as stopper:
            outputs.prepare()
            job = Job(inputs, outputs, notes, stopper, quiet)
            if job.work:
                from redline.audio import AudioOptions, isolation  # from here on it takes seconds

                isolation.prepare()
                from redline.load import load_model

                loaded = load_model(
                    model,
                    revision=revision,
                    device=device,
                    draft_lm=draft_lm,
                    punctuate=punctuation,
                    beams=beams,
                    drafts=drafts,  # type: ignore[arg-type]  # checked above
                    threads=threads,
                )
                asked |= {"language": language, "vad": vad, "digits": digits, "keywords": _keywords(keywords)}
                job.run(loaded, asked | {"audio_options": AudioOptions(channel=channel, track=track)})
            elif job.skipped and not quiet:
                job.sum_up(0.0, 0.0)
    except (RedlineError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise console.refused(error, SOME_FAILED if job is not None and job.done else NOTHING_DONE) from error
    except KeyboardInterrupt:
        done = 0 if job is None else job.done
        where = f"; their files are in {output_dir}" if done and output_dir is not None else ""
        message = f"redline: interrupted; {done} of {len(inputs)} recordings are done{where}"
        notes.print(console.one_line(message), style="yellow")
        raise typer.Exit(stopper.status) from None
    if not (job.done or job.skipped):
        raise typer.Exit(NOTHING_DONE)
    raise typer.Exit(SOME_FAILED if problems or job.failed else ALL_DONE)


def _formats(text: str, *, speakers: bool, words: bool) -> list[str]:
    """The formats that are named; `all` is those that can be filled with what is asked for."""
    parts = [part.strip().lower().removeprefix(".") for part in text.split(",") if part.strip()]
    unknown = [part for part in parts if part not in (*formats.FORMATS, ALL)]
    if unknown or not parts:
        allowed = ", ".join([*formats.FORMATS, ALL])
        raise typer.BadParameter(f"{text!r}; allowed are {allowed}, separated by commas", param_hint="--format")
    if ALL in parts:
        parts += [name for name in formats.FORMATS if (name != "rttm" or speakers) and (name != "ctm" or words)]
    return [part for part in dict.fromkeys(parts) if part != ALL]


def _asked(task: str, to: str | None, wanted: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
    """What to ask of the model besides plain text; formats of words and of turns ask for them."""
    if task not in TASKS:
        raise typer.BadParameter(f"{task!r}; allowed are {', '.join(TASKS)}", param_hint="--task")
    if (task == "translate") != (to is not None):
        needed = "--task translate needs --to, the language to translate into"
        raise typer.BadParameter(needed if to is None else "--to needs --task translate", param_hint="--task")
    options["words"] |= "ctm" in wanted
    options["speakers"] |= "rttm" in wanted
    return options | {"task": task, "target_language": to}


def _keywords(text: str | None) -> list[str]:
    """The lines of a file, or the parts of a list with commas."""
    if text is None:
        return []
    if _is_there(text):
        try:
            parts = file_system.read_utf8(text).splitlines()
        except OSError as error:
            raise RedlineError(f"--keywords: {file_system.describe_os_error(error)}") from error
        except UnicodeDecodeError as error:
            raise RedlineError(f"{text}: a list of keywords is text in UTF-8, one a line ({error})") from error
    elif "," not in text and ("/" in text or text.endswith(".txt")):
        raise RedlineError(f"{text}: no such file; --keywords takes a file with one a line, or a list with commas")
    else:
        return list(listed(text))
    return [part.strip() for part in parts if part.strip()]


def _is_there(text: str) -> bool:
    try:
        return Path(text).exists() and not Path(text).is_dir()
    except (OSError, ValueError):  # a long list is no file name
        return False
