"""`redline shards`: the recordings of a manifest as tar files in a bucket or a folder, to train from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, TimeRemainingColumn

from redline.cli import console
from redline.errors import packages_of
from redline.manifest import read_manifest, write_manifest


def shards(
    manifest: Annotated[Path, typer.Argument(help="The manifest (.jsonl) whose recordings are written.")],
    out: Annotated[str, typer.Option("--out", help="Folder or bucket of the shards, such as s3://bucket/train.")],
    new_manifest: Annotated[Path, typer.Option("--manifest", help="The manifest to write (.jsonl), to train from.")],
    shard_mb: Annotated[float, typer.Option(min=0.01, help="Megabytes of a shard.")] = 256.0,
) -> None:
    """Write the recordings of a manifest into shards: WebDataset tars of FLAC (16 kHz, mono, 16 bits) and JSON.

    `redline train --data` and `redline finetune --data` take the new manifest: sound is then read from the shards as
    batches need it, wherever they lie (file, s3://, gs://, http://), and no features are kept. Times of parts (`start`,
    `end`) are cut out, so each row is a recording of its own. Exit status 1 where some recordings could not be read.
    """
    with packages_of("train", "redline shards"):
        from redline.train.data.shard_writer import ShardOptions, write_shards
    rows = read_manifest(manifest)
    console.check_outputs([new_manifest], [manifest, *(row.audio for row in rows)])
    notes, reasons = console.Notes(), list[str]()
    columns = ("writing shards", BarColumn(), "{task.percentage:.0f} %", TimeRemainingColumn())
    with console.progress(notes, *columns) as bar:
        task = bar.add_task("", total=sum(row.duration for row in rows) or None)
        written = write_shards(
            rows, out, ShardOptions(shard_mb), lambda seconds: bar.advance(task, seconds), reasons.append
        )
    write_manifest(new_manifest, [{**row.to_dict(), "audio": row.audio.name} for row in written])
    hours = sum(row.duration for row in written) / 3600
    files = {row.shard.partition("#")[0] for row in written}
    notes.print(f"{new_manifest}: {len(written)} utterances, {hours:.2f} h, in {len(files)} shards")
    for reason in reasons:
        console.complain(f"left out: {reason}")
    if reasons:
        raise typer.Exit(1)
