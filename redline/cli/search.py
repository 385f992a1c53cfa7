"""`redline search`: words in the transcripts that `redline serve` keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from redline.cli import console, show
from redline.errors import packages_of


def search(
    words: Annotated[list[str], typer.Argument(help='Words that are all said in one segment, or a "phrase".')],
    data: Annotated[Path | None, typer.Option(help="Folder of the server's database.")] = None,
    database: Annotated[str | None, typer.Option(help="postgresql://... in place of SQLite in --data.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Segments at most.")] = 50,
) -> None:
    """Find words in the archive of the server: time, recording and text of each segment, the newest first.

    Case and diacritics do not matter. Exit status: 0, 1 when nothing is found, 2 when there is no archive.
    """
    with packages_of("serve", "redline search"):
        from redline.serve.options import default_data_dir
        from redline.serve.store.archive import Archive
        from redline.serve.store.database import Database

    opened = Database(database, data or default_data_dir(), make=False)
    try:
        phrases = [f'"{word}"' if " " in word and '"' not in word else word for word in words]
        hits = Archive(opened).search(" ".join(phrases), limit=limit)
    finally:
        opened.close()
    results = console.results()
    for hit in hits:
        line = Text(console.one_line(f"{show.clock(hit.start)}  {hit.name}  "))
        before = len(line)
        line.append(snippet := console.one_line(hit.snippet))
        for start, end in hit.marks if snippet == hit.snippet else ():
            line.stylize("bold", before + start, before + end)
        results.print(line)
    if not hits:
        console.complain("nothing is found")
        raise typer.Exit(1)
