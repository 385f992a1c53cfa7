"""The sets of the leaderboard, scored one by one and as a mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result as Done

from redline.errors import DataError
from redline.evaluate.datasets import leaderboard
from redline.evaluate.datasets.leaderboard import SETS, describe_mean, mean_of_sets, read_leaderboard
from redline.evaluate.metrics.wer import ALL_HUMAN
from redline.testing import FakeRecognizer
from tests.evaluate.datasets.library import NEWEST, Library, Rows, sounds
from tests.evaluate.results import result


@pytest.fixture
def eight_sets(library: Library) -> Library:
    for number, address in enumerate(SETS.values()):
        texts = ["a b c d", "ignore_time_segment_in_scoring", "a b c d"]
        rows = Rows({"audio": sounds(1 + number / 10, 1, 1), "text": texts, "id": ["1", "2", "3"]})
        library.sets[address.name, address.config, address.split] = rows
    return library


def test_the_leaderboard_scores_each_set_and_the_mean_of_sets(
    eight_sets: Library, evaluate_with: Callable[..., Done], tmp_path: Path
) -> None:
    out, page = tmp_path / "scores.json", tmp_path / "report.html"
    # Only the first clip of the last set, voxpopuli, is 1.7 seconds long.
    recognizer = FakeRecognizer(lambda clip: "a b c x" if clip.duration == 1.7 else "a b c d")
    done = evaluate_with(recognizer, "--leaderboard", "--json", out, "--report", page)
    assert done.exit_code == 0, done.output
    assert "8 rows without text are left out" in done.stderr
    line = "WER 1.56 %, 8 sets weighed alike"  # one of eight words of one of eight sets
    assert f"  mean of sets: {line}\n" in done.stdout and line in page.read_text(encoding="utf-8")
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["data"] == "leaderboard" and written["without_text"] == 8
    assert written["mean_of_sets"] == {"edited": 1.56, "draft": None, "sets": 8, "limit": None}
    rates = {report["group"]: report["edited"]["wer"] for report in written["reports"]}
    assert list(rates) == [*sorted(SETS), ALL_HUMAN]
    assert rates["voxpopuli"] == 0.125 and rates["ami"] == 0.0 and "librispeech test.clean" in done.stdout


def test_all_sets_are_read_at_one_revision(eight_sets: Library) -> None:
    read_leaderboard()
    assert eight_sets.revisions == [NEWEST] * 8


def test_a_limit_is_of_each_set_and_told_beside_the_mean(
    eight_sets: Library, evaluate_with: Callable[..., Done]
) -> None:
    done = evaluate_with(FakeRecognizer(lambda clip: "a b c d"), "--leaderboard", "--limit", "1")
    assert done.exit_code == 0, done.output
    assert "mean of sets: WER 0.00 %, 8 sets weighed alike; at most 1 utterances of each, so not" in done.stdout


def test_a_set_that_is_missing_stops_the_leaderboard_before_the_work(
    eight_sets: Library, evaluate_with: Callable[..., Done]
) -> None:
    eight_sets.sets.pop((leaderboard.REPOSITORY, "tedlium", "test"))
    recognizer = FakeRecognizer()
    done = evaluate_with(recognizer, "--leaderboard")
    assert done.exit_code == 2 and "tedlium:test: cannot be read" in done.stderr and not recognizer.batches
    done = evaluate_with(recognizer, "--leaderboard", "--split", "dev")
    assert done.exit_code == 2 and "leave out --data, --split and --language" in done.stderr
    done = evaluate_with(recognizer)
    assert done.exit_code == 2 and "say --data FILE, FOLDER or hf:owner/name, or --leaderboard" in done.stderr


def test_the_mean_weighs_sets_alike_and_needs_all_of_them() -> None:
    results = [result("a b c", "a b c", "a b x", source=name) for name in SETS]
    results += [result("a b c", "x y z", "x y z", source="ami")] * 2
    mean = mean_of_sets(results)
    assert mean is not None
    assert mean["edited"] == round(66.67 / 8, 2) and mean["draft"] == round((77.78 + 7 * 33.33) / 8, 2)
    assert describe_mean(mean) == "WER 8.33 % edited, 38.89 % draft, 8 sets weighed alike"
    with pytest.raises(DataError, match="no number: nothing was scored of earnings22, gig"):
        mean_of_sets(results[:1])
