"""Names that people use: of languages, and of arguments in other packages."""

from __future__ import annotations

import inspect

import pytest

from redline import languages, load_model, signatures
from redline.errors import RedlineError, UnknownArgumentError, UnsupportedTaskError
from redline.testing import FakeRecognizer, tone
from redline.transcriber import Model


@pytest.mark.parametrize("name", ["en", "EN", "English", " english ", "en-US", "en_GB.UTF-8", "eng"])
def test_a_language_has_many_names_and_one_code(name: str) -> None:
    assert languages.code(name) == "en"
    assert Model(FakeRecognizer(languages=("en", "de"))).transcribe(tone(1), language=name).language == "en"


def test_names_of_languages_are_different_and_lead_to_known_codes() -> None:
    assert languages.code("Deutsch") == "de" and languages.code("zh-Hant") == languages.code("Mandarin") == "zh"
    assert all(languages.code(name) == languages.code(code) == code for code, name in languages.NAMES.items())


def test_auto_lets_the_model_find_the_language() -> None:
    assert languages.code("auto") is languages.code("AUTO") is languages.code(None) is None
    assert Model(FakeRecognizer(languages=("en", "de"))).transcribe(tone(1), language="auto").language is None


def test_a_language_that_is_none_is_refused_with_those_that_are_allowed() -> None:
    model = Model(FakeRecognizer(languages=("en", "de")))
    for wrong in ("Englisch!", "Englsh", "the queen's"):
        with pytest.raises(UnsupportedTaskError, match=r"allowed are en \(English\), de \(German\) and auto"):
            model.transcribe(tone(1), language=wrong)
    with pytest.raises(UnsupportedTaskError, match="did you mean English"):
        languages.code("Englsh")
    with pytest.raises(UnsupportedTaskError, match="not 5"):
        languages.code(5)  # type: ignore[arg-type]
    assert languages.code("xx-YY") == "xx", "whoever knows it decides"
    assert languages.code("pt-br", ["pt-BR"]) == "pt-BR"


WHISPERS = {
    "word_timestamps": "words=True",
    "beam_size": r"load_model\(beams=\)",
    "initial_prompt": "keywords= .*prefix=.*prompt=",
    "hotwords": "keywords=",
    "vad_filter": "vad=True",
    "temperature": r"load_model\(temperature=\)",
    "condition_on_previous_text": "leave it out",
    "fp16": r"load_model\(dtype=",
    "batch_size": "list of recordings",
    "laguage": "did you mean language=",
    "frobnicate": "allowed are source, .*sample_rate, language",
}


@pytest.mark.parametrize("given", WHISPERS)
def test_an_argument_of_another_package_is_refused_with_ours(given: str) -> None:
    model = Model(FakeRecognizer())
    for method in (model.transcribe, model.transcribe_each, model.stream):
        with pytest.raises(UnknownArgumentError, match=f"{method.__name__}.. has no argument '{given}'"):
            method(tone(1), **{given: 5})  # type: ignore[operator]
    with pytest.raises(TypeError, match=WHISPERS[given]):
        model.transcribe(tone(1), **{given: 5})  # type: ignore[call-overload]


def test_load_model_refuses_arguments_that_it_does_not_have() -> None:
    for given, ours in (("compute_type", "dtype="), ("words", "transcribe.*words="), ("devise", "mean device=")):
        with pytest.raises(RedlineError, match=ours):
            load_model("tiny", **{given: "int8"})  # type: ignore[arg-type]


def test_no_argument_of_ours_is_called_foreign() -> None:
    for function in (load_model, Model.transcribe, Model.transcribe_each, Model.stream):
        assert not set(inspect.signature(function).parameters) & set(signatures.FOREIGN)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, (None, ())), ("auto", (None, ())), ([], (None, ())), ("German", ("de", ())), (["fr", "fra"], ("fr", ())),
        ("de, fr", (None, ("de", "fr"))), (["French", "de-AT"], (None, ("fr", "de"))), (["de", "auto"], (None, ())),
        ("en,de,fr", (None, ())),
    ],
)  # fmt: skip
def test_several_languages_are_candidates_unless_they_are_all(
    names: str | list[str] | None, expected: tuple[str | None, tuple[str, ...]]
) -> None:
    assert languages.language_candidates(names, ("en", "de", "fr")) == expected


def test_what_is_no_language_is_no_candidate_either() -> None:
    for wrong in (5, ["en", 5], "en,Germn"):
        with pytest.raises(UnsupportedTaskError):
            languages.language_candidates(wrong, ("en", "de"))  # type: ignore[arg-type]
