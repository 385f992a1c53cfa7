"""Data sets of the Hugging Face hub, or of a folder in its layout, read with the `datasets` library.

The library keeps a set in files on disk and gives one row at a time; sound stays compressed until `HubSounds` is asked
for it and is then decoded by `redline.audio`, so memory does not grow with the set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from redline import audio
from redline.errors import AudioError, DataError, packages_of
from redline.evaluate.datasets.dataset import Dataset, DatasetOptions
from redline.manifest import Utterance
from redline.normalize import normalised
from redline.types import Waveform

HUB_PREFIX = "hf:"
TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript", "normalized_text", "raw_text")
DURATION_COLUMNS = ("duration", "audio_length_s")
"""Columns that may hold the transcript, and the seconds, which only help to batch; the first that is there is taken."""
UNSCORED = ("", "ignore time segment in scoring")
"""Normalised references that the Open ASR leaderboard leaves out; so do we, to stay comparable."""


@dataclass(frozen=True)
class HubAddress:
    """A data set, its configuration (None for the only one), its split, and its revision (None for the newest)."""

    name: str
    config: str | None = None
    split: str = "test"
    revision: str | None = None

    def __str__(self) -> str:
        name = f"{self.name}@{self.revision}" if self.revision else self.name
        return ":".join((name, self.config or "", self.split))


def parse_address(text: str, split: str | None = None) -> HubAddress:
    """`hf:owner/name[@revision][:config][:split]` -> the address; `split` is taken where the text names none."""
    name, *rest = text.removeprefix(HUB_PREFIX).split(":")
    revision = None
    if not Path(name).is_dir() and "@" in name:
        name, _, revision = name.partition("@")
    if not text.startswith(HUB_PREFIX) or not name or revision == "" or len(rest) > 2:
        raise DataError(
            f"{text!r} names no data set; write hf:owner/name, hf:owner/name:config or hf:owner/name:config:split "
            "(config may be empty: hf:owner/name::test), and hf:owner/name@revision for one revision of it"
        )
    config, own = (*rest, "", "")[:2]
    if own and split and own != split:
        raise DataError(f"{text!r} names split {own}, but split {split} is asked for; say one of them")
    return HubAddress(name, config or None, own or split or HubAddress.split, revision)


def pinned(address: HubAddress) -> HubAddress:
    """The same with the newest revision in place of none, so that all of a run is one revision, and it can be told.

    Where the hub does not answer, the cache decides, and the address stays as it is.
    """
    if address.revision or Path(address.name).is_dir():
        return address
    from huggingface_hub import HfApi

    try:
        return replace(address, revision=HfApi().dataset_info(address.name, timeout=10).sha)
    except Exception:  # no network, no rights, no such set: reading it says so
        return address


@dataclass(frozen=True)
class HubSounds:
    """Loads the recordings of data sets, by the paths that their utterances have: address / number of the row.

    `sets` has the rows of each, and the folders in which its files lie; a row may name no other, whoever wrote it.
    """

    sets: Mapping[Path, tuple[Any, Sequence[Path]]]

    def __call__(self, path: Path) -> Waveform:
        """Decode the sound of one row; raises `AudioError` naming it."""
        rows, folders = self.sets[path.parent]
        sound = rows[int(path.name)]["audio"] or {}
        if data := sound.get("bytes"):
            stream = BytesIO(data)
            stream.name = str(path)  # for errors
            return audio.load(stream)
        if not (file := sound.get("path")):
            raise AudioError(f"{path}: the row holds neither the bytes nor the path of a recording")
        for folder in folders:
            inside = (folder / file).resolve()
            if inside.is_relative_to(folder.resolve()):
                return audio.load(inside)
        raise AudioError(
            f"{path}: the row names {file!r}, which is no file of the data set, and is not opened; a row holds the "
            "bytes of its recording, or names a file in the folder of the set"
        )


def read_hub(name: str, options: DatasetOptions) -> Dataset | None:
    """The data set of an address that begins with `hf:`, at one revision."""
    if not name.startswith(HUB_PREFIX):
        return None
    address = pinned(parse_address(name, options.split))
    utterances, without_text, load = read_address(address, options)
    return Dataset(str(address), utterances, without_text, load=load)


def read_address(
    address: HubAddress, options: DatasetOptions, source: str | None = None
) -> tuple[list[Utterance], int, HubSounds]:
    """The utterances of a data set, how many rows have no text that is scored, and what loads the recordings.

    Raises `DataError` when the set cannot be reached or has not the columns, `RedlineError` without the library.
    """
    rows = _open(address)
    columns: Sequence[str] = rows.column_names
    text = next((name for name in TEXT_COLUMNS if name in columns), None)
    if "audio" not in columns or text is None:
        raise DataError(
            f"{address}: its columns are {', '.join(columns)}; needed are audio and one of {', '.join(TEXT_COLUMNS)}"
        )
    length = next((name for name in DURATION_COLUMNS if name in columns), None)
    root, language = Path(HUB_PREFIX + str(address)), options.language or "en"
    utterances: list[Utterance] = []
    without_text = 0
    texts = rows.select_columns([name for name in (text, length, "id") if name in columns])  # sound stays on disk
    for number, row in enumerate(texts):
        if len(utterances) == options.limit:
            break
        transcript = str(row[text] or "").strip()
        if normalised(transcript, language) in UNSCORED:
            without_text += 1
            continue
        path = root / str(number)
        seconds = float(row[length] or 0.0) if length else 0.0
        id = str(row.get("id") or path)
        utterances.append(Utterance(id, path, transcript, seconds, language, source=source or address.name))
    if not utterances:
        raise DataError(f"{address}: none of its {without_text} rows has a text that can be scored")
    return utterances, without_text, HubSounds({root: (rows, _folders(address))})


def _folders(address: HubAddress) -> list[Path]:
    """Where the files of a data set may lie: its own folder, or the caches that the libraries fill."""
    if Path(address.name).is_dir():
        return [Path(address.name)]
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    downloads = getattr(datasets.config, "DOWNLOADED_DATASETS_PATH", None)
    own = Path(HF_HUB_CACHE) / f"datasets--{address.name.replace('/', '--')}"
    return [own, Path(downloads)] if downloads else [own]


def _open(address: HubAddress) -> Any:
    """The rows of a data set, sound left as it is stored."""
    with packages_of("leaderboard", f"{address}: a data set of the hub"):
        import datasets
    # The library fails in a dozen ways (network, cache, names, rights, broken files), each with an error of its own.
    try:
        rows = datasets.load_dataset(address.name, address.config, split=address.split, revision=address.revision)
        return rows.cast_column("audio", datasets.Audio(decode=False)) if "audio" in rows.column_names else rows
    except Exception as error:
        advice = (
            "the first time a data set needs the network, afterwards it is in the cache (folder HF_HOME, set "
            "HF_HUB_OFFLINE=1 to use nothing else); check the name, and for a data set with conditions accept them on "
            "huggingface.co and log in with: hf auth login"
        )
        if isinstance(error, ValueError):  # a configuration or split that is not there; the message lists what is
            advice = "write hf:owner/name:config:split with names that the data set has"
        seen = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise DataError(f"{address}: cannot be read ({seen}); {advice}") from error
