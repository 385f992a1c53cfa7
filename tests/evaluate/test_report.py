"""The report: its data, its page, and the page in a real browser where there is one."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from redline import audio
from redline.evaluate import report
from redline.evaluate.result import Result
from redline.evaluate.systems import SystemRun
from redline.testing import tone
from redline.types import Notice, Waveform
from tests.evaluate.results import result, utterance

NASTY = "</script><script>alert(1)</script> <b>bold</b>"


def system(name: str, texts: list[tuple[str, str, str | None]]) -> SystemRun:
    results = [
        result(
            reference,
            edited,
            draft,
            id=str(number),
            language="de",
            source="mine",
            speaker=f"s{number % 2}",
            duration=1.0 + number,
            confidence=0.5 + number / 10,
            warnings=(Notice("odd", NASTY),) if number == 0 else (),
        )
        for number, (reference, edited, draft) in enumerate(texts)
    ]
    results.append(Result(utterance("x", "bad", "de"), failure="bad.wav: not audio"))
    return SystemRun(name, results, facts=[("speed", "fast")])


TEXTS = [("a b c", "a b c", "a x c"), ("d e f", "d x f", "d e f"), ("g h", "g h i", None), ("k", "l", "k")]


def load(path: Path) -> Waveform:
    return tone(1.0)


def gathered(sound_minutes: float) -> dict[str, object]:
    return report.gather_report([system("one", TEXTS)], "a title", load, sound_minutes)


def test_changes_tell_help_from_harm() -> None:
    assert report.editing_effects(system("one", TEXTS[:2]).scored) == {
        "helped": [["x", "b", "b", 1]],
        "hurt": [["e", "x", "e", 1]],
        "helped_total": 1,
        "hurt_total": 1,
    }


def test_words_are_counted_by_what_became_of_them() -> None:
    words = report.frequent_errors(system("one", [("a b a", "a c", None), ("a", "a d", None)]).scored)
    assert words["worst"] == [["b", 1, 1], ["a", 1, 3]]
    assert words["confusions"] == [["b", "c", 1]]
    assert words["lost"] == [["a", 1]] and words["added"] == [["d", 1]]


def test_worst_utterances_come_first_and_sound_is_kept_for_as_long_as_allowed() -> None:
    data = gathered(sound_minutes=8 / 60)
    rows = data["utterances"]
    assert isinstance(rows, list)
    assert [row["wer"] for row in rows] == sorted((row["wer"] for row in rows), reverse=True)
    assert [bool(row["sound"]) for row in rows] == [True, False, False, False] or sum(
        bool(r["sound"]) for r in rows
    ) == 2
    sound = base64.b64decode(next(row["sound"] for row in rows if row["sound"]).split(",")[1])
    assert audio.load(io.BytesIO(sound)).duration == pytest.approx(1.0, abs=0.05)
    assert data["failures"] == ["bad.wav: not audio"]
    assert [bar["name"] for bar in data["by_speaker"]] == ["s1", "s0"]  # type: ignore[attr-defined]


def test_two_systems_are_compared_in_pairs() -> None:
    better = [(reference, reference, None) for reference, _, _ in TEXTS]
    data = report.gather_report([system("one", TEXTS), system("two", better)], "t", load, 0)
    (row,) = data["comparisons"]
    assert row["wins"] == 3 and row["losses"] == 0 and row["ties"] == 1 and row["difference"] < 0
    assert {line["name"] for line in data["utterances"][0]["lines"]} >= {"edited", "two"}


def test_text_cannot_end_the_script_it_stands_in() -> None:
    page = report.render_report(gathered(sound_minutes=0))
    assert page.count("</script>") == 1 and "alert(1)" not in page.split("</script>")[1]
    payload = re.search(r"^const data = (.*);$", page, re.M)
    assert payload and any(row["name"] == "3.wav" for row in json.loads(payload[1])["utterances"])


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.browser
def test_a_browser_shows_every_part_of_the_page(tmp_path: Path) -> None:
    assert BROWSER is not None, "this test needs chromium or google-chrome"
    report.write_report(tmp_path / "report.html", [system("one", TEXTS)], "a title", load, 15)
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, "--dump-dom", (tmp_path / "report.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    dom = done.stdout
    assert dom.count('<article class="utterance">') == 4
    assert dom.count("<audio ") == 4
    assert "<del>" in dom and "<ins>i</ins>" in dom and "could not be scored" in dom
    assert "Is its confidence honest?" in dom and "By duration" in dom and "By speaker" in dom
    assert "&lt;script&gt;alert(1)" in dom and "<script>alert" not in dom
    widths = re.findall(r'class="(?:before|after)" style="width: max\(1px, ([\d.]+)%\)', dom)
    assert max(map(float, widths)) == 100.0, "the longest bar fills its place"
