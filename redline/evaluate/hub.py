"""Data sets of the Hugging Face hub, or of a folder in its layout, read with the `datasets` library.

The library keeps a set in files on disk and gives one row at a time; sound stays compressed until `Sounds` is asked for
it and is then decoded by `redline.audio`, so memory does not grow with the set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from redline import audio, languages
from redline.errors import AudioError, DataError
from redline.evaluate.wer import normalizer
from redline.manifest import Utterance
from redline.types import Waveform

PREFIX = "hf:"
DEFAULT_SPLIT = "test"
TEXTS = ("text", "sentence", "transcription", "transcript", "normalized_text", "raw_text")
"""Columns that may hold what is said; the first that is there is taken."""
DURATIONS = ("duration", "audio_length_s")
"""Columns that may hold the seconds of a recording; they only help to batch."""
UNSCORED = ("", "ignore time segment in scoring")
"""Normalised references that the Open ASR leaderboard leaves out; so do we, to stay comparable."""


@dataclass(frozen=True)
class Address:
    """A data set, its configuration (None for the only one), its split, and its revision (None for the newest)."""

    name: str
    config: str | None = None
    split: str = DEFAULT_SPLIT
    revision: str | None = None

    def __str__(self) -> str:
        name = f"{self.name}@{self.revision}" if self.revision else self.name
        return ":".join((name, self.config or "", self.split))

    @property
    def is_folder(self) -> bool:
        """Whether it lies on this machine."""
        return Path(self.name).is_dir()


def parse(text: str, split: str | None = None) -> Address:
    """`hf:owner/name[@revision][:config][:split]` -> the address; `split` is taken where the text names none."""
    name, *rest = text.removeprefix(PREFIX).split(":")
    revision = None
    if not Path(name).is_dir() and "@" in name:
        name, _, revision = name.partition("@")
    if not text.startswith(PREFIX) or not name or revision == "" or len(rest) > 2:
        raise DataError(
            f"{text!r} names no data set; write hf:owner/name, hf:owner/name:config or hf:owner/name:config:split "
            "(config may be empty: hf:owner/name::test), and hf:owner/name@revision for one revision of it"
        )
    config, own = (*rest, "", "")[:2]
    if own and split and own != split:
        raise DataError(f"{text!r} names split {own}, but split {split} is asked for; say one of them")
    return Address(name, config or None, own or split or DEFAULT_SPLIT, revision)


def pinned(address: Address) -> Address:
    """The same with the newest revision in place of none, so that all of a run is one revision, and it can be told.

    Where the hub does not answer, the cache decides, and the address stays as it is.
    """
    if address.revision or address.is_folder:
        return address
    return replace(address, revision=_newest(address.name))


def _newest(name: str) -> str | None:
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name, timeout=10).sha
    except Exception:  # no network, no rights, no such set: reading it says so
        return None


@dataclass(frozen=True)
class Sounds:
    """Loads the recordings of data sets: a made-up path, data set / row, is what an utterance of the hub names."""

    sets: Mapping[Path, Any]
    folders: Mapping[Path, Sequence[Path]]
    """Where the files of each set lie; a row may name no other, whoever wrote it."""

    def __call__(self, path: Path) -> Waveform:
        """Decode the sound of one row; raises `AudioError` naming it."""
        sound = self.sets[path.parent][int(path.name)]["audio"] or {}
        data, file = sound.get("bytes"), sound.get("path")
        if data:
            return audio.load(_Named(data, str(path)))
        if file:
            return audio.load(self._inside(path, str(file)))
        raise AudioError(f"{path}: the row holds neither the bytes nor the path of a recording")

    def __or__(self, other: Sounds) -> Sounds:
        """The recordings of both."""
        return Sounds({**self.sets, **other.sets}, {**self.folders, **other.folders})

    def _inside(self, path: Path, file: str) -> Path:
        """The file that a row names, links followed, if it is one of its data set."""
        for folder in self.folders[path.parent]:
            found = (folder / file).resolve()
            if found.is_relative_to(folder.resolve()):
                return found
        raise AudioError(
            f"{path}: the row names {file!r}, which is no file of the data set, and is not opened; a row holds the "
            "bytes of its recording, or names a file in the folder of the set"
        )


class _Named(BytesIO):
    """Bytes that errors can name."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def read(
    address: Address, *, language: str | None = None, limit: int | None = None, source: str | None = None
) -> tuple[list[Utterance], int, Sounds]:
    """The utterances of a data set, how many rows have no text that is scored, and what loads the recordings.

    Raises `DataError` when the library is not installed, the set cannot be reached or has not the columns.
    """
    rows = _open(address)
    columns: Sequence[str] = rows.column_names
    text = next((name for name in TEXTS if name in columns), None)
    if "audio" not in columns or text is None:
        raise DataError(
            f"{address}: its columns are {', '.join(columns)}; needed are audio and one of {', '.join(TEXTS)}"
        )
    length = next((name for name in DURATIONS if name in columns), None)
    root, spoken = Path(PREFIX + str(address)), languages.code(language) or "en"
    normalize = normalizer(spoken)
    utterances: list[Utterance] = []
    without_text = 0
    plain = rows.select_columns([name for name in (text, length, "id") if name in columns])  # sound stays on disk
    for number, row in enumerate(plain):
        if len(utterances) == limit:
            break
        said = str(row[text] or "").strip()
        if normalize(said).strip() in UNSCORED:
            without_text += 1
            continue
        path = root / str(number)
        seconds = float(row[length] or 0.0) if length else 0.0
        id = str(row.get("id") or path)
        utterances.append(Utterance(id, path, said, seconds, spoken, source=source or address.name))
    if not utterances:
        raise DataError(f"{address}: none of its {without_text} rows has a text that can be scored")
    return utterances, without_text, Sounds({root: rows}, {root: _folders(address)})


def _folders(address: Address) -> list[Path]:
    """Where the files of a data set may lie: its own folder, or the caches that the libraries fill."""
    if address.is_folder:
        return [Path(address.name)]
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    downloads = getattr(datasets.config, "DOWNLOADED_DATASETS_PATH", None)
    own = Path(HF_HUB_CACHE) / f"datasets--{address.name.replace('/', '--')}"
    return [own, Path(downloads)] if downloads else [own]


def _open(address: Address) -> Any:
    """The rows of a data set, sound left as it is stored."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{address}: data sets of the hub need the package datasets, which is not installed: "
            "pip install 'redline[leaderboard]'"
        ) from error
    # The library fails in a dozen ways (network, cache, names, rights, broken files), each with an error of its own.
    try:
        rows = datasets.load_dataset(address.name, address.config, split=address.split, revision=address.revision)
        return rows.cast_column("audio", datasets.Audio(decode=False)) if "audio" in rows.column_names else rows
    except Exception as error:
        raise DataError(_advice(address, error)) from error


def _advice(address: Address, error: Exception) -> str:
    seen = f"{address}: cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:300]}); "
    if isinstance(error, ValueError):  # a configuration or split that is not there; the message lists what is
        return seen + "write hf:owner/name:config:split with names that the data set has"
    return seen + (
        "the first time a data set needs the network, afterwards it is in the cache (folder HF_HOME, set "
        "HF_HUB_OFFLINE=1 to use nothing else); check the name, and for a data set with conditions accept them on "
        "huggingface.co and log in with: hf auth login"
    )
