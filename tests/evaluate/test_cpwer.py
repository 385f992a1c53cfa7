"""cpWER: speakers are paired as suits the answer best, and what a model does not say is told, not scored."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from redline.cli.evaluate import evaluate
from redline.errors import DataError, RedlineError
from redline.evaluate import cpwer, run
from redline.evaluate import wer as score
from redline.evaluate.run import Result
from redline.evaluate.wer import Errors, ScoredUtterance
from redline.longform.session import SessionOptions
from redline.manifest import Utterance, read_manifest, write_manifest
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from redline.types import Hypothesis, Segment, Transcript, Turn, Word

SAID = (Turn("ann", 0.0, 1.0, "Good morning."), Turn("bob", 1.0, 2.0, "Good evening!"), Turn("ann", 2.0, 3.0, "Well"))


def best_pairing(
    reference: Mapping[str, str], hypothesis: Mapping[str, str], reference_sort: object, hypothesis_sort: object
) -> SimpleNamespace:
    """What meeteval counts, by trying every pairing of speakers."""
    if max(len(reference), len(hypothesis)) > 6:
        raise RuntimeError("Are you sure?\nso many speakers")
    size = max(len(reference), len(hypothesis))
    said = [*reference.values(), *[""] * (size - len(reference))]
    heard = [*hypothesis.values(), *[""] * (size - len(hypothesis))]
    tries = [score.total(score.word_errors(said, order)) for order in itertools.permutations(heard)]
    best = min(tries, key=lambda one: one.count, default=Errors())
    return SimpleNamespace(
        errors=best.count,
        insertions=best.insertions,
        deletions=best.deletions,
        substitutions=best.substitutions,
        length=best.length,
        missed_speaker=max(0, len(reference) - len(hypothesis)),
        falarm_speaker=max(0, len(hypothesis) - len(reference)),
    )


@pytest.fixture
def meeteval(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package, so that these tests run where it cannot be compiled."""
    package, wer = ModuleType("meeteval"), ModuleType("meeteval.wer")
    package.__spec__ = ModuleSpec("meeteval", None)
    wer.cp_word_error_rate = best_pairing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "meeteval", package)
    monkeypatch.setitem(sys.modules, "meeteval.wer", wer)


def result(said: tuple[Turn, ...], heard: tuple[Turn, ...], text: str | None = None) -> Result:
    reference = " ".join(turn.text for turn in said)
    utterance = Utterance("u", Path("u.wav"), reference, 1.0, "en", turns=said)
    edited = " ".join(turn.text for turn in heard) if text is None else text
    return Result(utterance, ScoredUtterance("s", "en", 1.0, reference, edited), turns=heard)


def test_names_of_speakers_and_cuts_of_turns_make_no_difference(meeteval: None) -> None:
    heard = (Turn("2", 0, 1, "good"), Turn("2", 0, 1, "MORNING, well"), Turn("1", 1, 2, "good evening"))
    found = cpwer.score([result(SAID, heard)])
    assert found is not None
    assert found.errors == Errors(0, 0, 0, 5)
    assert (found.utterances, found.speakers, found.missed, found.invented) == (1, 2, 0, 0)


def test_a_word_given_to_the_wrong_speaker_counts_twice(meeteval: None) -> None:
    heard = (Turn("1", 0, 1, "good morning well evening"), Turn("2", 1, 2, "good"))
    found = cpwer.score([result(SAID, heard)])
    assert found is not None and found.errors == Errors(1, 1, 0, 5)
    alone = cpwer.score([result(SAID, (Turn("1", 0, 3, "good morning well good evening"),))])
    assert alone is not None and alone.errors == Errors(2, 2, 0, 5) and alone.missed == 1


def test_reference_turns_are_put_in_order_of_time(meeteval: None) -> None:
    found = cpwer.score([result(SAID[::-1], (Turn("1", 0, 1, "good morning well"), Turn("2", 1, 2, "good evening")))])
    assert found is not None and found.errors.count == 0


def test_a_model_that_names_nobody_gets_no_number() -> None:
    found = cpwer.score([result(SAID, (), "good morning good evening well"), result(SAID, (), "")])
    assert found is not None
    assert str(found) == "no number: 2 references name speakers, but the model names none"
    assert found.to_dict()["cpwer"] is None
    assert cpwer.score([result((), ())]) is None, "no reference names speakers"


def test_an_empty_answer_loses_its_words_where_others_name_speakers(meeteval: None) -> None:
    good = (Turn("1", 0, 1, "good morning well"), Turn("2", 1, 2, "good evening"))
    found = cpwer.score([result(SAID, good), result(SAID, (), ""), result(SAID, (), "good morning")])
    assert found is not None
    assert found.errors == Errors(0, 5, 0, 10)
    assert (found.utterances, found.left_out) == (2, 1)
    assert str(found).startswith("50.00 % (5 errors in 10 words of 4 speakers in 2 utterances")
    assert str(found).endswith("; 1 answers without speakers left out")


def test_a_missing_package_and_too_many_speakers_are_told(monkeypatch: pytest.MonkeyPatch, meeteval: None) -> None:
    crowd = tuple(Turn(str(number), 0, 1, "yes") for number in range(7))
    with pytest.raises(DataError, match=r"u: 7 speakers in the reference and 1 in the answer .*Are you sure"):
        cpwer.score([result(crowd, (Turn("1", 0, 1, "yes"),))])
    assert cpwer.installed()
    monkeypatch.setitem(sys.modules, "meeteval", None)
    monkeypatch.delitem(sys.modules, "meeteval.wer")
    assert not cpwer.installed()
    with pytest.raises(RedlineError, match=r"pip install 'redline\[speakers\]'"):
        cpwer.score([result(SAID, (Turn("1", 0, 1, "yes"),))])


def test_turns_come_from_the_answer_its_words_or_its_segments() -> None:
    words = (Word(0, 1, "a", speaker="x"), Word(1, 2, " b", speaker="x"), Word(2, 3, "c"), Word(3, 4, "d", speaker="x"))
    expected = (Turn("x", 0, 2, "a b"), Turn("", 2, 3, "c"), Turn("x", 3, 4, "d"))
    spoken = (Segment(0, 0, 4, "a b c d", words=words), Segment(1, 4, 6, "e f", speaker="y", words=(Word(4, 5, "e"),)))
    assert run.turns_of(Transcript("a b c d e f", spoken)) == (*expected, Turn("y", 4, 6, "e f"))
    assert run.turns_of(Transcript("a", spoken, turns=SAID)) == SAID
    assert run.turns_of(Transcript("a", (Segment(0, 0, 1, "a"),))) == ()


def test_turns_of_a_manifest_are_read_and_written_back(tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "text": "Good", "start": 5, "end": 9, "turns": [turn.to_dict() for turn in SAID]}]
    (found,) = read_manifest(write_manifest(tmp_path / "m.jsonl", rows))
    assert found.turns == SAID
    assert read_manifest(write_manifest(tmp_path / "again.jsonl", [found.to_dict()])) == [found]


@pytest.mark.parametrize(
    "turn",
    [
        {"start": 0, "end": 1, "text": "a"},
        {"speaker": "", "start": 0, "end": 1, "text": "a"},
        {"speaker": "a", "start": 2, "end": 1, "text": "a"},
        {"speaker": "a", "start": 0, "end": "soon", "text": "a"},
        "ann",
    ],
)
def test_turns_that_cannot_be_used_are_named_with_their_line(tmp_path: Path, turn: object) -> None:
    rows = [{"audio": "a.wav", "text": "x"}, {"audio": "a.wav", "text": "x", "turns": [turn]}]
    with pytest.raises(
        DataError, match=r"m\.jsonl:2: turns has .*start and end in seconds .* and with speaker and text"
    ):
        read_manifest(write_manifest(tmp_path / "m.jsonl", rows))


def test_the_command_tells_cpwer_in_all_three_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meeteval: None
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000, dtype=np.float32), 16_000)
    row = {"audio": "a.wav", "text": "good morning good evening well", "duration": 1}
    data = write_manifest(tmp_path / "m.jsonl", [row | {"turns": [turn.to_dict() for turn in SAID]}])
    heard = ("good", "morning", "well", "good", "evening")
    named = tuple(Word(number, number + 1, text, speaker="1") for number, text in enumerate(heard))

    def load_model(name: str, **_: object) -> Transcriber:
        words = named if name == "plus" else ()
        hypothesis = Hypothesis("good morning good evening well", words=words)
        return Transcriber(FakeRecognizer(lambda clip: hypothesis, name=name), SessionOptions(vad=None))

    monkeypatch.setattr("redline.load.load_model", load_model)
    app = typer.Typer()
    app.command()(evaluate)
    out, page = tmp_path / "scores.json", tmp_path / "report.html"
    arguments = ["--data", str(data), "--model", "plus", "--model", "plain", "--json", str(out), "--report", str(page)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    line = "80.00 % (4 errors in 5 words of 2 speakers in 1 utterances; speakers: 1 missed, 0 invented)"
    assert f"  cpWER: {line}\n" in done.stdout
    assert "  cpWER: no number: 1 references name speakers, but the model names none\n" in done.stdout
    plus, plain = json.loads(out.read_text(encoding="utf-8"))
    assert plus["speakers"]["cpwer"] == 0.8 and plus["facts"]["cpWER"] == line and plain["speakers"]["cpwer"] is None
    assert line in page.read_text(encoding="utf-8")
    monkeypatch.setitem(sys.modules, "meeteval", None)
    monkeypatch.delitem(sys.modules, "meeteval.wer")
    done = CliRunner().invoke(app, arguments[:4])
    assert done.exit_code == 0 and "warning: speakers will not be scored" in done.stderr
    assert "  cpWER: counting needs meeteval, which is not installed: pip install 'redline[speakers]'" in done.stdout


TEXTS = st.dictionaries(st.sampled_from("pqr"), st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map(" ".join))


@pytest.mark.extras
@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_meeteval_counts_what_trying_every_pairing_counts(said: dict[str, str], heard: dict[str, str]) -> None:
    reference, answer = (tuple(Turn(who, 0, 1, text) for who, text in one.items()) for one in (said, heard))
    found = cpwer.score_turns(reference, answer, str.strip)
    expected = best_pairing(said, heard, False, False)
    assert (found.errors.count, found.errors.length) == (expected.errors, expected.length)
    assert (found.missed, found.invented) == (expected.missed_speaker, expected.falarm_speaker)


@pytest.mark.extras
def test_meeteval_refuses_a_crowd_with_an_error_for_people() -> None:
    crowd = tuple(Turn(str(number), 0, 1, "yes") for number in range(21))
    with pytest.raises(DataError, match=r"21 speakers in the reference and 21 in the answer are too many .*cut"):
        cpwer.score([result(crowd, crowd)])
