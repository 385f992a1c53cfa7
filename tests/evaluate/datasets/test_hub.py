"""Data sets of the hub, read through a stand-in for the `datasets` library."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result as Done

from redline.errors import AudioError, DataError, RedlineError
from redline.evaluate import run
from redline.evaluate.datasets import hub
from redline.evaluate.datasets.dataset import DatasetOptions
from redline.evaluate.datasets.hub import HubAddress, HubSounds, parse_address
from redline.longform.session import SessionOptions
from redline.manifest import Utterance
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from tests.evaluate.datasets.library import NEWEST, Library, Rows, sounds, wav


def read(text: str, source: str | None = None, language: str | None = None) -> tuple[list[Utterance], int, HubSounds]:
    return hub.read_address(parse_address(text), DatasetOptions(language=language), source)


@pytest.mark.parametrize(
    ("text", "split", "address"),
    [
        ("hf:owner/name", None, HubAddress("owner/name", None, "test")),
        ("hf:owner/name", "dev", HubAddress("owner/name", None, "dev")),
        ("hf:owner/name:en_us", None, HubAddress("owner/name", "en_us", "test")),
        ("hf:owner/name:clean:test.other", None, HubAddress("owner/name", "clean", "test.other")),
        ("hf:owner/name::train", "train", HubAddress("owner/name", None, "train")),
        ("hf:/some/folder", None, HubAddress("/some/folder", None, "test")),
        ("hf:owner/name@v1.0", None, HubAddress("owner/name", None, "test", "v1.0")),
        ("hf:owner/name@refs/pr/6:en_us:dev", None, HubAddress("owner/name", "en_us", "dev", "refs/pr/6")),
    ],
)
def test_an_address_names_set_configuration_and_split(text: str, split: str | None, address: HubAddress) -> None:
    assert parse_address(text, split) == address


@pytest.mark.parametrize("text", ["hf:", "hf::x", "hf:a:b:c:d", "owner/name", "hf:owner/name@", "hf:@x"])
def test_an_address_that_names_nothing_says_what_does(text: str) -> None:
    with pytest.raises(DataError, match="write hf:owner/name, hf:owner/name:config or"):
        parse_address(text)
    with pytest.raises(DataError, match="names split dev, but split test is asked for"):
        parse_address("hf:a/b::dev", "test")


def test_rows_become_utterances_and_their_sound_is_decoded_when_asked_for(library: Library, tmp_path: Path) -> None:
    (tmp_path / "c.wav").write_bytes(wav(3))
    rows = Rows(
        {
            "audio": [*sounds(1, 2), {"bytes": None, "path": "c.wav"}],
            "text": ["One two.", None, " three "],
            "raw_text": ["no", "no", "no"],
            "id": ["a/1", "a/2", None],
            "audio_length_s": [1.0, 2.0, None],
        }
    )
    library.sets[str(tmp_path), "en", "test"] = rows
    utterances, without_text, load = read(f"hf:{tmp_path}:en", source="owner/name")
    root = f"hf:{tmp_path}:en:test"
    assert [(row.id, str(row.audio), row.text, row.duration) for row in utterances] == [
        ("a/1", f"{root}/0", "One two.", 1.0),
        (f"{root}/2", f"{root}/2", "three", 0.0),
    ]
    assert {(row.source, row.language) for row in utterances} == {("owner/name", "en")} and without_text == 1
    ((kept, _),) = load.sets.values()
    assert kept.read == [], "reading the texts decodes and keeps no sound"
    assert [load(row.audio).duration for row in utterances] == [1.0, 3.0]
    assert kept.read == [0, 2]


def test_other_columns_hold_the_text_where_there_is_no_text(library: Library) -> None:
    for number, name in enumerate(hub.TEXT_COLUMNS):
        columns = {other: [other] for other in hub.TEXT_COLUMNS[number:]}
        library.sets["x/y", None, "test"] = Rows({"audio": sounds(1), **columns})
        ((row,), _, _) = read("hf:x/y", language="de")
        assert row.text == name and row.language == "de"
    library.sets["x/y", None, "test"] = Rows({"audio": sounds(1), "label": [1]})
    with pytest.raises(DataError, match="x/y::test: its columns are audio, label; needed are audio and one of text, s"):
        read("hf:x/y")
    library.sets["x/y", None, "test"] = Rows({"file": ["a.wav"], "text": ["a"]})
    with pytest.raises(DataError, match="its columns are file, text"):
        read("hf:x/y")


def test_references_that_the_leaderboard_leaves_out_are_left_out(library: Library) -> None:
    texts = ["", "ignore_time_segment_in_scoring", "[noise]", "uh", "IGNORE time segment in scoring.", "kept"]
    library.sets["x/y", None, "test"] = Rows({"audio": sounds(*[1] * 6), "text": texts})
    utterances, without_text, _ = read("hf:x/y")
    assert [row.text for row in utterances] == ["kept"] and without_text == 5
    library.sets["x/y", None, "test"] = Rows({"audio": sounds(1), "text": ["(laughs)"]})
    with pytest.raises(DataError, match="none of its 1 rows has a text that can be scored"):
        read("hf:x/y")


def test_what_cannot_be_reached_says_what_to_do(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"owner/name::test: cannot be read \(ConnectionError: .*needs the network"):
        read("hf:owner/name")
    library.sets["owner/name", None, "test"] = Rows({})
    with pytest.raises(DataError, match=r"Should be one of \['test'\].*write hf:owner/name:config:split"):
        read("hf:owner/name::dev")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        RedlineError, match=r"data set of the hub needs datasets, .*pip install 'redline\[leaderboard\]'"
    ):
        read("hf:owner/name")


def test_bad_sound_fails_its_own_utterance_by_name(library: Library) -> None:
    audio = [{"bytes": b"nonsense", "path": None}, {"bytes": None, "path": None}, None, *sounds(1)]
    library.sets["x/y", None, "test"] = Rows({"audio": audio, "text": ["a", "b", "c", "d"]})
    utterances, _, load = read("hf:x/y")
    results = list(run.run(Transcriber(FakeRecognizer(), SessionOptions(vad=None)), utterances, run.Clock(), load))
    failures = sorted(row.failure for row in results if row.failure)
    assert [row.split(":test/")[1][0] for row in failures] == ["0", "1", "2"] and "neither" in failures[1]
    assert [row.edited for row in results if not row.failure] == ["1.00 seconds"]
    with pytest.raises(AudioError, match=r"^hf:x/y::test/0"):
        load(utterances[0].audio)


def test_a_row_opens_no_file_outside_the_folder_of_its_set(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, elsewhere = tmp_path / "set", tmp_path / "private.wav"
    (folder / "clips").mkdir(parents=True)
    elsewhere.write_bytes(wav(1))
    (folder / "clips" / "a.wav").write_bytes(wav(2))
    (folder / "link.wav").symlink_to(elsewhere)
    (folder / "inner.wav").symlink_to(folder / "clips" / "a.wav")
    (tmp_path / "set-of-others.wav").write_bytes(wav(1))
    good = ["clips/a.wav", str(folder / "clips" / "a.wav"), "inner.wav", "clips/../clips/a.wav"]
    bad = [str(elsewhere), "../private.wav", "link.wav", "/etc/passwd", "clips/../../private.wav"]
    bad += ["../set-of-others.wav", "https://example.com/a.wav", "/dev/zero"]
    audio = [{"bytes": None, "path": path} for path in good + bad]
    monkeypatch.chdir(tmp_path)
    library.sets[str(folder), None, "test"] = Rows({"audio": audio, "text": ["a"] * len(audio)})
    utterances, _, load = read(f"hf:{folder}")
    assert [load(row.audio).duration for row in utterances[: len(good)]] == [2.0] * len(good)
    for row in utterances[len(good) :]:
        with pytest.raises(AudioError, match=r"(is no file of the data set, and is not opened|no such file)"):
            load(row.audio)
    # The files of a set of the hub lie in the cache, under its name.
    cache = tmp_path / "hub" / "datasets--owner--name"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots").mkdir()
    (cache / "blobs" / "1").write_bytes(wav(2))
    (cache / "snapshots" / "a.wav").symlink_to(cache / "blobs" / "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    audio = [{"bytes": None, "path": str(path)} for path in (cache / "snapshots" / "a.wav", elsewhere)]
    library.sets["owner/name", None, "test"] = Rows({"audio": audio, "text": ["a", "b"]})
    (row, two), _, load = read("hf:owner/name")
    assert load(row.audio).duration == 2.0
    with pytest.raises(AudioError, match="is not opened"):
        load(two.audio)


def test_a_run_reads_one_revision_and_says_which(library: Library, evaluate_with: Callable[..., Done]) -> None:
    library.sets["x/y", None, "test"] = Rows({"audio": sounds(1), "text": ["a b c d"]})
    address = hub.pinned(parse_address("hf:x/y"))
    assert address.revision == NEWEST and str(address) == f"x/y@{NEWEST}::test"
    assert hub.pinned(parse_address("hf:x/y@v2")).revision == "v2"
    hub.read_hub("hf:x/y", DatasetOptions())
    read("hf:x/y@v2")
    assert library.revisions == [NEWEST, "v2"]
    done = evaluate_with(FakeRecognizer(lambda clip: "a b c d"), "--data", "hf:x/y")
    assert done.exit_code == 0 and NEWEST in done.output, done.output


@pytest.mark.extras
def test_the_library_itself_reads_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    columns = {"audio": sounds(1, 2), "text": ["one", None], "id": ["a", "b"], "audio_length_s": [1.0, 2.0]}
    rows = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(decode=False))
    (tmp_path / "set").mkdir()
    rows.to_parquet(str(tmp_path / "set" / "test-00000-of-00001.parquet"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (row,), without_text, load = read(f"hf:{tmp_path / 'set'}")
    assert (row.id, row.text, row.duration, without_text) == ("a", "one", 1.0, 1)
    assert load(row.audio).duration == 1.0
    with pytest.raises(DataError, match=r"Unknown split .* write hf:owner/name:config:split"):
        read(f"hf:{tmp_path / 'set'}::dev")
    with pytest.raises(DataError, match=r"cannot be read .* check the name"):
        read(f"hf:{tmp_path / 'nowhere'}")
