"""`redline search` finds what the server keeps, and makes nothing where there is none."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from redline.cli.main import app
from redline.serve.options import ServeOptions
from redline.serve.store.store import Store
from redline.types import Segment, Transcript


def test_words_are_found_with_their_times_and_recordings(tmp_path: Path) -> None:
    store = Store(ServeOptions(data_dir=tmp_path))
    segments = (Segment(0, 0.0, 4.0, "nothing here"), Segment(1, 65.0, 70.0, "we meet in the Café at noon"))
    with store.database.write() as connection:
        store.archive.add(connection, Transcript("", segments), owner="ana", name="talk\n.wav")
    store.close()
    found = CliRunner().invoke(app, ["search", "cafe", "in the", "--data", str(tmp_path)])
    assert (found.exit_code, found.stdout) == (0, "1:05  talk\\n.wav  we meet in the Café at noon\n")
    missed = CliRunner().invoke(app, ["search", "the in the", "--data", str(tmp_path)])
    assert (missed.exit_code, missed.stdout) == (1, "")


def test_a_folder_without_an_archive_stays_as_it_is(tmp_path: Path) -> None:
    missing = CliRunner().invoke(app, ["search", "word", "--data", str(tmp_path / "none")])
    assert missing.exit_code == 2 and not list(tmp_path.iterdir())
