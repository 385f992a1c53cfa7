"""Text of today: sentences of four sources, and nothing that is held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from redline_recipes.tiny.modern_text import articles, definitions, main, sayings


def test_definitions_and_their_examples(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(
        '  1 This software is licensed | not a gloss\n00001 05 n 01 x 0 | a large town (of people); "the city sleeps"\n'
    )
    sentences = [line.strip() for line in definitions(tmp_path) if line.strip()]
    assert sentences == ["a large town", "of people", "the city sleeps"]


def test_sayings_are_parted_from_who_said_them(tmp_path: Path) -> None:
    (tmp_path / "wisdom").write_text("To be or not.\nThat is it.\n\t\t-- Somebody\n%\nAnother one!\n%\n")
    (tmp_path / "wisdom.dat").write_bytes(b"\0\1")
    (tmp_path / "perl").write_text("print 1;\n%\n")
    (tmp_path / "brasil").write_text("Porque a galinha atravessa a rua?\n%\n")
    assert [line for line in sayings(tmp_path) if line] == ["To be or not.", "That is it.", "Another one!"]
    assert next(sayings(tmp_path / "brasil")) == "Porque a galinha atravessa a rua?"


def test_articles_are_put_together_again(tmp_path: Path) -> None:
    file = tmp_path / "wiki"
    file.write_text(
        " = Title = \n\n It is a well @-@ known town , they say . The <unk> who lived there did n't stay for long . \n"
    )
    assert [line.strip() for line in articles([file])] == [
        "It is a well-known town, they say.",
        "who lived there didn't stay for long.",
    ]


def test_nothing_that_is_held_out_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = "one two three four five six seven eight"
    rows = [
        {"audio": "a", "text": "A sentence that trains.", "split": "train", "language": "en"},
        {"audio": "b", "text": held.upper(), "split": "dev", "language": "en"},
        {"audio": "c", "text": "short one", "split": "example", "language": "en"},
    ]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "fortunes").mkdir()
    (tmp_path / "fortunes" / "people").write_text(
        f"And so {held} nine.\n%\nShort one.\n%\nIn 1999 it was.\n%\nThis may stay.\n%\n"
    )
    out = tmp_path / "out"
    asked = ["--data", str(tmp_path / "manifest.jsonl"), "--fortunes", str(tmp_path / "fortunes")]
    assert main([*asked, "--wordnet", "none", "--times", "transcripts=3", "--out", str(out)]) == 0
    assert (out / "sayings.txt").read_text() == "This may stay.\n"
    assert (out / "transcripts.txt").read_text() == "A sentence that trains.\n" * 3
    assert "transcripts.txt: 1 lines, 4 words, 3 times" in capsys.readouterr().err


def test_text_of_other_languages_is_read_from_treebanks_and_plain_files(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text(
        '{"audio": "a", "text": "Guten Tag allen.", "split": "dev", "language": "de"}\n'
    )
    bank, plain, out = tmp_path / "de.conllu", tmp_path / "debates", tmp_path / "out"
    bank.write_text("# sent_id = 1\n# text = Der Zug ist da.\n1\tDer\tder\n\n# text = Guten Tag allen.\n")
    plain.mkdir()
    (plain / "one.txt").write_text("Ich danke Ihnen. Das ist\nwahr!\n\nOhne Punkt\n")
    asked = ["--data", str(tmp_path / "manifest.jsonl"), "--language", "de", "--wordnet", "none", "--fortunes", "none"]
    assert main([*asked, "--treebanks", str(bank), "--plain", str(plain), "--out", str(out)]) == 0
    assert (out / "treebanks.txt").read_text() == "Der Zug ist da.\n"
    assert (out / "plain.txt").read_text() == "Ich danke Ihnen.\nDas ist wahr!\nOhne Punkt\n"
    assert sorted(file.name for file in out.iterdir()) == ["plain.txt", "transcripts.txt", "treebanks.txt"]


@pytest.mark.parametrize("option", ["--fortunes", "--wordnet", "--articles", "--plain"])
def test_a_source_that_is_not_there_is_not_left_out_silently(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.jsonl").write_text('{"audio": "a", "text": "A sentence.", "language": "en"}\n')
    asked = ["--data", str(tmp_path / "manifest.jsonl"), "--wordnet", "none", "--fortunes", "none"]
    with pytest.raises(SystemExit):
        main([*asked, option, str(tmp_path / "gone"), "--out", str(tmp_path)])
    assert "gone" in capsys.readouterr().err


def test_of_a_source_so_many_bytes_are_taken(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text('{"audio": "a", "text": "Ein Satz.", "split": "dev", "language": "de"}\n')
    words = [f"{'a' * (1 + number // 26)} {chr(97 + number % 26) * 999}" for number in range(2000)]
    (tmp_path / "much.txt").write_text("\n\n".join([*words, words[0]]))
    asked = ["--data", str(tmp_path / "manifest.jsonl"), "--language", "de", "--wordnet", "none", "--fortunes", "none"]
    assert main([*asked, "--plain", str(tmp_path / "much.txt"), "--most-mb", "plain=1", "--out", str(tmp_path)]) == 0
    lines = (tmp_path / "plain.txt").read_text().splitlines()
    assert 900 < len(lines) == len(set(lines)) and (tmp_path / "plain.txt").stat().st_size <= 1e6


def test_a_source_that_does_not_exist_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--data", "x", "--times", "songs=2", "--out", str(tmp_path)])
    assert "sources are definitions" in capsys.readouterr().err
