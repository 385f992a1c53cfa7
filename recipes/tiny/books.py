"""Books: plain text in written form (capitals and marks), cut into excerpts."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from redline.errors import DataError
from redline.files import settle
from redline.normalize import Letters, spoken_words
from redline.punctuation import ENDS, MARKS
from redline.train.loop.distributed import first_process_first
from redline.train.loop.stage import share_done
from redline.train.run import Run


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


def read_books(
    folder: Path,
    cache: Path,
    progress: Callable[[float], None] = lambda files: None,
    letters: Letters = "a-z",
) -> list[str]:
    """The paragraphs of every .txt file under a folder in written form, kept in `cache` for the next run."""
    files = sorted(folder.rglob("*.txt")) if folder.is_dir() else [folder]
    if not files or not all(file.is_file() for file in files):
        raise DataError(f"{folder}: no .txt files in it; name a folder of plain text, one paragraph a line")
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


def excerpt(text: str, words: tuple[int, int], draw: random.Random, sentences: float = 0.0) -> str:
    """A random run of words of a written paragraph, between the two sizes or as long as the paragraph.

    The share `sentences` of the runs begins where a sentence does, and as many end with one, where any such run fits.
    """
    shortest, longest = words
    every = text.split()
    if sentences and (runs := _sentences(every, words, draw.random() < sentences, draw.random() < sentences)):
        start, end = draw.choice(runs)
        return " ".join(every[start:end])
    size = min(len(every), draw.randint(shortest, longest))
    start = draw.randint(0, len(every) - size)
    return " ".join(every[start : start + size])


def _sentences(words: Sequence[str], sizes: tuple[int, int], begins: bool, ends: bool) -> list[tuple[int, int]]:
    """Runs of words that begin where a sentence does, end with one, or both; where none does both, those with one."""
    after = [at + 1 for at, word in enumerate(words) if word[-1] in ENDS]
    lengths = range(sizes[0], sizes[1] + 1)
    opened = [(start, start + size) for start in (0, *after) for size in lengths if start + size <= len(words)]
    closed = [(end - size, end) for end in after for size in lengths if size <= end]
    if begins and ends:
        return sorted(set(opened) & set(closed)) or opened + closed
    return opened if begins else closed if ends else []
