"""Word times: only words that were heard right are measured, from the start of the part that was heard."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from redline.cli.evaluate import evaluate
from redline.errors import DataError
from redline.evaluate import run, word_times
from redline.evaluate.run import Result
from redline.evaluate.wer import ScoredUtterance
from redline.longform.session import SessionOptions
from redline.manifest import Utterance, read_manifest, write_manifest
from redline.testing import FakeRecognizer, tone
from redline.transcriber import Transcriber
from redline.types import Hypothesis, Waveform, Word


def timed(text: str, shift: float = 0.0, step: float = 0.5) -> tuple[Word, ...]:
    """Words of equal length, one after the other."""
    return tuple(
        Word(round(n * step + shift, 3), round((n + 1) * step + shift, 3), word) for n, word in enumerate(text.split())
    )


def result(said: tuple[Word, ...], heard: tuple[Word, ...], text: str | None = None, language: str = "en") -> Result:
    reference = " ".join(word.text for word in said)
    utterance = Utterance("u", Path("u.wav"), reference, 1.0, language, words=said)
    edited = " ".join(word.text for word in heard) if text is None else text
    return Result(utterance, ScoredUtterance("s", language, 1.0, reference, edited), words=heard)


def found(*results: Result) -> word_times.TimeScore:
    made = word_times.score(results)
    assert made is not None
    return made


def test_errors_are_of_starts_and_ends_in_milliseconds() -> None:
    said = (Word(0.0, 0.4, "One"), Word(0.5, 0.9, "two,"), Word(1.0, 1.4, "three"), Word(1.5, 1.9, "four"))
    heard = (Word(0.02, 0.4, "one"), Word(0.5, 1.0, "two"), Word(1.0, 1.6, "three"), Word(1.5, 2.5, "four"))
    one = found(result(said, heard))
    assert one.starts == (20.0, 0.0, 0.0, 0.0)
    assert one.ends == (0.0, 100.0, 200.0, 600.0)
    assert one.to_dict() == {
        "aas_ms": 225.0,
        "median_end_ms": 150.0,
        "mean_start_ms": 5.0,
        "median_start_ms": 0.0,
        "shift_ms": 115.0,
        "late_ms": 225.0,
        "within_20_ms": 0.25,
        "within_50_ms": 0.25,
        "within_100_ms": 0.5,
        "within_200_ms": 0.75,
        "matched": 4,
        "words": 4,
        "utterances": 1,
        "left_out": 0,
    }
    assert str(one) == (
        "ends off by 225.0 ms (AAS), median 150.0 ms, 25.0 % within 20 ms, 25.0 % within 50 ms, 50.0 % within 100 ms, "
        "75.0 % within 200 ms; starts off by 5.0 ms; 4 of 4 words matched; ends are 225.0 ms late on average"
    )


def test_only_words_that_were_heard_right_count() -> None:
    one = found(result(timed("a b c d"), timed("a x c", shift=0.1)))
    assert one.ends == (100.0, 100.0) and (one.matched, one.words) == (2, 4)
    inserted = found(result(timed("a b"), timed("a new b")))
    assert inserted.ends == (0.0, 500.0)


def test_normalisation_is_that_of_the_error_rate_word_by_word() -> None:
    assert found(result(timed("Mister Colour uh twenty"), timed("Mr. color 20"))).ends == (0.0, 0.0, 500.0)
    assert found(result(timed("uh a"), timed("a"))).words == 1, "what normalisation takes away is no word"
    assert found(result(timed("für"), timed("fur"), language="de")).matched == 0


def test_a_word_counts_only_against_one_word() -> None:
    said = found(result(timed("I don't know"), timed("I do not know")))
    assert said.words == 3 and said.ends == (0.0, 500.0), "I and know"
    assert found(result(timed("I do not know"), timed("I don't know"))).ends == (0.0, 500.0)
    assert found(result(timed("I don't know"), timed("I don't know"))).matched == 3


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "can't"]), min_size=1, max_size=8), st.floats(-0.2, 0.2))
def test_a_shift_of_all_words_is_the_error_of_each(words: list[str], shift: float) -> None:
    said, heard = timed(" ".join(words), 1.0), timed(" ".join(words), 1.0 + round(shift, 3))
    one = found(result(said, heard))
    assert one.matched == one.words == len(words)
    assert one.ends == pytest.approx([abs(round(1000 * round(shift, 3)))] * len(words), abs=1e-6)


def test_a_model_without_times_gets_no_number_and_silence_loses_its_words() -> None:
    said = timed("a b")
    none = found(result(said, (), "a b"), result(said, (), ""))
    assert str(none) == "no number: 2 references have word times, but the model tells none"
    assert none.to_dict()["aas_ms"] is None and none.to_dict()["within_100_ms"] is None
    some = found(result(said, said), result(said, (), ""), result(said, (), "a b"))
    assert (some.matched, some.words, some.utterances, some.left_out) == (2, 4, 2, 1)
    assert "2 of 4 words matched; " in str(some) and str(some).endswith("; 1 answers without times left out")
    assert str(found(result(said, timed("x y")))) == "no number: none of 2 reference words was heard right"
    assert word_times.score([result((), timed("a"))]) is None


def test_words_of_a_manifest_are_read_and_written_back(tmp_path: Path) -> None:
    words = [{"start": 0.1, "end": 0.5, "text": "Hi"}, {"start": 0.5, "end": 0.5, "text": "you"}]
    (one,) = read_manifest(write_manifest(tmp_path / "m.jsonl", [{"audio": "a.wav", "text": "Hi you", "words": words}]))
    assert one.words == (Word(0.1, 0.5, "Hi"), Word(0.5, 0.5, "you"))
    assert one.to_dict()["words"] == words
    assert read_manifest(write_manifest(tmp_path / "again.jsonl", [one.to_dict()])) == [one]
    wrong = {"audio": "a.wav", "text": "x", "words": [{"start": -1, "end": 0, "text": "x"}]}
    with pytest.raises(DataError, match=r'm\.jsonl:1: words has .*"start": -1.*\(0 <= start <= end\) and with text'):
        read_manifest(write_manifest(tmp_path / "m.jsonl", [wrong]))


def test_times_count_from_the_start_of_the_part(tmp_path: Path) -> None:
    words = [{"start": 0.0, "end": 0.5, "text": "a"}, {"start": 0.5, "end": 1.0, "text": "b"}]
    row = {"audio": "9.wav", "text": "a b", "start": 4, "end": 5, "words": words}
    utterances = read_manifest(write_manifest(tmp_path / "m.jsonl", [row]))
    recognizer = FakeRecognizer(lambda clip: Hypothesis("a b", words=timed("a b", 0.03)))
    (one,) = run.run(Transcriber(recognizer, SessionOptions(vad=None)), utterances, run.Clock(), lambda path: tone(9.0))
    assert recognizer.batches == [[1.0]]
    assert found(one).ends == (30.0, 30.0)


def test_the_command_tells_word_times_and_keeps_synthetic_speech_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for seconds, source in ((1, "mine"), (2, "synthetic")):
        soundfile.write(tmp_path / f"{seconds}.wav", np.zeros(16_000 * seconds, dtype=np.float32), 16_000)
        words = [{"start": word.start, "end": word.end, "text": word.text} for word in timed("sing songs")]
        rows.append({"audio": f"{seconds}.wav", "text": "sing songs", "source": source, "words": words})

    def hear(clip: Waveform) -> Hypothesis:
        return Hypothesis("sing songs", words=timed("sing songs", 0.05 if clip.duration < 1.5 else 0.15))

    monkeypatch.setattr(
        "redline.load.load_model", lambda name, **_: Transcriber(FakeRecognizer(hear), SessionOptions(vad=None))
    )
    app = typer.Typer()
    app.command()(evaluate)
    out, page = tmp_path / "scores.json", tmp_path / "report.html"
    data = write_manifest(tmp_path / "m.jsonl", rows)
    done = CliRunner().invoke(app, ["--data", str(data), "--json", str(out), "--report", str(page)])
    assert done.exit_code == 0, done.output
    line = (
        "ends off by 50.0 ms (AAS), median 50.0 ms, 0.0 % within 20 ms, 100.0 % within 50 ms, 100.0 % within 100 ms, "
    )
    line += "100.0 % within 200 ms; starts off by 50.0 ms; 2 of 2 words matched"
    assert f"  word times: {line}; ends are 50.0 ms late on average\n" in done.stdout
    assert "  word times, synthetic: ends off by 150.0 ms" in done.stdout
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["word_times"]["aas_ms"] == 50.0 and written["word_times_synthetic"]["within_100_ms"] == 0.0
    assert written["speakers"] is None and line in written["facts"]["word times"]
    assert line in page.read_text(encoding="utf-8")
