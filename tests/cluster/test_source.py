"""Sources: each kind gives the same recordings in the same order, lazily; what cannot be is refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from redline.cluster import source as sources
from redline.cluster.source import Shard, Source
from redline.errors import DataError, RedlineError
from tests.cluster.archives import MemoryStore, archive, rows, run


def addresses(source: Path | str) -> list[str]:
    return [each.audio for each in Source(str(source)).recordings()]


def test_a_folder_is_read_in_order_and_without_what_is_hidden_or_no_recording(tmp_path: Path) -> None:
    archive(tmp_path / "in" / "b", 2)
    archive(tmp_path / "in" / "a", 1)
    archive(tmp_path / "in" / ".hidden", 1)
    (tmp_path / "in" / "notes.txt").write_text("no recording")
    names = [Path(name).relative_to(tmp_path / "in").as_posix() for name in addresses(tmp_path / "in")]
    assert names == ["a/000.wav", "b/000.wav", "b/001.wav"]
    assert [each.row for each in Source(str(tmp_path / "in")).recordings()] == [0, 1, 2]
    assert addresses(f"file://{tmp_path}/in") == addresses(tmp_path / "in")


def manifest(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines))
    return path


def test_a_manifest_has_parts_references_and_rows_that_cannot_be_used(tmp_path: Path) -> None:
    row = {"audio": "in/000.wav", "text": "so", "language": "English", "start": 1, "end": 2.5}
    lines = [json.dumps(row), "", '{"audio": "s3://bucket/a.flac"}', "{", '{"audio": "a", "start": -1}']
    path = manifest(tmp_path / "m.jsonl", lines)
    first, second, broken, odd = Source(str(path)).recordings()
    assert Source(str(path)).count() == 4
    assert first.audio == str(tmp_path / "in/000.wav") and (first.start, first.end, first.text) == (1, 2.5, "so")
    assert first.language == "en" and second.audio == "s3://bucket/a.flac" and second.text is None
    assert broken.problem is not None and "m.jsonl:4" in broken.problem and "not JSON" in broken.problem
    assert odd.problem is not None and "seconds count from 0" in odd.problem


def test_parquet_says_what_jsonl_says(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    told = [{"audio": f"{number}.wav", "text": f"text {number}", "start": 0.0, "end": 1.0} for number in range(7)]
    parquet.write_table(pa.Table.from_pylist(told), tmp_path / "m.parquet")
    lines = manifest(tmp_path / "m.jsonl", [json.dumps(row) for row in told])
    assert list(Source(str(tmp_path / "m.parquet")).recordings()) == list(Source(str(lines)).recordings())
    assert Source(str(tmp_path / "m.parquet")).count() == Source(str(lines)).count() == 7
    parquet.write_table(pa.Table.from_pylist([{"sound": 1}]), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="no column 'audio'; it has sound"):
        addresses(tmp_path / "other.parquet")


def test_a_list_has_addresses_and_paths(tmp_path: Path) -> None:
    path = manifest(tmp_path / "list.txt", ["# a comment", "https://example.org/a.mp3", "b.wav", "/c.wav", "ftp://d"])
    *good, odd = Source(str(path)).recordings()
    assert [each.audio for each in good] == ["https://example.org/a.mp3", str(tmp_path / "b.wav"), "/c.wav"]
    assert odd.problem is not None and "ftp:// is not read here" in odd.problem


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://host/a", "ftp:// is not read here; allowed are paths and file://, s3://, gs://, http://, https://"),
        ("https://example.org/all", "is no folder, bucket or recording"),
        ("/no/such/folder", "no such file or folder"),
    ],
)
def test_what_is_no_source_is_refused(address: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        addresses(address)


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def missing(scheme: str, **options: object) -> None:
        raise ImportError("Install gcsfs")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(RedlineError, match="gs:// needs a package more: pip install 'gcsfs'"):
        addresses("gs://bucket/folder")


def test_rows_are_read_when_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def endless(address: str) -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield '{"audio": "a.wav"}'

    monkeypatch.setattr(sources, "_lines", endless)
    (tmp_path / "m.jsonl").touch()
    shards = list(islice(Source(str(tmp_path / "m.jsonl")).shards(10), 3))
    assert read <= 31 and [len(shard.recordings) for shard in shards] == [10, 10, 10]
    assert shards[2].recordings[0].row == 20


def test_a_shard_knows_whether_its_rows_have_changed(tmp_path: Path) -> None:
    (one,) = Source(str(archive(tmp_path / "in", 2))).shards(2)
    assert Shard(0, one.recordings).digest == one.digest != Shard(0, one.recordings[:1]).digest


def test_rows_of_a_manifest_fail_alone(tmp_path: Path) -> None:
    archive(tmp_path / "in", 2)
    part = '{"audio": "in/001.wav", "start": 0.02, "end": 0.1, "text": "so"}'
    other = '{"audio": "in/001.wav", "language": "fr"}'
    lines = ['{"audio": "in/000.wav"}', "{", part, '{"audio": "in/none.wav"}', other]
    store = MemoryStore()
    report = run(manifest(tmp_path / "m.jsonl", lines), store, scorer=lambda *texts: (len(texts[0].split()), 1))
    assert (report.done, report.failed) == (2, 3)
    whole, broken, span, missing, foreign = rows(store)
    assert span["id"].endswith("@0.020000-0.100000") and (span["words"], span["errors"]) == (1, 1)
    assert report.score is not None and report.score.recordings == 1
    assert "not JSON" in broken["reason"] and "no such file" in missing["reason"] and "fr" in foreign["reason"]
    assert whole["words"] is None
