"""What can be scored: a manifest, a folder of recordings with texts beside them, or lhotse cuts."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from redline import languages
from redline.errors import DataError
from redline.manifest import Utterance, read_manifest

TEXT_SUFFIXES = (".txt", ".lab")
CUT_SUFFIX = ".jsonl.gz"


def read(
    path: Path, *, split: str | None = None, language: str | None = None, limit: int | None = None
) -> tuple[list[Utterance], int]:
    """The utterances of a manifest, a folder or cuts, and how many have no text and are left out.

    Raises `DataError` when nothing can be read or nothing matches.
    """
    language = languages.code(language)
    if path.is_dir():
        return read_folder(path, language=language, limit=limit)
    if path.name.endswith(CUT_SUFFIX):
        return read_cuts(path, language=language, limit=limit)
    rows = read_manifest(path, split=split, language=language)
    if not rows:
        raise DataError(f"{path}: there is nothing in it; a manifest has one JSON object a line")
    with_text = [row for row in rows if row.text]
    return with_text[:limit], len(rows) - len(with_text)


def read_folder(path: Path, *, language: str | None = None, limit: int | None = None) -> tuple[list[Utterance], int]:
    """Every recording under a folder that has a text of the same name beside it; the folder's name is the source."""
    texts = {file.with_suffix(""): file for suffix in TEXT_SUFFIXES for file in sorted(path.rglob(f"*{suffix}"))}
    others = [file for file in sorted(path.rglob("*")) if file.is_file() and file.suffix not in TEXT_SUFFIXES]
    pairs = [(file, texts[file.with_suffix("")]) for file in others if file.with_suffix("") in texts]
    if not pairs:
        raise DataError(f"{path}: no recording has a text beside it; a.wav needs a.txt with what is said in it")
    utterances = []
    for file, text in pairs[:limit]:
        said = text.read_text(encoding="utf-8", errors="replace").strip()
        if said:
            utterances.append(Utterance(file.stem, file, said, 0.0, language or "en", source=path.name))
    return utterances, len(pairs[:limit]) - len(utterances)


def read_cuts(path: Path, *, language: str | None = None, limit: int | None = None) -> tuple[list[Utterance], int]:
    """The cuts of a lhotse file whose recordings are files; what is said is the text of their supervisions."""
    try:
        from lhotse import load_manifest_lazy
    except ImportError as error:
        raise DataError(
            f"{path}: lhotse cuts need lhotse, which is not installed: pip install 'redline[train]'"
        ) from error
    utterances, without_text = [], 0
    try:
        for cut in islice(load_manifest_lazy(path), limit):
            text = " ".join(one.text.strip() for one in cut.supervisions if one.text)
            spoken = languages.code(next((one.language for one in cut.supervisions if one.language), None)) or "en"
            if language is not None and spoken != language:
                continue
            if not text:
                without_text += 1
                continue
            sources = [source.source for source in cut.recording.sources if source.type == "file"]
            if not sources:
                raise DataError(f"{path}: cut {cut.id} is not from a file; save the recordings as files first")
            speaker = next((one.speaker for one in cut.supervisions if one.speaker), None) or ""
            end = cut.start + cut.duration
            audio, whole = Path(sources[0]), cut.duration
            one = Utterance(cut.id, audio, text, whole, spoken, speaker, path.name, start=cut.start, end=end)
            utterances.append(one)
    except (OSError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise DataError(f"{path}: cannot be read as lhotse cuts ({error})") from error
    if not utterances:
        raise DataError(f"{path}: no cut has text" + (f" in language {language}" if language else ""))
    return utterances, without_text
