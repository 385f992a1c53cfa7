"""What evaluation asks a model for beside the text, and how the answers are scored: speakers, word times, keywords."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner
from typer.testing import Result as Done

from redline.cli.evaluate import evaluate
from redline.errors import ConfigError, DataError, UnsupportedTaskError
from redline.evaluate import cpwer, keywords, run, tags, word_times
from redline.evaluate import tasks as asking
from redline.evaluate.cpwer import SpeakerScore
from redline.evaluate.keywords import KeywordScore
from redline.evaluate.run import Result
from redline.evaluate.tasks import TaskOptions
from redline.evaluate.wer import Errors, ScoredUtterance
from redline.longform.session import SessionOptions
from redline.manifest import Utterance, read_manifest, write_manifest
from redline.testing import FakeRecognizer, tone
from redline.transcriber import Transcriber
from redline.types import ClipLimits, Hypothesis, Request, Task, Turn, Waveform, Word


class Obedient(FakeRecognizer):
    """A recognizer that is asked, and remembers what for; it refuses what it was told to refuse."""

    def __init__(self, reply: Callable[[Waveform, Task], Hypothesis], refused: str = "", name: str = "fake") -> None:
        super().__init__(name=name)
        self.reply = reply
        self.refused = refused
        self.asked: list[Task] = []

    def limits(self, task: Task) -> ClipLimits:
        if self.refused and getattr(task, self.refused):
            raise UnsupportedTaskError(f"{self.name} cannot do {self.refused}")
        return super().limits(task)

    def answer(self, request: Request) -> Hypothesis:
        self.asked.append(request.task)
        return self.reply(request.clip, request.task)


def said(text: str, *keys: str, id: str = "u", language: str = "en") -> Utterance:
    return Utterance(id, Path("1.wav"), text, 1.0, language, keywords=keys)


def item(reference: str, edited: str, *keys: str, distractors: tuple[str, ...] = ()) -> ScoredUtterance:
    return ScoredUtterance("s", "en", 1.0, reference, edited, keywords=keys, distractors=distractors)


# ---- what is asked


def test_each_prompt_holds_the_keywords_of_its_row() -> None:
    rows = [said("ask mister Quilter", "Quilter", " Quilter "), said("nothing"), said("Äpfel", "Äpfel", language="de")]
    assert asking.tasks(rows, TaskOptions(keywords=True)) == [
        Task(language="en", keywords=("Quilter",)),
        Task(language="en"),
        Task(language="de", keywords=("Äpfel",)),
    ]
    assert asking.tasks(rows, TaskOptions()) == [run.task_of(one) for one in rows]
    assert asking.tasks(rows, TaskOptions(True, True))[1] == Task(language="en", words=True, speakers=True)


def test_distractors_are_never_said_in_their_own_row_and_repeat_with_the_seed() -> None:
    names = ["Quilter", "Ruggedo", "Kaliko", "Brion", "Phronsie", "New York", "Apostle's"]
    rows = [said(f"so {name.upper()}, and quilter! said new york", name, id=name) for name in names]
    rows.append(said("nobody, really", id="without"))
    rows.append(said("Bonjour Ruggedo", "Ruggedo", language="fr"))
    options = TaskOptions(keywords=True, distractors=3)
    asked = asking.tasks(rows, options)
    for row, task in zip(rows[:-1], asked[:-1], strict=True):
        others = set(task.keywords) - set(row.keywords)
        assert set(row.keywords) <= set(task.keywords) and len(others) == 3
        assert others <= set(names)
        assert row.id == "without" or not others & {"Quilter", "New York"}
    assert asked[-1].keywords == ("Ruggedo",), "there is no other keyword in French"
    assert asking.short(asked, rows, options) == 1
    assert asking.tasks(rows, options) == asked
    assert asking.tasks(rows, TaskOptions(keywords=True, distractors=3, seed=1)) != asked
    assert asking.tasks(rows[::-1], options)[::-1] == asked, "a row's prompt does not depend on the rows before it"
    assert len({task.keywords.index(row.keywords[0]) for row, task in zip(rows[:6], asked, strict=False)}) > 1


def test_what_cannot_be_asked_is_told() -> None:
    with pytest.raises(DataError, match=r"no row has keywords .*rare_keywords"):
        asking.tasks([said("a")], TaskOptions(keywords=True))
    with pytest.raises(ConfigError, match="distractors is 2"):
        TaskOptions(distractors=2)
    with pytest.raises(ConfigError, match="distractors is -1"):
        TaskOptions(keywords=True, distractors=-1)


def test_rows_share_a_batch_whatever_they_are_asked() -> None:
    rows = [said("a", "x"), said("b", "y"), said("c", "x"), said("d"), said("e")]
    recognizer = Obedient(lambda clip, task: Hypothesis(" ".join(task.keywords)))
    tasks = asking.tasks(rows, TaskOptions(keywords=True))
    transcriber = Transcriber(recognizer, SessionOptions(vad=None))
    results = list(run.run(transcriber, rows, run.Clock(), lambda path: tone(1.0), tasks))
    assert recognizer.asked == tasks and len(recognizer.batches) == 1
    heard = {one.utterance.text: one.item.edited for one in results if one.item}
    assert heard == {"a": "x", "b": "y", "c": "x", "d": "", "e": ""}
    assert {one.utterance.text: one.task for one in results} == dict(zip("abcde", tasks, strict=True))


def test_an_item_knows_which_keywords_were_not_its_own() -> None:
    (one,) = run.run(
        Transcriber(Obedient(lambda clip, task: Hypothesis("a")), SessionOptions(vad=None)),
        [said("a", "own")],
        run.Clock(),
        lambda path: tone(1.0),
        [Task(language="en", keywords=("other", "own"))],
    )
    assert one.item is not None and (one.item.keywords, one.item.distractors) == (("own",), ("other",))


# ---- keywords


def test_keywords_are_found_as_whole_words_and_false_alarms_count() -> None:
    items = [
        item("a flat white please", "a flat white please", "flat white"),
        item("one latte", "one flat white", "latte"),
        item("flatness", "flatness"),
    ]
    found = keywords.score(items)
    assert found == KeywordScore(hits=1, misses=1, false_alarms=1)
    assert found.f1 == 0.5
    assert keywords.score([item("a", "a")]) is None


def test_keywords_are_normalised_like_texts() -> None:
    german = ScoredUtterance("s", "de", 1.0, "Gute Äpfel!", "gute äpfel", keywords=("Äpfel!",))
    assert keywords.score([german, item("the colour", "the color", "Colour")]) == KeywordScore(hits=2)


def test_a_keyword_of_one_row_is_looked_for_in_all() -> None:
    found = keywords.score([item("quilter", "quilter", "Quilter"), item("mister quilter", "mister quilt")])
    assert found == KeywordScore(hits=1, misses=1)


def test_distractors_that_are_heard_are_false_alarms() -> None:
    one = item("mister quilter", "mister ruggedo kaliko", "Quilter", distractors=("Ruggedo", "Brion", "Kaliko"))
    found = keywords.score([one])
    assert found == KeywordScore(0, 1, 2, distractors=3, distractors_heard=2)
    assert str(found).endswith("; 2 of 3 distractors heard")
    assert "distractors" not in str(KeywordScore(1)) and found.to_dict()["recall"] == 0.0


def test_recall_is_compared_in_pairs() -> None:
    before = [item("ask quilter", "ask quilt", "Quilter"), item("and brion", "and brion", "Brion")] * 20
    after = [item("ask quilter", "ask quilter", "Quilter"), item("and brion", "and brion", "Brion")] * 20
    found = keywords.compare(before, after)
    assert found is not None and found.difference == 0.5
    assert 0 < found.interval[0] < 0.5 < found.interval[1] < 1
    assert "-0.0" not in str(keywords.compare(after, after))
    assert str(found).startswith("keyword recall 50.0 -> 100.0 %, +50.0 points (95 % from +")
    assert found.to_dict()["significant"] is True
    same = keywords.compare(before, before)
    assert same is not None and same.difference == 0.0 and "not significant" in str(same)
    assert keywords.compare([item("a", "a")], [item("a", "b")]) is None


# ---- speakers, times, tags


@pytest.fixture
def scored_turns(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Turn]]:
    """The turns that were to be scored; counting errors in them is what tests/evaluate/test_cpwer.py is for."""
    heard: list[Sequence[Turn]] = []

    def score_turns(reference: Sequence[Turn], answer: Sequence[Turn], _: object) -> SpeakerScore:
        heard.append(answer)
        return SpeakerScore(Errors(length=len(reference)), utterances=1, speakers=2)

    monkeypatch.setattr(cpwer, "score_turns", score_turns)
    return heard


def test_an_answer_that_names_nobody_though_asked_is_one_speakers(scored_turns: list[Sequence[Turn]]) -> None:
    both = (Turn("ann", 0, 1, "good morning"), Turn("bob", 1, 2, "good evening"))
    utterance = Utterance("u", Path("u.wav"), "good morning good evening", 2.0, "en", turns=both)
    one = ScoredUtterance("s", "en", 2.0, utterance.text, utterance.text)
    good = Result(utterance, one, turns=both, task=Task(speakers=True))
    found = cpwer.score([good, Result(utterance, one, task=Task(speakers=True))])
    assert scored_turns == [both, (Turn("", 0.0, 2.0, "good morning good evening"),)]
    assert found is not None and (found.utterances, found.untagged, found.left_out) == (2, 1, 0)
    assert str(found).endswith("; 1 answers name nobody") and found.to_dict()["untagged"] == 1
    left = cpwer.score([good, Result(utterance, one)])
    assert left is not None and (left.untagged, left.left_out) == (0, 1), "nobody asked it"


def test_errors_of_ends_have_a_sign() -> None:
    def heard(shift: float) -> word_times.TimeScore:
        reference = (Word(1.0, 1.5, "a"), Word(1.5, 2.0, "b"))
        answer = tuple(Word(word.start, round(word.end + shift, 3), word.text) for word in reference)
        utterance = Utterance("u", Path("u.wav"), "a b", 2.0, "en", words=reference)
        found = word_times.score([Result(utterance, ScoredUtterance("s", "en", 2.0, "a b", "a b"), words=answer)])
        assert found is not None
        return found

    late, early = heard(0.04), heard(-0.04)
    assert (late.late_ms, early.late_ms) == (40.0, -40.0)
    assert late.shift_ms == early.shift_ms == 20.0
    assert late.to_dict()["within_20_ms"] == 0.0 and late.to_dict()["within_50_ms"] == 1.0
    assert str(late).endswith("; ends are 40.0 ms late on average") and "40.0 ms early" in str(early)


def test_tags_that_cannot_be_read_and_answers_without_any_are_counted() -> None:
    def answer(text: str | None) -> Result:
        return Result(said("a"), item("a", "a"), tagged=text)

    found = tags.score(map(answer, ["a [T:10] b [T:20]", "a [T:x] b [T:20]", "no tags at all", " ", None]))
    assert found == tags.TagScore(tags=4, malformed=1, answers=3, untagged=1)
    assert str(found) == "25.00 % of 4 cannot be read; 1 of 3 answers have none"
    assert found.to_dict()["malformed_share"] == 0.25
    assert tags.score([answer(None)]) is None


# ---- the command


Command = Callable[..., Done]
WORDS = [{"start": 0.0, "end": 0.4, "text": "mister"}, {"start": 0.4, "end": 0.9, "text": "Quilter"}]
TURNS = [
    {"speaker": "ann", "start": 0.0, "end": 0.4, "text": "mister"},
    {"speaker": "bob", "start": 0.4, "end": 0.9, "text": "Quilter"},
]


def plus(clip: Waveform, task: Task) -> Hypothesis:
    """Hears a name only when it is told, and then hears a name that is not said, too, in the longer recording."""
    if task.speakers:
        own = (Turn("1", 0.0, 0.4, "mister"), Turn("2", 0.4, 0.9, "quilter"))
        return Hypothesis("mister quilter", turns=own, tagged="[Speaker 1]: mister [Speaker 2]: quilter")
    if task.words:
        told = (Word(0.0, 0.43, "mister"), Word(0.43, 0.9, "quilter"))
        return Hypothesis("mister quilter", words=told, tagged="mister [T:43] quilter [T:9")
    if "Quilter" in task.keywords:
        return Hypothesis("mister quilter")
    return Hypothesis("and ruggedo" if clip.duration > 1.5 and "Ruggedo" in task.keywords else "mister quilt")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Evaluates made-up models on two recordings; only the one called plus can be asked for more."""
    rows: list[dict[str, Any]] = [
        {"text": "mister Quilter", "keywords": ["Quilter"], "words": WORDS, "turns": TURNS},
        {"text": "mister Ruggedo", "keywords": ["Ruggedo"]},
    ]
    for number, row in enumerate(rows, start=1):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(16_000 * number, dtype=np.float32), 16_000)
        row |= {"audio": f"{number}.wav", "duration": number, "source": "mine"}
    data = write_manifest(tmp_path / "m.jsonl", rows)

    def load_model(name: str, **_: object) -> Transcriber:
        refused = {"base": "speakers", "nar": "keywords"}.get(name, "")
        return Transcriber(Obedient(plus, refused, name), SessionOptions(vad=None))

    monkeypatch.setattr("redline.load.load_model", load_model)
    app = typer.Typer()
    app.command()(evaluate)

    def invoke(*arguments: str) -> Done:
        files = ["--json", str(tmp_path / "scores.json"), "--report", str(tmp_path / "page.html")]
        return CliRunner().invoke(app, ["--data", str(data), *files, *arguments])

    return invoke


def scores(folder: Path) -> Any:
    return json.loads((folder / "scores.json").read_text(encoding="utf-8"))


def test_speakers_are_asked_for_and_scored(
    command: Command, tmp_path: Path, scored_turns: list[Sequence[Turn]]
) -> None:
    done = command("--model", "plus", "--speakers")
    assert done.exit_code == 0, done.output
    assert "  asked for: speakers\n" in done.stdout and "  cpWER: 0.00 % (0 errors in 2 words of 2" in done.stdout
    assert "  tags: 0.00 % of 4 cannot be read; 0 of 2 answers have none\n" in done.stdout
    assert [turn.text for turn in scored_turns[0]] == ["mister", "quilter"]
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
    told = [line for line in done.stderr.splitlines() if "warning" in line]
    assert all("meeteval" in line for line in told), "only the missing package that counts speakers is worth a warning"
    assert "asked for" not in done.stdout and "  word times: no number" in done.stdout
    written = scores(tmp_path)
    assert written["keywords"]["recall"] == 0.0 and written["comparison"] is None
    assert [one["prompted"] for one in written["utterances"]] == [[], []]


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
    written = scores(tmp_path)
    assert [one["model"] for one in written] == ["plus", "plus with keywords", "other", "other with keywords"]
    assert [one["keywords"]["recall"] for one in written] == [0.0, 1.0, 0.0, 1.0]
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
    assert "warning: no row has turns, so what --speakers asks for is not scored" in done.stderr
    done = command("--data", plain, "--model", "plus", "--keywords")
    assert done.exit_code == 2 and "no row has keywords" in done.stderr


# ---- scripts/rare_keywords.py


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "rare_keywords.py"
    spec = importlib.util.spec_from_file_location("rare_keywords", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rare_words_of_rows_become_their_keywords(tmp_path: Path, script: ModuleType) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("The GOSPEL is welcome.\nWelcome, gospel!\n", encoding="utf-8")
    rows: list[dict[str, Any]] = [
        {"audio": "1.wav", "text": "Mister Quilter's gospel, welcome", "split": "test", "source": "mine", "more": 1},
        {"audio": "2.wav", "text": "APOSTLE OF THE MIDDLE CLASSES", "split": "test"},
        {"audio": "3.wav", "text": "gospel", "split": "test"},
        {"audio": "4.wav", "text": "mister mister", "split": "train"},
    ]
    data, out = write_manifest(tmp_path / "m.jsonl", rows), tmp_path / "deep" / "k.jsonl"
    arguments = ["--data", str(data), "--text", str(data), "--text", str(tmp_path / "books"), "--out", str(out)]
    assert script.main([*arguments, "--below", "2"]) == 0
    one, two = read_manifest(out, split="test")
    assert one.keywords == ("Quilter's",) and two.keywords == ("apostle", "middle", "classes")
    assert one.audio == tmp_path / "1.wav" and '"more": 1' in out.read_text(encoding="utf-8")
    assert script.main([*arguments, "--below", "2", "--most", "2"]) == 0
    first = read_manifest(out)
    assert len(first[1].keywords) == 2
    assert script.main([*arguments, "--below", "2", "--most", "2"]) == 0 and read_manifest(out) == first


def test_rare_words_without_any_are_told(
    tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_manifest(tmp_path / "m.jsonl", [{"audio": "1.wav", "text": "a few tiny ones", "split": "test"}])
    arguments = ["--data", str(data), "--text", str(data), "--out", str(tmp_path / "k.jsonl")]
    assert script.main(arguments) == 2 and "raise --below" in capsys.readouterr().err
    assert script.main([*arguments, "--text", str(tmp_path / "gone")]) == 2
    assert "gone: neither a manifest" in capsys.readouterr().err
    assert not (tmp_path / "k.jsonl").exists()
