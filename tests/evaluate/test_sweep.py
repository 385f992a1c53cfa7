"""`redline sweep`: strategies of cutting, and errors at seams."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from redline import load as load_module
from redline.cli.main import app
from redline.errors import ConfigError, UnsupportedTaskError
from redline.evaluate.seams import join_utterances, segment_errors
from redline.evaluate.sweep import run_strategy, strategies_of
from redline.longform.session import SessionOptions
from redline.longform.strategies import Strategy, StrategySession, within
from redline.manifest import Utterance
from redline.testing import FakeRecognizer, tone
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, ClipLimits, Hypothesis, Request, Task, Waveform, Word

SLOT_S = 0.5
"""Seconds of a word in `spelled`."""
NAMES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibex", "jay", "kite", "lynx", "mole")


def spelled(*words: int) -> np.ndarray:
    """Sound in which the n-th word is half a second of level n."""
    levels = [np.full(round(SLOT_S * SAMPLE_RATE), 0.05 * (word + 1)) for word in words]
    return np.concatenate(levels).astype(np.float32)


class Reader(FakeRecognizer):
    """Reads `spelled` sound: a word that is cut in two is heard in each part that has a fifth of it."""

    def __init__(self, prefix: bool = False, **options: float) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.takes_prefix, self.asked = prefix, list[Request]()

    def limits(self, task: Task) -> ClipLimits:
        if task.prefix is not None and not self.takes_prefix:
            raise UnsupportedTaskError("cannot go on from a prefix")
        return self.clip_limits

    def answer(self, request: Request) -> Hypothesis:
        self.asked.append(request)
        levels = np.round(request.clip.samples / 0.05).astype(int) - 1
        borders = [0, *(np.flatnonzero(np.diff(levels)) + 1).tolist(), len(levels)]
        words = []
        for start, end in pairwise(borders):
            if end - start >= 0.2 * SLOT_S * SAMPLE_RATE and levels[start] >= 0:
                words.append(Word(start / SAMPLE_RATE, end / SAMPLE_RATE, NAMES[levels[start]]))
        before = len((request.task.prefix or "").split())
        return Hypothesis(" ".join(word.text for word in words[before:]), timing=lambda: tuple(words))


COUNT = [number % 13 for number in range(39)]
TEXT = " ".join(NAMES[number] for number in COUNT)


def heard(strategy: Strategy, **options: float) -> tuple[list[str], Reader]:
    """The segments of the words of COUNT by a strategy."""
    reader = Reader(prefix=True, **options)
    wave = Waveform(spelled(*COUNT), "count")
    session = StrategySession(reader.limits(Task()), Task(), SessionOptions(vad=None), strategy, wave)
    session.feed(wave.samples)
    session.close()
    while requests := session.ready():
        for request in requests:
            session.put(request.id, reader.answer(request))
    return [segment.text for segment in session.finish().segments], reader


def test_fixed_windows_cut_words_in_two_and_overlap_mends_them() -> None:
    cut, reader = heard(Strategy("fixed", 3.25))
    assert {request.clip.duration for request in reader.asked[:-1]} == {3.25}
    broken = segment_errors(TEXT, cut)
    assert broken.insertions > 0, "half words are heard on both sides"
    assert broken.at_seams[0] == broken.errors > 0, "all errors are at seams"
    mended, reader = heard(Strategy("fixed", 3.25, overlap_s=1.0))
    assert " ".join(mended) == TEXT and reader.asked[1].clip.duration == 5.25
    assert reader.asked[0].clip.duration == 4.25 and len(mended) == len(cut)


def test_a_prefix_goes_on_from_the_window_before() -> None:
    parts, reader = heard(Strategy("fixed", 3.0, prefix="previous"))
    assert " ".join(parts) == TEXT
    assert reader.asked[1].task.prefix == parts[0] and reader.asked[1].clip.duration == 6.0


def test_windows_that_a_recognizer_cannot_take_are_refused() -> None:
    limits = ClipLimits(30.0)
    assert Strategy().longest_s(limits) == 30.0 and Strategy(overlap_s=2.0).longest_s(limits) == 26.0
    assert Strategy(prefix="previous").longest_s(limits) == 15.0
    for strategy in (Strategy(window_s=31.0), Strategy(window_s=29.0, overlap_s=1.0), Strategy(overlap_s=15.0)):
        with pytest.raises(ConfigError, match="are possible"):
            strategy.longest_s(limits)
    with pytest.raises(ConfigError, match="no overlap"):
        Strategy(prefix="previous", overlap_s=1.0).longest_s(limits)


def test_words_count_where_their_middle_is() -> None:
    words = (Word(0.0, 0.9, "a"), Word(0.9, 1.3, "b"), Word(1.5, 2.6, "c"), Word(2.7, 3.0, "d"))
    kept = within(Hypothesis("a b c d", draft="x", words=words), 1.0, 1.2)
    assert kept.text == "b c" and kept.draft is None and kept.words[0].start == 0.0
    assert within(Hypothesis("a b"), 1.0, 1.0).text == "a b", "what cannot be aligned stays"


def test_the_usual_strategy_is_the_usual_session() -> None:
    wave = tone(95.0)
    model = Transcriber(FakeRecognizer(), SessionOptions(vad=None))
    session = StrategySession(model.recognizer.limits(Task()), Task(), model.options, Strategy(), wave)
    usual = model.session(Task())
    for each in (session, usual):
        each.feed(wave.samples)
        each.close()
    assert session.windows == usual.windows and len(usual.windows) > 3


def test_errors_are_counted_where_they_are() -> None:
    errors = segment_errors("a b c d e f g h i j", ["a b c x", "d e f", "", "h h i"])
    assert errors.seams == (3, 6, 6) and (errors.insertions, errors.deletions, errors.errors) == (1, 1, 3)
    assert errors.at_seams == (2, 7), "the last word, which is missing, is not near one"
    assert segment_errors("", ["a"]).errors == 1 and segment_errors("a b", []).deletions == 2
    quiet = segment_errors("a b c", ["a b c"])
    assert quiet.errors == 0 and quiet.seams == () and quiet.at_seams == (0, 0)


def rows(count: int, language: str = "en") -> list[Utterance]:
    return [Utterance(f"{language}{n}", Path(f"{n}.wav"), TEXT, 20.0, language) for n in range(count)]


def test_utterances_are_joined_by_language() -> None:
    load = lambda row: Waveform(spelled(*COUNT), row.id)  # noqa: E731
    joined = list(join_utterances([*rows(3), *rows(1, "de")], load, longest_s=40.0, pause_s=0.5))
    assert [(each.language, round(each.wave.duration, 1)) for each in joined] == [
        ("en", 39.5),
        ("en", 19.5),
        ("de", 19.5),
    ]
    assert len(list(join_utterances(rows(3), load, longest_s=0.0, pause_s=0.5))) == 3


def test_all_combinations_but_those_that_make_no_sense() -> None:
    chosen = strategies_of(["pauses", "fixed"], [10.0, None], [0.0, 2.0], ["none", "previous"])
    assert len(chosen) == 12 and not any(each.overlap_s and each.prefix == "previous" for each in chosen)


def sweep(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: object) -> Result:
    soundfile.write(folder / "a.wav", spelled(*COUNT), SAMPLE_RATE, subtype="FLOAT")
    row = {"audio": "a.wav", "text": TEXT, "language": "en", "split": "dev"}
    (folder / "set.jsonl").write_text("".join(json.dumps(row | {"id": f"{n}"}) + "\n" for n in range(4)))
    model = Transcriber(Reader(max_clip_s=20.0), SessionOptions(vad=None))
    monkeypatch.setattr(load_module, "load_model", lambda *args, **kwargs: model)
    return CliRunner().invoke(app, ["sweep", "--data", str(folder / "set.jsonl"), *map(str, options)])


def test_the_table_and_the_json_say_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    options = ("--windows", "3.25,30,max", "--overlaps", "0,1", "--cuts", "fixed", "--minutes", "1", "--json", path)
    result = sweep(monkeypatch, tmp_path, *options, "--pause", "0")
    assert result.exit_code == 0, result.output
    values = json.loads(path.read_text())
    scores = {(each["strategy"]["window_s"], each["strategy"]["overlap_s"]): each for each in values["scores"]}
    assert set(scores) == {(3.25, 0), (3.25, 1.0), (None, 0), (None, 1.0)}
    assert scores[3.25, 1.0]["wer"] == 0 < scores[3.25, 0]["wer"] and scores[3.25, 0]["errors_per_seam"] > 0
    assert scores[3.25, 0]["seams"] > 20 and scores[3.25, 0]["rtfx"] > 0
    reasons = [each["reason"] for each in values["left_out"]]
    assert len(reasons) == 2 + 3 and sum("prefix" in reason for reason in reasons) >= 1
    assert "errors a seam" in result.stdout and result.stdout.count("fixed") == 5 and "left out" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--windows", "0.5"), "seconds from 1 on"),
        (("--windows", "long"), "seconds from 1 on"),
        (("--overlaps", "-1"), "seconds from 0 on"),
        (("--cuts", "anywhere"), "pauses, fixed"),
        (("--prefixes", "previous", "--overlaps", "2"), "takes no overlap"),
        (("--windows", "90"), "no strategy can be followed"),
    ],
)
def test_wrong_options_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    result = sweep(monkeypatch, tmp_path, *options)
    assert result.exit_code == 2 and said in " ".join(result.output.replace("│", "").split())


def test_a_prefix_is_measured_with_models_that_take_one() -> None:
    joined = list(join_utterances(rows(2), lambda row: Waveform(spelled(*COUNT)), longest_s=30.0, pause_s=0.0))
    model = Transcriber(Reader(prefix=True), SessionOptions(vad=None))
    score = run_strategy(model, joined, Strategy("fixed", 3.0, prefix="previous"))
    assert score.wer == 0 and score.seams == score.windows - score.recordings
    with pytest.raises(UnsupportedTaskError):
        run_strategy(Transcriber(Reader()), joined, Strategy(prefix="previous"))
