"""Scores: counts, normalisation, intervals, reports; and the run and the command that feed them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from redline import audio
from redline.cli.evaluate import evaluate
from redline.engine.scheduler import BatchOptions
from redline.errors import DataError, NotAudioError
from redline.evaluate import datasets, run, wer
from redline.evaluate.wer import Errors, ScoredUtterance
from redline.longform.session import SessionOptions
from redline.testing import FakeRecognizer, tone
from redline.transcriber import Transcriber
from redline.types import Hypothesis, Notice, Waveform

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=7).map(" ".join)


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def item(
    reference: str, edited: str, draft: str | None = None, source: str = "s", duration: float = 1.0
) -> ScoredUtterance:
    return ScoredUtterance(source, "en", duration, reference, edited, draft)


def test_insertions_deletions_and_substitutions_are_told_apart() -> None:
    errors = wer.word_errors(["a b c d", "a", "a b"], ["a x d", "a y z", ""])
    assert errors == [Errors(0, 1, 1, 4), Errors(2, 0, 0, 1), Errors(0, 2, 0, 2)]
    assert wer.total(errors) == Errors(2, 3, 1, 7)
    assert wer.total(errors).rate == 6 / 7


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_errors_are_the_edit_distance(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = zip(*pairs, strict=True)
    for reference, hypothesis, one in zip(references, hypotheses, wer.word_errors(references, hypotheses), strict=True):
        assert one.count == edit_distance(reference.split(), hypothesis.split())
        assert one.length == len(reference.split())
        assert one.length - one.deletions + one.insertions == len(hypothesis.split())


def test_character_errors_count_characters() -> None:
    assert wer.character_errors(["hello there"], ["hallo there"]) == [Errors(0, 0, 1, 11)]


def test_words_without_a_reference_are_insertions() -> None:
    assert wer.word_errors([""], ["ghost words"]) == [Errors(2, 0, 0, 0)]
    assert wer.total([Errors(2, 0, 0, 0)]).rate == float("inf")
    assert Errors().rate == 0.0
    made = wer.report("s", [item("", "ghost words")])
    assert made.to_dict()["edited"]["wer"] is None, "infinity is no JSON"


def test_normalisation_makes_spelling_and_case_free() -> None:
    made = wer.report("s", [item("MISTER QUILTER'S COLOUR IS TWENTY ONE", "Mr. Quilter's color is 21.")])
    assert made.edited.words.count == 0
    german = wer.report("s", [ScoredUtterance("s", "de", 1.0, "Für Ärzte", "für ärzte!")])
    assert german.edited.words == Errors(0, 0, 0, 2)


def test_rate_weighs_words_not_utterances() -> None:
    made = wer.report("s", [item("a b c d e f g h i", "a b c d e f g h i"), item("x", "y")])
    assert made.edited.words.rate == pytest.approx(1 / 10)


def test_interval_holds_the_rate_narrows_with_data_and_repeats() -> None:
    draw = random.Random(0)
    few = [Errors(0, 0, draw.randint(0, 4), 10) for _ in range(20)]
    many = few * 25
    low, high = wer.interval(few, seed=3)
    assert low < wer.total(few).rate < high
    narrow_low, narrow_high = wer.interval(many, seed=3)
    assert narrow_high - narrow_low < (high - low) / 3
    assert wer.interval(few, seed=3) == (low, high) != wer.interval(few, seed=4)
    assert wer.interval([Errors(0, 0, 1, 10)] * 5) == (0.1, 0.1)


def test_relative_reduction_is_of_the_drafts_errors() -> None:
    made = wer.report("s", [item("a b c d", "a b c x", "a b x y")])
    assert made.relative_reduction == 0.5
    worse = wer.report("s", [item("a b c d", "a x y z", "a b c x")])
    assert worse.relative_reduction == -2.0
    assert wer.report("s", [item("a", "a", "a")]).relative_reduction is None, "nothing to reduce"
    assert wer.report("s", [item("a", "a")]).relative_reduction is None, "no draft"


def test_synthetic_speech_is_scored_apart() -> None:
    items = [item("a b", "a b", source="x"), item("a b", "a c", source="y"), item("a", "z", source="synthetic")]
    made = {one.group: one for one in wer.reports(items)}
    assert list(made) == ["synthetic", "x", "y", wer.ALL]
    assert made[wer.ALL].utterances == 2
    assert made[wer.ALL].edited.words == Errors(0, 0, 1, 4)


def test_one_source_needs_no_sum() -> None:
    assert [one.group for one in wer.reports([item("a", "a"), item("b", "b")])] == ["s"]


# ---- the run


def write_manifest(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load(path: Path) -> Waveform:
    """A tone as long as the number in the file's name."""
    if path.stem == "bad":
        raise NotAudioError(f"{path.name}: not audio")
    return tone(float(path.stem))


def test_rows_without_text_are_counted_not_scored(tmp_path: Path) -> None:
    rows = [
        {"audio": "1.wav", "text": "a", "split": "test"},
        {"audio": "2.wav", "text": " ", "split": "test"},
        {"audio": "3.wav", "split": "test"},
        {"audio": "4.wav", "text": "d", "split": "dev"},
    ]
    utterances, without_text = datasets.read(write_manifest(tmp_path, rows), split="test")
    assert [one.audio for one in utterances] == [tmp_path / "1.wav"]
    assert without_text == 2


def test_limit_takes_the_first_rows_with_text(tmp_path: Path) -> None:
    rows = [{"audio": f"{n}.wav", "text": "a" if n != 1 else ""} for n in range(5)]
    utterances, _ = datasets.read(write_manifest(tmp_path, rows), limit=2)
    assert [one.audio.name for one in utterances] == ["0.wav", "2.wav"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"audio": "a.wav", "text": "x", "split": "dev"}\n', "it has splits dev"),
        ("{nonsense\n", "manifest.jsonl:1: not JSON"),
        ('{"text": "x"}\n', "manifest.jsonl:1: no 'audio'"),
    ],
)
def test_unusable_manifest_says_why(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        datasets.read(path, split="test")


def test_every_utterance_has_one_result_and_failures_are_named(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"audio": "2.wav", "text": "x", "duration": 2},
        {"audio": "bad.wav", "text": "x", "duration": 1},
        {"audio": "5.wav", "text": "x", "duration": 5},
        {"audio": "9.wav", "text": "x", "duration": 2, "start": 3, "end": 5},
    ]
    utterances, _ = datasets.read(write_manifest(tmp_path, rows))
    recognizer, clock = FakeRecognizer(), run.Clock()
    results = list(run.run(Transcriber(recognizer, SessionOptions(vad=None)), utterances, clock, load))
    heard = {result.utterance.audio.name: result.item.edited for result in results if result.item}
    assert heard == {"2.wav": "2.00 seconds", "5.wav": "5.00 seconds", "9.wav": "2.00 seconds"}
    assert [result.failure for result in results if result.failure] == ["bad.wav: not audio"]
    assert clock.audio_s == pytest.approx(9.0)
    assert clock.rtfx > 0


def test_rows_without_a_duration_share_batches_that_hold_them(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"audio": "1.wav", "text": "x"} for _ in range(40)]
    utterances, _ = datasets.read(write_manifest(tmp_path, rows))
    recognizer = FakeRecognizer(max_clip_s=30.0)
    transcriber = Transcriber(recognizer, SessionOptions(vad=None), BatchOptions(10.0))
    assert len(list(run.run(transcriber, utterances, run.Clock(), load))) == 40
    assert [len(batch) for batch in recognizer.batches] == [10] * 4


def test_warnings_of_a_recognizer_are_kept(tmp_path: Path) -> None:
    utterances, _ = datasets.read(write_manifest(tmp_path, [{"audio": "1.wav", "text": "x", "duration": 1}]))
    notice = Notice("odd", "this was odd")
    recognizer = FakeRecognizer(lambda clip: Hypothesis("x", warnings=(notice,)))
    (result,) = run.run(Transcriber(recognizer, SessionOptions(vad=None)), utterances, run.Clock(), load)
    assert result.warnings == (Notice("odd", "this was odd", 0.0, 1.0),)


@pytest.mark.parametrize("vad", [True, False])
def test_an_utterance_gets_the_transcript_of_its_file_or_its_part_of_it(tmp_path: Path, vad: bool) -> None:
    jfk = Path(__file__).parents[1] / "data" / "jfk.flac"
    parts = ({}, {"start": 2.0, "end": 9.5}, {"start": 10.0})
    rows = [{"audio": str(jfk), "text": "x", "language": "en"} | part for part in parts]
    utterances, _ = datasets.read(write_manifest(tmp_path, rows))

    def hear(clip: Waveform) -> Hypothesis:
        return Hypothesis(f"{clip.samples.sum():.4f}", f"{clip.duration}", confidence=min(1.0, clip.duration / 10))

    options = SessionOptions() if vad else SessionOptions(vad=None)
    transcriber = Transcriber(FakeRecognizer(hear, max_clip_s=4.0), options)
    results = {result.utterance.start: result for result in run.run(transcriber, utterances, run.Clock())}
    samples = audio.load(jfk).samples
    for part in parts:
        start, end = part.get("start", 0.0), part.get("end", 11.0)
        whole = transcriber.transcribe(samples[round(start * 16_000) : round(end * 16_000)], sample_rate=16_000)
        item = results[start].item
        assert item is not None and (item.edited, item.draft, item.duration) == (whole.text, whole.draft, end - start)
        confidences = [segment.confidence or 0.0 for segment in whole.segments]
        assert min(confidences) <= (item.confidence or 0.0) <= max(confidences)


def test_the_draft_of_an_answer_without_text_is_empty() -> None:
    items = [ScoredUtterance("s", "en", 1.0, "a b", "a b", "a c"), ScoredUtterance("s", "en", 1.0, "c", "")]
    (report,) = wer.reports(items)
    assert report.draft is not None and report.draft.words.count == 2
    (report,) = wer.reports([*items, ScoredUtterance("s", "en", 1.0, "c", "c")])
    assert report.draft is None, "one answer with a text has no draft"


def test_command_prints_a_table_and_writes_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds in (1, 2):
        samples = np.zeros(16_000 * seconds, dtype=np.float32)
        soundfile.write(tmp_path / f"{seconds}.wav", samples, 16_000)
    rows: list[dict[str, object]] = [
        {"audio": "1.wav", "text": "sing songs", "source": "mine", "language": "en", "duration": 1},
        {"audio": "2.wav", "text": "play games", "source": "mine", "language": "en", "duration": 2},
        {"audio": "2.wav", "text": "", "source": "mine", "language": "en", "duration": 2},
        {"audio": "gone.wav", "text": "gone", "source": "mine", "language": "en", "duration": 1},
    ]

    def hear(clip: Waveform) -> Hypothesis:
        return Hypothesis("sing songs" if clip.duration < 1.5 else "play names", draft="ring songs")

    recognizer = FakeRecognizer(hear, name="made-up")
    monkeypatch.setattr("redline.load.load_model", lambda name, **_: Transcriber(recognizer, SessionOptions(vad=None)))
    app = typer.Typer()
    app.command()(evaluate)
    out = tmp_path / "scores.json"
    result = CliRunner().invoke(app, ["--data", str(write_manifest(tmp_path, rows)), "--json", str(out)])
    assert result.exit_code == 1, "one file is missing"
    assert "gone.wav" in result.stderr and "1 rows without text" in result.stderr
    assert "mine" in result.stdout and "25.00 %" in result.stdout and "66.7 %" in result.stdout
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["reports"][0]["edited"]["wer"] == 0.25
    assert written["reports"][0]["draft"]["wer"] == 0.75
    assert {one["edited"] for one in written["utterances"]} == {"sing songs", "play names", None}


# ---- other inputs, other scorers, several models


def test_a_folder_of_recordings_with_texts_is_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name, text in (("a", "one two"), ("deep/b", "three"), ("c", " ")):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(1600, dtype=np.float32), 16_000)
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "notes.txt").write_text("no recording of this name", encoding="utf-8")
    found, without_text = datasets.read(tmp_path)
    assert [(one.audio.name, one.text, one.source) for one in found] == [
        ("a.wav", "one two", tmp_path.name),
        ("b.wav", "three", tmp_path.name),
    ]
    assert without_text == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"a\.wav needs a\.txt"):
        datasets.read(tmp_path / "empty")


def test_lhotse_cuts_are_a_data_set(tmp_path: Path) -> None:
    from lhotse import CutSet, Recording, SupervisionSegment

    soundfile.write(tmp_path / "a.wav", np.zeros(48_000, dtype=np.float32), 16_000)
    cut = Recording.from_file(tmp_path / "a.wav").to_cut()
    cut.supervisions.append(
        SupervisionSegment("s", cut.recording_id, 0, 3, text="hello there", language="en", speaker="x")
    )
    path = tmp_path / "cuts.jsonl.gz"
    CutSet.from_cuts([cut.truncate(offset=1.0, duration=1.5), cut.drop_supervisions().with_id("mute")]).to_file(path)
    (found,), without_text = datasets.read(path)
    assert (found.text, found.speaker, found.start, found.end) == ("hello there", "x", 1.0, 2.5)
    assert without_text == 1
    (tmp_path / "bad.jsonl.gz").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="cannot be read as lhotse cuts"):
        datasets.read(tmp_path / "bad.jsonl.gz")


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_a_second_scorer_counts_the_same_errors(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = zip(*pairs, strict=True)
    other = wer.second_opinion(references, hypotheses)
    first = wer.total(wer.word_errors(references, hypotheses))
    assert other is not None and (other.count, other.length) == (first.count, first.length)


def test_a_comparison_is_sure_only_when_the_difference_is_steady() -> None:
    first = [Errors(0, 0, 2, 10)] * 40
    better = wer.compare(first, [Errors(0, 0, 1, 10)] * 40)
    assert better.significant and better.difference == pytest.approx(-0.1) and better.wins == 40
    draw = random.Random(0)
    noisy = wer.compare(first, [Errors(0, 0, draw.choice([1, 3]), 10) for _ in first])
    assert not noisy.significant and noisy.wins + noisy.losses == 40
    with pytest.raises(DataError, match="same utterances"):
        wer.compare(first, first[:3])


def test_several_models_are_compared_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(8000 * (number + 1), dtype=np.float32), 16_000)
    rows: list[dict[str, object]] = [
        {"audio": f"{number}.wav", "text": "sing songs", "duration": (number + 1) / 2} for number in range(3)
    ]

    def load_model(name: str, **_: object) -> Transcriber:
        heard = "sing songs" if name == "good" else "ring songs"
        recognizer = FakeRecognizer(lambda clip: Hypothesis(heard, draft="x songs"), name=name)
        return Transcriber(recognizer, SessionOptions(vad=None))

    monkeypatch.setattr("redline.load.load_model", load_model)
    app = typer.Typer()
    app.command()(evaluate)
    arguments = ["--data", str(write_manifest(tmp_path, rows)), "--model", "bad", "--model", "good"]
    out, page = tmp_path / "scores.json", tmp_path / "report.html"
    result = CliRunner().invoke(app, [*arguments, "--json", str(out), "--report", str(page)])
    assert result.exit_code == 0, result.stderr
    assert "good against bad: -50.00 points" in result.stdout and "better on 3" in result.stdout
    assert "kaldialign counts 3 errors in 6 words and agrees" in result.stdout
    assert [one["model"] for one in json.loads(out.read_text(encoding="utf-8"))] == ["bad", "good"]
    assert "sing" in page.read_text(encoding="utf-8")
