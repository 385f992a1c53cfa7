"""Text of today beside the books: definitions, sayings, articles and the transcripts that train, one sentence a line.

    apt-get install wordnet-base fortunes          # wiki.*.tokens: wikitext-2 of github.com/pytorch/examples
    python -m redline_recipes.tiny.modern_text --data manifest.jsonl --articles wiki.valid.tokens wiki.test.tokens \
        --times articles=5 transcripts=6 --out books/modern
    python -m redline_recipes.tiny.modern_text --data manifest.jsonl --language de --wordnet none \
        --treebanks de_gsd-ud-dev.conllu --plain debates/ --fortunes /usr/share/games/fortunes/de \
        --times treebanks=4 --most-mb plain=1 --out text/de

Novels of the nineteenth century say little of what people read aloud today: on Common Voice their n-grams need half as
many bits again a word as on LibriSpeech. WordNet's definitions and examples (WordNet licence) have the words, the
sayings of `fortune` (see /usr/share/doc/fortunes) the tone, articles in the form of WikiText (CC BY-SA) and transcripts
of the training set both. Other languages have treebanks (Universal Dependencies, CoNLL-U) and plain text. `--times`
writes a source several times, which is how n-grams are told what matters. No sentence with digits is written, and none
that shares `--shared` words in a row with a transcript that does not train, in any manifest of `--data`.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from redline.errors import RedlineError
from redline.manifest import Utterance, read_manifest
from redline.normalize import spoken

WORDNET, FORTUNES = Path("/usr/share/wordnet"), Path("/usr/share/games/fortunes")
SOURCES = ("definitions", "sayings", "articles", "treebanks", "plain", "transcripts")
FEWEST_WORDS = 2
FEWEST_OF_ARTICLES = 4
SHARED = 7
NOT_READ = {
    "ascii-art",
    "goedel",
    "linuxcookie",
    "perl",
    "tao",
    "zippy",
    "songs-poems",
    "translate-me",
    "knghtbrd",
    "asciiart",
    "brasil",
    "chinese",
    "song100",
    "tang300",
}
"""Files of `fortune` that are pictures, programs, verses, chats, or of another language than those they lie beside."""


def definitions(folder: Path) -> Iterator[str]:
    """The glosses of WordNet: definitions, and the examples that they quote."""
    for file in sorted(folder.glob("data.*")):
        for line in file.read_text(encoding="utf-8").splitlines():
            gloss = line.partition(" | ")[2]
            if not line.startswith("  "):  # the licence stands before the data, indented
                yield from re.split(r"[;()]", re.sub(r'"[^"]*"', "", gloss))
                yield from re.findall(r'"([^"]+)"', gloss)


def sayings(path: Path) -> Iterator[str]:
    """The sentences of a file of `fortune`, or of those in a folder, without who said them."""
    beside = sorted(path.iterdir()) if path.is_dir() else []
    texts = [file for file in beside if file.is_file() and file.suffix in ("", ".fortunes")]
    for file in [file for file in texts if file.name not in NOT_READ] if path.is_dir() else [path]:
        for saying in file.read_text(encoding="utf-8", errors="replace").split("\n%\n"):
            text = re.sub(r"\n\s*--.*", "", saying, flags=re.DOTALL)
            yield from re.split(r"(?<=[.?!;:])\s+", " ".join(text.split()))


def articles(files: Iterable[Path]) -> Iterator[str]:
    """The sentences of WikiText, whose marks stand between spaces; what it calls <unk> ends a piece."""
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.strip() and not line.strip().startswith("="):
                text = re.sub(r" @([-,.])@ ", r"\1", line)
                text = re.sub(r" (n't|'\w+)", r"\1", text)
                for sentence in re.split(r"(?<= [.?!;]) ", text):
                    pieces = re.sub(r" ([.,?!;:])", r"\1", sentence).split("<unk>")
                    yield from (piece for piece in pieces if len(piece.split()) >= FEWEST_OF_ARTICLES)


def treebanks(files: Iterable[Path]) -> Iterator[str]:
    """The sentences of CoNLL-U files, as they are written."""
    for file in files:
        yield from re.findall(r"^# text = (.*)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)


def plain_text(paths: Iterable[Path]) -> Iterator[str]:
    """The sentences of text files, and of all .txt files of folders; an empty line ends a sentence, too."""
    for path in paths:
        for file in sorted(path.rglob("*.txt")) if path.is_dir() else [path]:
            for paragraph in re.split(r"\n\s*\n", file.read_text(encoding="utf-8", errors="replace")):
                yield from re.split(r"(?<=[.!?…])\s+", paragraph)


def runs(words: Sequence[str], size: int) -> Iterator[str]:
    """Every run of so many words."""
    return (" ".join(words[at : at + size]) for at in range(len(words) - size + 1))


class HeldOut:
    """What no text may share: transcripts that do not train."""

    def __init__(self, rows: Iterable[Utterance], size: int) -> None:
        self.size = size
        self.known: set[str] = set()
        for row in rows:
            words = spoken(row.text).split()
            self.known.update(runs(words, size), [" ".join(words)])

    def shares(self, sentence: str) -> bool:
        """Whether a sentence is one of them, or has a run of words in common with one."""
        words = spoken(sentence).split()
        return " ".join(words) in self.known or any(run in self.known for run in runs(words, self.size))


def kept(sentences: Iterable[str], held_out: HeldOut) -> Iterator[str]:
    """The sentences that teach: without digits, of two words and more, and nothing that is held out."""
    for sentence in sentences:
        line = " ".join(sentence.split())
        is_text = len(spoken(line).split()) >= FEWEST_WORDS and not any(char.isdigit() for char in line)
        if is_text and not held_out.shares(line):
            yield line


def within(lines: Iterable[str], most_bytes: float) -> Iterator[str]:
    """So many of the lines, each once and in any order, that they have no more bytes."""
    different = list(dict.fromkeys(lines))
    random.Random(0).shuffle(different)
    sizes = accumulate(len(line.encode()) + 1 for line in different)
    return (line for line, size in zip(different, sizes, strict=True) if size <= most_bytes)


def numbers(parser: argparse.ArgumentParser, option: str, items: Sequence[str]) -> dict[str, int]:
    """SOURCE=N, several times; whatever else ends the program."""
    pairs = [item.partition("=")[::2] for item in items]
    if wrong := [name for name, number in pairs if name not in SOURCES or not number.isdigit()]:
        parser.error(f"{option}: {', '.join(wrong)}; give SOURCE=N, sources are {', '.join(SOURCES)}")
    return {name: int(number) for name, number in pairs}


def path_or_none(text: str) -> Path | None:
    """What an option names; "none": the source is left out."""
    return None if text == "none" else Path(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a file for each source that is asked for; those of other sources stay."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="manifests: train is read, the rest is kept out"
    )
    parser.add_argument("--articles", type=Path, nargs="*", default=[], help="files in the form of WikiText")
    parser.add_argument("--treebanks", type=Path, nargs="*", default=[], help="CoNLL-U files")
    parser.add_argument("--plain", type=Path, nargs="*", default=[], help="text files, or folders of them")
    parser.add_argument(
        "--wordnet", type=path_or_none, default=WORDNET, help="folder of WordNet's data.noun and others, or none"
    )
    parser.add_argument(
        "--fortunes", type=path_or_none, default=FORTUNES, help="file of fortune's sayings, a folder of them, or none"
    )
    parser.add_argument("--times", nargs="*", default=[], metavar="SOURCE=N", help=f"of {', '.join(SOURCES)}")
    parser.add_argument(
        "--most-mb", nargs="*", default=[], metavar="SOURCE=N", help="of a source at most so many MB, taken at random"
    )
    parser.add_argument("--language", default="en", help="which transcripts are read")
    parser.add_argument(
        "--shared", type=int, default=SHARED, help="words in a row that no text shares with what is kept out"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder that is written")
    given = parser.parse_args(arguments)
    times, most_mb = numbers(parser, "--times", given.times), numbers(parser, "--most-mb", given.most_mb)
    wordnet = [] if given.wordnet is None else [given.wordnet]
    fortunes = [] if given.fortunes is None else [given.fortunes]
    asked = [*(folder / "data.noun" for folder in wordnet), *fortunes, *given.articles, *given.treebanks, *given.plain]
    if missing := [str(path) for path in asked if not path.exists()]:
        parser.error(
            f"{', '.join(missing)} is not there; WordNet and sayings are Debian's wordnet-base and fortunes, without "
            "them say --wordnet none --fortunes none"
        )
    try:
        rows = [row for path in given.data for row in read_manifest(path, language=given.language)]
    except RedlineError as error:
        print(error, file=sys.stderr)
        return 2
    held_out = HeldOut((row for row in rows if row.split != "train" and row.text), given.shared)
    sources = {
        "definitions": (wordnet, (line for folder in wordnet for line in definitions(folder))),
        "sayings": (fortunes, (line for path in fortunes for line in sayings(path))),
        "articles": (given.articles, articles(given.articles)),
        "treebanks": (given.treebanks, treebanks(given.treebanks)),
        "plain": (given.plain, plain_text(given.plain)),
        "transcripts": (given.data, (row.text for row in rows if row.split == "train")),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    for name, (asked_for, sentences) in sources.items():
        if asked_for:
            lines = list(kept(sentences, held_out))
            if name in most_mb:
                lines = list(within(lines, 1e6 * most_mb[name]))
            file = given.out / f"{name}.txt"
            file.write_text("".join(line + "\n" for line in lines) * times.get(name, 1), encoding="utf-8")
            words = sum(len(line.split()) for line in lines)
            print(f"{file}: {len(lines)} lines, {words} words, {times.get(name, 1)} times", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
