"""`redline evaluate`: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import Result as Done

from redline.errors import UnsupportedTaskError
from redline.manifest import write_manifest
from redline.testing import FakeRecognizer
from redline.types import ClipLimits, Hypothesis, Request, Task, Turn, Waveform, Word
from tests.evaluate.results import SPEAKERS, timed

Command = Callable[..., Done]


class Obedient(FakeRecognizer):
    """A recognizer that answers by what it is asked; it refuses one kind of task."""

    def __init__(self, refused: str = "", name: str = "fake") -> None:
        super().__init__(name=name)
        self.refused = refused

    def limits(self, task: Task) -> ClipLimits:
        if self.refused and getattr(task, self.refused):
            raise UnsupportedTaskError(f"{self.name} cannot do {self.refused}")
        return super().limits(task)

    def answer(self, request: Request) -> Hypothesis:
        return answer(request.clip, request.task)


def answer(clip: Waveform, task: Task) -> Hypothesis:
    """Writes a name only when it is in the prompt, and then one that is not said, too, in the longer recording."""
    if task.speakers:
        turns = (Turn("1", 0.0, 0.4, "mister"), Turn("2", 0.4, 0.9, "quilter"))
        return Hypothesis("mister quilter", turns=turns, tagged="[Speaker 1]: mister [Speaker 2]: quilter")
    if task.words:
        words = (Word(0.0, 0.43, "mister"), Word(0.43, 0.9, "quilter"))
        return Hypothesis("mister quilter", words=words, tagged="mister [T:43] quilter [T:9")
    if "Quilter" in task.keywords:
        return Hypothesis("mister quilter")
    return Hypothesis("and ruggedo" if clip.duration > 1.5 and "Ruggedo" in task.keywords else "mister quilt")


def corpus(folder: Path, *rows: dict[str, Any]) -> Path:
    """A manifest of recordings of silence, as long as their rows tell."""
    for number, row in enumerate(rows, start=1):
        row.setdefault("audio", f"{number}.wav")
        samples = np.zeros(round(16_000 * row["duration"]), dtype=np.float32)
        soundfile.write(folder / row["audio"], samples, 16_000)
    return write_manifest(folder / "m.jsonl", rows)


@pytest.fixture
def command(tmp_path: Path, evaluate_with: Command) -> Command:
    """Evaluates made-up models on two recordings; only the one called plus can be asked for everything."""
    words = [{"start": 0.0, "end": 0.4, "text": "mister"}, {"start": 0.4, "end": 0.9, "text": "Quilter"}]
    turns = [{"speaker": name, **word} for name, word in zip(("ann", "bob"), words, strict=True)]
    first: dict[str, Any] = {"text": "mister Quilter", "keywords": ["Quilter"], "words": words, "turns": turns}
    second = {"text": "mister Ruggedo", "keywords": ["Ruggedo"]}
    data = corpus(tmp_path, *({**row, "duration": n, "source": "mine"} for n, row in enumerate((first, second), 1)))

    def model(name: str) -> FakeRecognizer:
        return Obedient({"base": "speakers", "nar": "keywords"}.get(name, ""), name)

    def invoke(*arguments: str) -> Done:
        files = ("--json", tmp_path / "scores.json", "--report", tmp_path / "page.html")
        return evaluate_with(model, "--data", data, *files, *arguments)

    return invoke


def scores(folder: Path) -> Any:
    return json.loads((folder / "scores.json").read_text(encoding="utf-8"))


def test_a_table_is_printed_and_the_same_numbers_are_written(tmp_path: Path, evaluate_with: Command) -> None:
    row = {"source": "mine", "language": "en"}
    data = corpus(
        tmp_path,
        {**row, "text": "sing songs", "duration": 1},
        {**row, "text": "play games", "duration": 2},
        {**row, "text": "", "duration": 2},
        {**row, "text": "gone", "duration": 1},
    )
    (tmp_path / "4.wav").unlink()

    def transcribe(clip: Waveform) -> Hypothesis:
        return Hypothesis("sing songs" if clip.duration < 1.5 else "play names", draft="ring songs")

    done = evaluate_with(FakeRecognizer(transcribe, name="made-up"), "--data", data, "--json", tmp_path / "scores.json")
    assert done.exit_code == 1, "one file is missing"
    assert "4.wav" in done.stderr and "1 rows without text" in done.stderr
    assert "mine" in done.stdout and "25.00 %" in done.stdout and "66.7 %" in done.stdout
    written = scores(tmp_path)
    assert written["reports"][0]["edited"]["wer"] == 0.25
    assert written["reports"][0]["draft"]["wer"] == 0.75
    assert {each["edited"] for each in written["utterances"]} == {"sing songs", "play names", None}


def test_nothing_scored_at_all_is_another_exit_status(tmp_path: Path, evaluate_with: Command) -> None:
    data = write_manifest(tmp_path / "m.jsonl", [{"audio": "gone.wav", "text": "a", "duration": 1}])
    done = evaluate_with(FakeRecognizer(), "--data", data, "--report", tmp_path / "page.html")
    assert done.exit_code == 2 and "gone.wav" in done.stderr and done.stdout == ""


def test_several_models_are_compared_and_reported(tmp_path: Path, evaluate_with: Command) -> None:
    data = corpus(tmp_path, *({"text": "sing songs", "duration": (n + 1) / 2} for n in range(3)))

    def model(name: str) -> FakeRecognizer:
        text = "sing songs" if name == "good" else "ring songs"
        return FakeRecognizer(lambda clip: Hypothesis(text, draft="x songs"), name=name)

    out, page = tmp_path / "scores.json", tmp_path / "report.html"
    done = evaluate_with(model, "--data", data, "--model", "bad", "--model", "good", "--json", out, "--report", page)
    assert done.exit_code == 0, done.stderr
    assert "good against bad: -50.00 points" in done.stdout and "better on 3" in done.stdout
    assert "kaldialign counts 3 errors in 6 words and agrees" in done.stdout
    assert [run["model"] for run in scores(tmp_path)] == ["bad", "good"]
    assert "sing" in page.read_text(encoding="utf-8") and "good against bad" in page.read_text(encoding="utf-8")


def test_speakers_are_asked_for_and_scored(command: Command, tmp_path: Path, meeteval: None) -> None:
    done = command("--model", "plus", "--speakers")
    assert done.exit_code == 0, done.output
    assert "  asked for: speakers\n" in done.stdout and "  cpWER: 0.00 % (0 errors in 2 words of 2" in done.stdout
    assert "  tags: 0.00 % of 4 cannot be read; 0 of 2 answers have none\n" in done.stdout
    written = scores(tmp_path)
    assert written["speakers"]["cpwer"] == 0.0 and written["reports"][0]["edited"]["wer"] == 0.25
    assert written["utterances"][0]["tagged"].startswith("[Speaker 1]:")


def test_word_times_are_asked_for_and_scored(command: Command, tmp_path: Path) -> None:
    done = command("--model", "plus", "--word-timestamps")
    assert done.exit_code == 0, done.output
    assert "  asked for: word times\n" in done.stdout and "ends are 15.0 ms late on average" in done.stdout
    written = scores(tmp_path)
    assert written["word_times"]["aas_ms"] == 15.0 and written["word_times"]["within_20_ms"] == 0.5
    assert written["tags"]["malformed"] == 2 and "cannot be read" in (tmp_path / "page.html").read_text("utf-8")


def test_without_the_options_only_the_text_is_asked_for(command: Command, tmp_path: Path) -> None:
    done = command("--model", "nar")
    assert done.exit_code == 0, done.output
    warnings = [line for line in done.stderr.splitlines() if "warning" in line]
    assert all("meeteval" in line for line in warnings), "only the missing package that counts speakers is worth one"
    assert "asked for" not in done.stdout and "  word times: no number" in done.stdout
    written = scores(tmp_path)
    assert written["keywords"]["recall"] == 0.0 and written["comparison"] is None
    assert [each["prompted"] for each in written["utterances"]] == [[], []]


def test_keywords_are_told_and_scored(command: Command, tmp_path: Path) -> None:
    done = command("--model", "plus", "--keywords", "--distractors", "1")
    assert done.exit_code == 0, done.output
    assert "  asked for: 1.0 keywords a prompt and 1.0 that are not said\n" in done.stdout
    assert "  keywords: F1 50.0 %, recall 50.0 %, precision 50.0 % (1 of 2 heard, 1 false alarms)" in done.stdout
    assert "1 of 2 distractors heard" in done.stdout
    assert scores(tmp_path)["keywords"]["distractors_heard"] == 1
    more = command("--model", "plus", "--keywords", "--distractors", "5")
    assert "warning: 2 prompts have fewer than 5 distractors" in more.stderr


def test_keywords_are_compared_with_and_without_the_prompt(command: Command, tmp_path: Path) -> None:
    done = command("--model", "plus", "--model", "other", "--compare-keywords")
    assert done.exit_code == 0, done.output
    line = "plus with keywords against plus: keyword recall 0.0 -> 100.0 %, +100.0 points (95 % from +100.0 to +100.0, "
    assert line + "significant); precision 0.0 -> 100.0 %, F1 0.0 -> 100.0 %\n" in done.stdout
    assert "other against plus: +0.00 points of WER" in done.stdout
    assert "other with keywords against other: -25.00 points of WER" in done.stdout
    assert "fewer than" not in done.stderr
    written = scores(tmp_path)
    assert [run["model"] for run in written] == ["plus", "plus with keywords", "other", "other with keywords"]
    assert [run["keywords"]["recall"] for run in written] == [0.0, 1.0, 0.0, 1.0]
    assert written[0]["comparison"] is None and written[3]["comparison"]["first"] == "other"
    assert written[1]["comparison"]["keywords"]["recall_interval"] == [1.0, 1.0]
    assert "keyword recall 0.0 -> 100.0 %" in (tmp_path / "page.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("model", "option", "message"),
    [
        ("base", "--speakers", "redline: base cannot do speakers"),
        ("nar", "--compare-keywords", "redline: nar cannot do keywords"),
    ],
)
def test_a_refusal_ends_the_command_before_the_work(command: Command, model: str, option: str, message: str) -> None:
    done = command("--model", model, option)
    assert done.exit_code == 2 and message in done.stderr and done.stdout == ""


def test_options_that_lack_their_data_are_told(command: Command, tmp_path: Path) -> None:
    assert command("--distractors", "2").exit_code == 2
    rows = [{"audio": "1.wav", "text": "mister Quilter", "duration": 1}]
    plain = str(write_manifest(tmp_path / "plain.jsonl", rows))
    done = command("--data", plain, "--model", "plus", "--speakers")
    assert done.exit_code == 0
    assert "warning: no row has turns, so speakers are not scored" in done.stderr
    done = command("--data", plain, "--model", "plus", "--keywords")
    assert done.exit_code == 2 and "no row has keywords" in done.stderr


def test_cpwer_is_told_in_all_three_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meeteval: None, evaluate_with: Command
) -> None:
    text = "good morning good evening well"
    data = corpus(tmp_path, {"text": text, "duration": 1, "turns": [turn.to_dict() for turn in SPEAKERS]})
    named = (Turn("1", 0.0, 1.0, "good morning well good evening"),)

    def model(name: str) -> FakeRecognizer:
        return FakeRecognizer(lambda clip: Hypothesis(text, turns=named if name == "plus" else ()), name=name)

    out, page = tmp_path / "scores.json", tmp_path / "report.html"
    arguments = ("--data", data, "--model", "plus")
    done = evaluate_with(model, *arguments, "--model", "plain", "--json", out, "--report", page)
    assert done.exit_code == 0, done.output
    line = "80.00 % (4 errors in 5 words of 2 speakers in 1 utterances; speakers: 1 missed, 0 invented)"
    assert f"  cpWER: {line}\n" in done.stdout
    assert "  cpWER: no number: 1 references name speakers, but the model names none\n" in done.stdout
    plus, plain = scores(tmp_path)
    assert plus["speakers"]["cpwer"] == 0.8 and plus["facts"]["cpWER"] == line and plain["speakers"]["cpwer"] is None
    assert line in page.read_text(encoding="utf-8")
    monkeypatch.setitem(sys.modules, "meeteval", None)
    monkeypatch.delitem(sys.modules, "meeteval.wer")
    done = evaluate_with(model, *arguments)
    assert done.exit_code == 0 and "warning: speakers will not be scored" in done.stderr
    assert "  cpWER: counting needs meeteval, which is not installed: pip install 'redline[speakers]'" in done.stdout


def test_word_times_are_told_and_synthetic_speech_is_kept_apart(tmp_path: Path, evaluate_with: Command) -> None:
    words = [{"start": word.start, "end": word.end, "text": word.text} for word in timed("sing songs")]
    row = {"text": "sing songs", "words": words}
    data = corpus(tmp_path, {**row, "source": "mine", "duration": 1}, {**row, "source": "synthetic", "duration": 2})

    def transcribe(clip: Waveform) -> Hypothesis:
        return Hypothesis("sing songs", words=timed("sing songs", 0.05 if clip.duration < 1.5 else 0.15))

    out, page = tmp_path / "scores.json", tmp_path / "report.html"
    done = evaluate_with(FakeRecognizer(transcribe), "--data", data, "--json", out, "--report", page)
    assert done.exit_code == 0, done.output
    line = (
        "ends off by 50.0 ms (AAS), median 50.0 ms, 0.0 % within 20 ms, 100.0 % within 50 ms, 100.0 % within 100 ms, "
        "100.0 % within 200 ms; starts off by 50.0 ms; 2 of 2 words matched"
    )
    assert f"  word times: {line}; ends are 50.0 ms late on average\n" in done.stdout
    assert "  word times, synthetic: ends off by 150.0 ms" in done.stdout
    written = scores(tmp_path)
    assert written["word_times"]["aas_ms"] == 50.0 and written["word_times_synthetic"]["within_100_ms"] == 0.0
    assert written["speakers"] is None and line in written["facts"]["word times"]
    assert line in page.read_text(encoding="utf-8")


def test_what_is_done_is_kept_where_it_is_interrupted(tmp_path: Path, evaluate_with: Command) -> None:
    rows = [{"text": f"{seconds}.00 seconds", "duration": seconds} for seconds in (70, 80, 90)]

    def respond(clip: Waveform) -> str:
        if clip.duration == 70:
            raise KeyboardInterrupt
        return f"{clip.duration:.2f} seconds"

    data, out, page = corpus(tmp_path, *rows), tmp_path / "scores.json", tmp_path / "page.html"
    out.write_text("of an earlier run")
    models = ("--model", "a", "--model", "b")
    recognizer = FakeRecognizer(respond, max_clip_s=100.0)
    done = evaluate_with(recognizer, "--data", data, *models, "--json", out, "--report", page)
    assert done.exit_code == 130, done.output
    assert "interrupted; 2 of 6 are done" in done.stderr and f"is in {out}.partial" in done.stderr.replace("\n", "")
    assert "interrupted: the scores are of 2 of 3 utterances, longest first" in done.stdout
    written = json.loads((tmp_path / "scores.json.partial").read_text())
    assert [row["edited"] for row in written["utterances"]] == ["90.00 seconds", "80.00 seconds"]
    assert "interrupted" in written["facts"]
    assert out.read_text() == "of an earlier run" and not page.exists()


def test_nothing_that_is_done_is_nothing_to_keep(tmp_path: Path, evaluate_with: Command) -> None:
    def respond(clip: Waveform) -> str:
        raise KeyboardInterrupt

    data = corpus(tmp_path, {"text": "a", "duration": 1})
    done = evaluate_with(FakeRecognizer(respond), "--data", data, "--json", tmp_path / "scores.json")
    assert done.exit_code == 130 and "interrupted; 0 of 1 are done" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"1.wav", "m.jsonl"}


def test_no_output_replaces_what_is_read(tmp_path: Path, evaluate_with: Command) -> None:
    data, recognizer = corpus(tmp_path, {"text": "a", "duration": 1}), FakeRecognizer()
    (tmp_path / "link.jsonl").symlink_to(data)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for name in ("m.jsonl", "1.wav", "link.jsonl"):
        for option in ("--json", "--report"):
            done = evaluate_with(recognizer, "--data", data, option, tmp_path / name)
            assert done.exit_code == 2 and f"{name}: is read by this command" in done.stderr
    done = evaluate_with(recognizer, "--data", data, "--json", tmp_path / "x", "--report", tmp_path / "x")
    assert done.exit_code == 2 and "two files would be written under this name" in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before and not recognizer.batches


def test_a_place_that_takes_no_file_is_told_before_the_work(tmp_path: Path, evaluate_with: Command) -> None:
    data, recognizer = corpus(tmp_path, {"text": "a", "duration": 1}), FakeRecognizer()
    places = {tmp_path: "is a folder", tmp_path / "no" / "x": "no such file or folder", data / "x": "is a file, not a"}
    for place, message in {**places, Path("/proc/x"): "/proc: no such file or folder"}.items():
        done = evaluate_with(recognizer, "--data", data, "--json", place)
        assert done.exit_code == 2 and message in done.stderr and not recognizer.batches
    assert {path.name for path in tmp_path.iterdir()} == {"1.wav", "m.jsonl"}


def test_data_without_any_text_is_refused(tmp_path: Path, evaluate_with: Command) -> None:
    data = corpus(tmp_path, {"text": "", "duration": 1})
    done = evaluate_with(FakeRecognizer(), "--data", data)
    assert done.exit_code == 2 and "none of 1 rows has a text" in done.stderr
    (tmp_path / "1.txt").write_text(" ")
    done = evaluate_with(FakeRecognizer(), "--data", tmp_path, "--language", "de")
    assert done.exit_code == 2 and "none of 1 rows in language de has a text" in done.stderr


def test_a_split_of_what_has_none_is_refused(tmp_path: Path, evaluate_with: Command) -> None:
    for name in (tmp_path, tmp_path / "cuts.jsonl.gz"):
        done = evaluate_with(FakeRecognizer(), "--data", name, "--split", "dev")
        assert done.exit_code == 2 and "has no splits, but split dev is asked for" in done.stderr
