"""A text where a list of texts is wanted: taken for what it says, or refused, and never taken letter by letter."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import redline
from redline.cli.transcribe import keywords_of
from redline.errors import DataError, RedlineError, UnsupportedTaskError
from redline.load import load_model
from redline.manifest import Utterance, read_manifest
from redline.prompts import PromptRequest, checked_keywords
from redline.serve.options import ServeOptions
from redline.testing import FakeRecognizer, tone
from redline.tokenizer import Tokenizer
from redline.transcriber import Model
from redline.types import Hypothesis, Request, Task, Waveform, listed
from tests.builders import letter_tokenizer, tiny_ar_checkpoint, tiny_checkpoint

PAIR = ("oat milk", "cortado")

TAKEN: dict[str, Callable[[Any], tuple[str, ...]]] = {
    "types.Task.keywords": lambda given: Task(keywords=given).keywords,
    "types.Task.languages": lambda given: Task(languages=given).languages,
    "prompts.PromptRequest.keywords": lambda given: PromptRequest(keywords=given).keywords,
    "manifest.Utterance.keywords": lambda given: Utterance("", Path(), "", 0.0, keywords=given).keywords,
    "testing.FakeRecognizer.languages": lambda given: FakeRecognizer(languages=given).languages,
    "prompts.checked_keywords.keywords": checked_keywords,
    "serve.options.ServeOptions.model_names": lambda given: ServeOptions(model_names=given).model_names,
    "serve.options.ServeOptions.allow_url_hosts": lambda given: ServeOptions(allow_url_hosts=given).allow_url_hosts,
    "serve.options.ServeOptions.cors_origins": lambda given: ServeOptions(cors_origins=given).cors_origins,
}
"""Where a text is a list with commas."""

REFUSED: dict[str, Callable[[Any], Any]] = {
    "tokenizer.Tokenizer.encode_all.texts": lambda given: letters().encode_all(given),
}
"""Where a text is refused, because it can only be meant as one of many."""

INSIDE = re.compile(
    r"(audio\.content|checkpoints|cli|cluster|decoding|diarize|keywords|languages|models|prepare|punctuation|recognizer|tensor_file|train"
    r"|serve\.(?!options)\w+"
    r"|evaluate\.(metrics|report|seams|sweep|systems)|formats\.subtitles\.SubtitleCue|types\.share|tokenizer\.Tokenizer\.check)\b"
)
"""What is called with lists of our own making; users come in by the rooms above these."""


def letters() -> Tokenizer:
    return Tokenizer(letter_tokenizer(["<|end_of_text|>"]))


def signatures() -> Iterator[tuple[str, str]]:
    """Every public parameter of the package with its annotation: `module.function.parameter`."""
    for info in pkgutil.walk_packages(redline.__path__, "redline."):
        if any(part.startswith("_") for part in info.name.split(".")[1:]):
            continue
        module = importlib.import_module(info.name)
        for name, item in vars(module).items():
            if name.startswith("_") or getattr(item, "__module__", None) != info.name:
                continue
            methods = vars(item).items() if inspect.isclass(item) else ()
            called = [(name, item), *((f"{name}.{key}", method) for key, method in methods if not key.startswith("_"))]
            for label, function in called:
                if not callable(function) or getattr(function, "_is_protocol", False):
                    continue
                try:
                    parameters = inspect.signature(function).parameters.values()
                except (TypeError, ValueError):
                    continue
                where = f"{info.name.removeprefix('redline.')}.{label}"
                yield from ((f"{where}.{each.name}", str(each.annotation)) for each in parameters)


def test_no_parameter_takes_a_text_letter_by_letter() -> None:
    wanted = re.compile(r"\b(Sequence|Iterable|list|tuple|set|frozenset)\[str\b")
    known = {*TAKEN, *REFUSED}
    seen = set()
    for where, annotation in signatures():
        if wanted.search(annotation) and not re.search(r"\bstr \|", annotation) and not INSIDE.match(where):
            seen.add(where)
    assert seen - known == set(), "say in TAKEN or REFUSED what a text does there"


@pytest.mark.parametrize("where", TAKEN)
def test_a_text_is_a_list_with_commas(where: str) -> None:
    take = TAKEN[where]
    assert take("oat milk, cortado") == take(list(PAIR)) == take(word for word in PAIR) == PAIR
    assert take("cortado") == ("cortado",) and take("") == take(" , ") == ()


@pytest.mark.parametrize("where", REFUSED)
def test_a_text_where_many_are_wanted_is_refused(where: str) -> None:
    with pytest.raises(DataError, match="a single text; give a list"):
        REFUSED[where]("cortado")


def test_the_command_line_splits_as_the_library_does() -> None:
    assert tuple(keywords_of(" oat milk,, cortado ,")) == listed(" oat milk,, cortado ,") == PAIR


@pytest.mark.parametrize("given", ["oat milk, cortado", list(PAIR), PAIR, (word for word in PAIR), dict.fromkeys(PAIR)])
def test_a_model_is_asked_for_the_words_and_not_for_their_letters(given: Any) -> None:
    asked: list[Task] = []

    class Asked(FakeRecognizer):
        def answer(self, request: Request) -> Hypothesis | RedlineError:
            asked.append(request.task)
            return super().answer(request)

    Model(Asked()).transcribe(tone(0.5), keywords=given, vad=False)
    assert {task.keywords for task in asked} == {PAIR}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"keywords": (None,)}, "keyword 1 is None .*; give it as a text"),
        ({"keywords": ["Priya", 5]}, "keyword 2 is 5 .*int.*; give it as a text"),
        ({"keywords": 5}, "keywords is 5; give a list of texts"),
        ({"keywords": b"Priya"}, "keywords is b'Priya'; give a list of texts"),
        ({"keywords": ("\u200b",)}, "keyword 1 .* is empty; leave it out"),
        ({"keywords": ("\u200b \u2060\ufeff",)}, "keyword 1 .* is empty; leave it out"),
        ({"keywords": ("a\x1b[31m",)}, "control character"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "\u200b"}, "prompt"),
        ({"prefix": 5}, "prefix"),
        ({"prefix": ["so"]}, "prefix"),
    ],
)
@pytest.mark.parametrize("kind", ["nar", "granite_speech", "granite_speech_plus"])
def test_what_is_no_text_is_refused_by_name(tmp_path: Path, kind: Any, asked: dict[str, Any], message: str) -> None:
    folder = tiny_checkpoint(tmp_path) if kind == "nar" else tiny_ar_checkpoint(tmp_path, kind)
    for call in (load_model(folder).transcribe, load_model(folder).stream):
        with pytest.raises(UnsupportedTaskError, match=message):
            call(tone(0.5), **asked)


@pytest.mark.parametrize(
    ("keywords", "wanted"), [("oat milk, cortado", PAIR), (["7"], ("7",)), ([7], ("7",)), (None, ())]
)
def test_keywords_of_a_manifest_are_words(tmp_path: Path, keywords: Any, wanted: tuple[str, ...]) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio": "a.wav", "text": "a", "keywords": keywords}))
    assert read_manifest(tmp_path / "m.jsonl")[0].keywords == wanted


@pytest.mark.parametrize("keywords", [5, {"a": 1}, [None], [["a"]], True])
def test_keywords_of_a_manifest_that_are_none_are_refused(tmp_path: Path, keywords: Any) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio": "a.wav", "text": "a", "keywords": keywords}))
    with pytest.raises(DataError, match=r"m\.jsonl:1: keywords is .*give a list of texts"):
        read_manifest(tmp_path / "m.jsonl")


@pytest.mark.parametrize("single", ["{path}", Path("{path}"), b"{bytes}", np.zeros(16_000, np.float32), "wave"])
def test_a_single_recording_is_a_list_of_one(tmp_path: Path, single: Any) -> None:
    import soundfile

    path = tmp_path / "a.wav"
    soundfile.write(path, tone(0.5).samples, 16_000)
    recordings = {"{path}": str(path), Path("{path}"): path, b"{bytes}": path.read_bytes(), "wave": tone(0.5)}
    rate = 16_000 if isinstance(single, np.ndarray) else None
    source = single if rate else recordings[single]
    results = list(Model(FakeRecognizer()).transcribe_each(source, sample_rate=rate, vad=False))
    assert len(results) == 1 and not isinstance(results[0], RedlineError)
    with path.open("rb") as stream:
        assert len(list(Model(FakeRecognizer()).transcribe_each(stream, vad=False))) == 1
    assert isinstance(tone(0.5), Waveform)
