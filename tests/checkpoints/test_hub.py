"""Data sets of the hub and the leaderboard, read through a stand-in for the `datasets` library."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner

from redline.cli.evaluate import evaluate
from redline.errors import AudioError, DataError
from redline.evaluate import hub, leaderboard, run, wer
from redline.evaluate.hub import Address
from redline.evaluate.wer import ScoredUtterance
from redline.longform.session import SessionOptions
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber

NEWEST = "0123456789abcdef0123456789abcdef01234567"


def wav(seconds: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(round(16_000 * seconds), dtype=np.float32), 16_000, format="WAV")
    return file.getvalue()


class Rows:
    """As much of a `datasets.Dataset` as is used; sound that was not asked to stay undecoded cannot be had."""

    def __init__(self, columns: Mapping[str, list[Any]], decode: bool = True) -> None:
        self.columns, self.decode = dict(columns), decode
        self.read: list[int] = []
        """The rows whose sound was read."""

    @property
    def column_names(self) -> list[str]:
        return list(self.columns)

    def cast_column(self, name: str, feature: SimpleNamespace) -> Rows:
        assert name == "audio"
        return Rows(self.columns, feature.decode)

    def select_columns(self, names: list[str]) -> Rows:
        return Rows({name: self.columns[name] for name in names})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> dict[str, Any]:
        if "audio" in self.columns:
            assert not self.decode, "sound is decoded by redline.audio only"
            self.read.append(number)
        return {name: values[number] for name, values in self.columns.items()}


class Library(ModuleType):
    """A stand-in for the package `datasets` with some sets in it."""

    def __init__(self) -> None:
        super().__init__("datasets")
        self.sets: dict[tuple[str, str | None, str], Rows] = {}
        self.Audio = lambda decode: SimpleNamespace(decode=decode)
        self.config = SimpleNamespace()
        self.revisions: list[str | None] = []
        """Those that were asked for."""

    def load_dataset(self, name: str, config: str | None, *, split: str, revision: str | None) -> Rows:
        self.revisions.append(revision)
        if (name, config, split) in self.sets:
            return self.sets[name, config, split]
        if any(key[0] == name for key in self.sets):
            raise ValueError(f"Unknown split \"{split}\". Should be one of ['test'].")
        raise ConnectionError(f"Couldn't reach '{name}' on the Hub (LocalEntryNotFoundError)")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library()
    monkeypatch.setitem(sys.modules, "datasets", made)
    monkeypatch.setattr(hub, "_newest", lambda name: NEWEST)
    return made


def sounds(*seconds: float) -> list[dict[str, Any]]:
    return [{"bytes": wav(one), "path": None} for one in seconds]


@pytest.mark.parametrize(
    ("text", "split", "address"),
    [
        ("hf:owner/name", None, Address("owner/name", None, "test")),
        ("hf:owner/name", "dev", Address("owner/name", None, "dev")),
        ("hf:owner/name:en_us", None, Address("owner/name", "en_us", "test")),
        ("hf:owner/name:clean:test.other", None, Address("owner/name", "clean", "test.other")),
        ("hf:owner/name::train", "train", Address("owner/name", None, "train")),
        ("hf:/some/folder", None, Address("/some/folder", None, "test")),
        ("hf:owner/name@v1.0", None, Address("owner/name", None, "test", "v1.0")),
        ("hf:owner/name@refs/pr/6:en_us:dev", None, Address("owner/name", "en_us", "dev", "refs/pr/6")),
    ],
)
def test_an_address_names_set_configuration_and_split(text: str, split: str | None, address: Address) -> None:
    assert hub.parse(text, split) == address


@pytest.mark.parametrize("text", ["hf:", "hf::x", "hf:a:b:c:d", "owner/name", "hf:owner/name@", "hf:@x"])
def test_an_address_that_names_nothing_says_what_does(text: str) -> None:
    with pytest.raises(DataError, match="write hf:owner/name, hf:owner/name:config or"):
        hub.parse(text)
    with pytest.raises(DataError, match="names split dev, but split test is asked for"):
        hub.parse("hf:a/b::dev", "test")


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
    found, without_text, load = hub.read(hub.parse(f"hf:{tmp_path}:en"), source="owner/name")
    root = f"hf:{tmp_path}:en:test"
    assert [(one.id, str(one.audio), one.text, one.duration) for one in found] == [
        ("a/1", f"{root}/0", "One two.", 1.0),
        (f"{root}/2", f"{root}/2", "three", 0.0),
    ]
    assert {(one.source, one.language) for one in found} == {("owner/name", "en")} and without_text == 1
    (kept,) = load.sets.values()
    assert kept.read == [], "reading the texts decodes and keeps no sound"
    assert [load(one.audio).duration for one in found] == [1.0, 3.0]
    assert kept.read == [0, 2]


def test_other_columns_hold_the_text_where_there_is_no_text(library: Library) -> None:
    for number, name in enumerate(hub.TEXTS):
        columns = {other: [other] for other in hub.TEXTS[number:]}
        library.sets["x/y", None, "test"] = Rows({"audio": sounds(1), **columns})
        ((one,), _, _) = hub.read(hub.parse("hf:x/y"), language="de")
        assert one.text == name and one.language == "de"
    library.sets["x/y", None, "test"] = Rows({"audio": sounds(1), "label": [1]})
    with pytest.raises(DataError, match="x/y::test: its columns are audio, label; needed are audio and one of text, s"):
        hub.read(hub.parse("hf:x/y"))
    library.sets["x/y", None, "test"] = Rows({"file": ["a.wav"], "text": ["a"]})
    with pytest.raises(DataError, match="its columns are file, text"):
        hub.read(hub.parse("hf:x/y"))


def test_references_that_the_leaderboard_leaves_out_are_left_out(library: Library) -> None:
    texts = ["", "ignore_time_segment_in_scoring", "[noise]", "uh", "IGNORE time segment in scoring.", "kept"]
    library.sets["x/y", None, "test"] = Rows({"audio": sounds(*[1] * 6), "text": texts})
    found, without_text, _ = hub.read(hub.parse("hf:x/y"))
    assert [one.text for one in found] == ["kept"] and without_text == 5
    library.sets["x/y", None, "test"] = Rows({"audio": sounds(1), "text": ["(laughs)"]})
    with pytest.raises(DataError, match="none of its 1 rows has a text that can be scored"):
        hub.read(hub.parse("hf:x/y"))


def test_what_cannot_be_reached_says_what_to_do(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"owner/name::test: cannot be read \(ConnectionError: .*needs the network"):
        hub.read(hub.parse("hf:owner/name"))
    library.sets["owner/name", None, "test"] = Rows({})
    with pytest.raises(DataError, match=r"Should be one of \['test'\].*write hf:owner/name:config:split"):
        hub.read(hub.parse("hf:owner/name::dev"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'redline\[leaderboard\]'"):
        hub.read(hub.parse("hf:owner/name"))


def test_bad_sound_fails_its_own_utterance_by_name(library: Library) -> None:
    audio = [{"bytes": b"nonsense", "path": None}, {"bytes": None, "path": None}, None, *sounds(1)]
    library.sets["x/y", None, "test"] = Rows({"audio": audio, "text": ["a", "b", "c", "d"]})
    utterances, _, load = hub.read(hub.parse("hf:x/y"))
    results = list(run.run(Transcriber(FakeRecognizer(), SessionOptions(vad=None)), utterances, run.Clock(), load))
    failures = sorted(one.failure for one in results if one.failure)
    assert [one.split(":test/")[1][0] for one in failures] == ["0", "1", "2"] and "neither" in failures[1]
    assert [one.item.edited for one in results if one.item] == ["1.00 seconds"]
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
    utterances, _, load = hub.read(hub.parse(f"hf:{folder}"))
    assert [load(one.audio).duration for one in utterances[: len(good)]] == [2.0] * len(good)
    for one in utterances[len(good) :]:
        with pytest.raises(AudioError, match=r"(is no file of the data set, and is not opened|no such file)"):
            load(one.audio)
    # The files of a set of the hub lie in the cache, under its name.
    cache = tmp_path / "hub" / "datasets--owner--name"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots").mkdir()
    (cache / "blobs" / "1").write_bytes(wav(2))
    (cache / "snapshots" / "a.wav").symlink_to(cache / "blobs" / "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    audio = [{"bytes": None, "path": str(path)} for path in (cache / "snapshots" / "a.wav", elsewhere)]
    library.sets["owner/name", None, "test"] = Rows({"audio": audio, "text": ["a", "b"]})
    (one, two), _, load = hub.read(hub.parse("hf:owner/name"))
    assert load(one.audio).duration == 2.0
    with pytest.raises(AudioError, match="is not opened"):
        load(two.audio)


def test_a_run_reads_one_revision_and_says_which(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.sets["x/y", None, "test"] = Rows({"audio": sounds(1), "text": ["a b c d"]})
    address = hub.pinned(hub.parse("hf:x/y"))
    assert address.revision == NEWEST and str(address) == f"x/y@{NEWEST}::test"
    assert hub.pinned(hub.parse("hf:x/y@v2")).revision == "v2"
    hub.read(address)
    hub.read(hub.parse("hf:x/y@v2"))
    assert library.revisions == [NEWEST, "v2"]
    done = command(monkeypatch, FakeRecognizer(lambda clip: "a b c d"), "--data", "hf:x/y")
    assert done.exit_code == 0 and NEWEST in done.output, done.output
    eight_sets(library)
    library.revisions.clear()
    leaderboard.read()
    assert library.revisions == [NEWEST] * 8


def eight_sets(library: Library) -> None:
    for number, address in enumerate(leaderboard.SETS.values()):
        texts = ["a b c d", "ignore_time_segment_in_scoring", "a b c d"]
        rows = Rows({"audio": sounds(1 + number / 10, 1, 1), "text": texts, "id": ["1", "2", "3"]})
        library.sets[address.name, address.config, address.split] = rows


def command(monkeypatch: pytest.MonkeyPatch, recognizer: FakeRecognizer, *arguments: str) -> Any:
    transcriber = Transcriber(recognizer, SessionOptions(vad=None))
    monkeypatch.setattr("redline.load.load_model", lambda name, **_: transcriber)
    app = typer.Typer()
    app.command()(evaluate)
    return CliRunner().invoke(app, arguments)


def test_the_leaderboard_scores_each_set_and_the_mean_of_sets(
    library: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    eight_sets(library)
    out, page = tmp_path / "scores.json", tmp_path / "report.html"
    # Only the first clip of the last set, voxpopuli, is 1.7 seconds long.
    recognizer = FakeRecognizer(lambda clip: "a b c x" if clip.duration == 1.7 else "a b c d")
    done = command(monkeypatch, recognizer, "--leaderboard", "--json", str(out), "--report", str(page))
    assert done.exit_code == 0, done.output
    assert "8 rows without text are left out" in done.stderr
    line = "WER 1.56 %, 8 sets weighed alike"  # one of eight words of one of eight sets
    assert f"  mean of sets: {line}\n" in done.stdout and line in page.read_text(encoding="utf-8")
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["data"] == "leaderboard" and written["without_text"] == 8
    assert written["mean_of_sets"] == {"edited": 1.56, "draft": None, "sets": 8, "limit": None}
    rates = {one["group"]: one["edited"]["wer"] for one in written["reports"]}
    assert list(rates) == [*sorted(leaderboard.SETS), wer.ALL]
    assert rates["voxpopuli"] == 0.125 and rates["ami"] == 0.0 and "librispeech test.clean" in done.stdout


def test_a_limit_is_of_each_set_and_told_beside_the_mean(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    eight_sets(library)
    done = command(monkeypatch, FakeRecognizer(lambda clip: "a b c d"), "--leaderboard", "--limit", "1")
    assert done.exit_code == 0, done.output
    assert "mean of sets: WER 0.00 %, 8 sets weighed alike; at most 1 utterances of each, so not" in done.stdout


def test_a_set_that_is_missing_stops_the_leaderboard_before_the_work(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    eight_sets(library)
    library.sets.pop((leaderboard.REPOSITORY, "tedlium", "test"))
    recognizer = FakeRecognizer()
    done = command(monkeypatch, recognizer, "--leaderboard")
    assert done.exit_code == 2 and "tedlium:test: cannot be read" in done.stderr and not recognizer.batches
    done = command(monkeypatch, recognizer, "--leaderboard", "--split", "dev")
    assert done.exit_code == 2 and "leave out --data, --split and --language" in done.stderr
    done = command(monkeypatch, recognizer)
    assert done.exit_code == 2 and "say --data FILE, FOLDER or hf:owner/name, or --leaderboard" in done.stderr


def test_the_mean_weighs_sets_alike_and_needs_all_of_them() -> None:
    items = [ScoredUtterance(name, "en", 1.0, "a b c", "a b c", "a b x") for name in leaderboard.SETS]
    items += [ScoredUtterance("ami", "en", 1.0, "a b c", "x y z", "x y z")] * 2
    made = leaderboard.mean(wer.reports(items))
    assert made.edited == round(66.67 / 8, 2) and made.draft == round((77.78 + 7 * 33.33) / 8, 2)
    assert str(made) == "WER 8.33 % edited, 38.89 % draft, 8 sets weighed alike"
    with pytest.raises(DataError, match="no number: nothing was scored of earnings22, gig"):
        leaderboard.mean(wer.reports(items[:1]))


@pytest.mark.extras
def test_the_library_itself_reads_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    columns = {"audio": sounds(1, 2), "text": ["one", None], "id": ["a", "b"], "audio_length_s": [1.0, 2.0]}
    rows = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(decode=False))
    (tmp_path / "set").mkdir()
    rows.to_parquet(str(tmp_path / "set" / "test-00000-of-00001.parquet"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (one,), without_text, load = hub.read(hub.parse(f"hf:{tmp_path / 'set'}"))
    assert (one.id, one.text, one.duration, without_text) == ("a", "one", 1.0, 1)
    assert load(one.audio).duration == 1.0
    with pytest.raises(DataError, match=r"Unknown split .* write hf:owner/name:config:split"):
        hub.read(hub.parse(f"hf:{tmp_path / 'set'}::dev"))
    with pytest.raises(DataError, match=r"cannot be read .* check the name"):
        hub.read(hub.parse(f"hf:{tmp_path / 'nowhere'}"))
