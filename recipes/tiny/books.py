"""Books: plain text in written form (capitals and marks), cut into excerpts."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from redline.errors import DataError
from redline.files import settle
from redline.normalize import Letters, spoken_words
from redline.punctuation import ENDS, MARKS
from redline.train.loop.distributed import first_process_first
from redline.train.loop.stage import share_done
from redline.train.run import Run

AFTER_SENTENCE = re.compile(rf"(?<=[{ENDS}])(?<!\b[A-Z]\.)(?<!\b(?:Dr|Mr|St)\.)(?<!\bMrs\.) ")
"""The space behind the end of a sentence; a full stop ends none behind an initial or a title."""


def written(line: str, letters: Letters = "a-z") -> str:
    """A printed line in written form (`redline.punctuation`): its words with their capitals and marks."""
    words: list[str] = []
    for part in line.split():
        own = spoken_words(part, letters)
        tail = part[max((at for at, char in enumerate(part) if char.isalnum()), default=-1) + 1 :]
        mark = next((char for char in tail if char in MARKS), "")
        if own:
            words += [*own[:-1], own[-1] + mark]
        elif words and words[-1][-1] not in MARKS:  # a mark that stands alone belongs to the word before
            words[-1] += mark
    return " ".join(words)


def text_files(folder: Path) -> list[Path]:
    """The .txt files under a folder; raises `DataError` where there are none."""
    files = sorted(folder.rglob("*.txt")) if folder.is_dir() else [folder]
    if not files or not all(file.is_file() for file in files):
        raise DataError(f"{folder}: no .txt files in it; name a folder of plain text, one paragraph a line")
    return files


def read_books(
    folder: Path,
    cache: Path,
    progress: Callable[[float], None] = lambda files: None,
    letters: Letters = "a-z",
) -> list[str]:
    """The paragraphs of every .txt file under a folder in written form, kept in `cache` for the next run."""
    files = text_files(folder)
    stamp = hashlib.sha256("".join(f"{file}{file.stat().st_size}" for file in files).encode()).hexdigest()[:12]
    kept = cache / (f"written-{stamp}.txt" if letters == "a-z" else f"written-{letters}-{stamp}.txt")
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as out:
            for file in files:
                for line in file.read_text(encoding="utf-8").splitlines():
                    # A line with digits would be read aloud in words that are not on the page.
                    if not any(char.isdigit() for char in line) and (words := written(line, letters)):
                        out.write(words + "\n")
                progress(1.0)
        settle(partial, kept)
    return kept.read_text(encoding="utf-8").splitlines()


def books_of(run: Run) -> dict[str, list[str]]:
    """The paragraphs of each language in written form; several languages have a folder each."""
    folder, languages = run.materials.text, run.recipe.languages
    if folder is None:
        raise DataError("the language model needs text: name a folder of .txt files with --text")
    folders = {language: folder / language if len(languages) > 1 else folder for language in languages}
    if absent := [language for language, place in folders.items() if not place.exists()]:
        raise DataError(
            f"{folder}: no folder {' or '.join(absent)} in it; the text of several languages is in folders named "
            f"like them: {', '.join(languages)}"
        )
    paragraphs = {}
    for language, place in folders.items():
        progress = share_done(run.say, f"text {language}", len(list(place.rglob("*.txt"))) or 1)
        with first_process_first():
            paragraphs[language] = read_books(place, run.out / "text", progress, run.recipe.letters)
    return paragraphs


def excerpt(text: str, words: tuple[int, int], draw: random.Random) -> str:
    """A random run of words of a written paragraph, between the two sizes or as long as the paragraph."""
    every = text.split()
    size = min(len(every), draw.randint(*words))
    start = draw.randint(0, len(every) - size)
    return " ".join(every[start : start + size])


class Sentences:
    """The whole sentences of written paragraphs, by their number of words."""

    def __init__(self, paragraphs: Sequence[str], words: tuple[int, int]) -> None:
        """Those of so many words, from the fewest to the most."""
        self.by_size: dict[int, list[str]] = {}
        for paragraph in paragraphs:
            for sentence in AFTER_SENTENCE.split(paragraph):
                size, is_whole = sentence.count(" ") + 1, sentence[:1].isupper() and sentence[-1] in ENDS
                if is_whole and words[0] <= size <= words[1]:
                    self.by_size.setdefault(size, []).append(sentence)

    def draw(self, sizes: Iterable[int], draw: random.Random) -> str | None:
        """One that has one of these sizes; None where none has."""
        found = [self.by_size[size] for size in sizes if size in self.by_size]
        return draw.choice(draw.choices(found, [len(part) for part in found])[0]) if found else None
