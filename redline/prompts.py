"""Request -> the chat text of each model card -> token ids in which only the template writes control tokens.

A checkpoint's own chat template is used where it has one. It is foreign code, so it runs once, when it is read, in a
sandbox that counts: what comes out is a text with two holes, and user text is put into the holes afterwards.

Sources: the model cards of granite-speech-4.1-2b and granite-speech-4.1-2b-plus; of granite-speech-5.0-2b only how its
prompt begins is known here (docs/checkpoints.md).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from redline import untrusted
from redline.errors import CheckpointError, UnsupportedTaskError
from redline.sandbox import run
from redline.tokenizer import Tokenizer
from redline.types import listed

Kind = Literal["granite_speech", "granite_speech_plus"]
"""The `model_type` of a checkpoint that answers prompts."""

PLAIN = "can you transcribe the speech into a written format?"
PUNCTUATED = "transcribe the speech with proper punctuation and capitalization."
WITH_KEYWORDS = "transcribe the speech to text."
TRANSLATE = "translate the speech to {}."
TRANSLATE_PUNCTUATED = "translate the speech to {} with proper punctuation and capitalization."
SPEAKERS = (
    "Speaker attribution: Transcribe and denote who is speaking by adding [Speaker 1]: and [Speaker 2]: tags before "
    "speaker turns."
)
WORDS = (
    "Timestamps: Transcribe the speech. After each word, add a timestamp tag showing the end time in centiseconds, "
    "e.g. hello [T:45] world [T:82]"
)
KEYWORDS = " Keywords: {}"
SPOKEN = "The speech is in {}. "
EXACTLY = "Transcribe it exactly; do not translate. "
PLUS_SYSTEM = (
    "Knowledge Cutoff Date: April 2024.\n"
    "Today's Date: December 19, 2024.\n"
    "You are Granite, developed by IBM. You are a helpful AI assistant"
)

LANGUAGES = {
    "en": "English",
    "fr": "French",
    "de": "German",
    "es": "Spanish",
    "pt": "Portuguese",
    "ja": "Japanese",
    "it": "Italian",
    "zh": "Mandarin",
}
"""The names that the instructions use."""
INTO_ENGLISH = ("fr", "de", "es", "pt", "ja")
FROM_ENGLISH = (*INTO_ENGLISH, "it", "zh")
PAIRS = frozenset({(source, "en") for source in INTO_ENGLISH} | {("en", target) for target in FROM_ENGLISH})
PAIRS_IN_WORDS = f"{', '.join(INTO_ENGLISH)} to en, and en to {', '.join(FROM_ENGLISH)}"

MAX_KEYWORDS = 100
MORE_KEYWORDS = 2_000
"""What granite-speech-5.0-2b takes."""
MAX_KEYWORD = 64
"""Characters in one keyword."""
MAX_PROMPT = 2_000
"""Characters in an instruction of the user's own."""
MAX_PREFIX = 16_000
"""Characters that an answer may begin with; more than 4,096 positions of a language model hold."""

AUDIO = "<|audio|>"
INSTRUCTION, PREFIX = "\ue000instruction\ue001", "\ue000prefix\ue001"
"""The holes of a rendered template; private characters, so that no template writes them by chance."""
BUILT_IN: dict[Kind, str] = {
    "granite_speech": f"USER: {AUDIO}{INSTRUCTION}\n ASSISTANT:",
    "granite_speech_plus": f"<|start_of_role|>system<|end_of_role|>{PLUS_SYSTEM}<|end_of_text|>\n"
    f"<|start_of_role|>user<|end_of_role|>{AUDIO} {INSTRUCTION}<|end_of_text|>\n"
    "<|start_of_role|>assistant<|end_of_role|>",
}
CONTROL = re.compile(r"<\|[^|<>\s]+\|>")
"""What a control token looks like in a Granite template."""


@dataclass(frozen=True)
class PromptRequest:
    """What the user wants of a model that answers prompts; raises `UnsupportedTaskError` beyond a limit."""

    verb: Literal["transcribe", "translate"] = "transcribe"
    language: str | None = None
    """The language that is spoken; None where it is not known."""
    target_language: str | None = None
    punctuated: bool | None = None
    """None is with punctuation and capitals wherever the model has an instruction for it."""
    keywords: tuple[str, ...] = ()
    """Names and terms that may be spoken, a list or a text with commas; doubles are dropped."""
    speakers: bool = False
    words: bool = False
    """Whether to write the end time of every word."""
    prompt: str | None = None
    """An instruction in place of the model card's."""
    prefix: str | None = None
    """The text that the answer begins with."""
    most_keywords: int = MAX_KEYWORDS
    """How many the model takes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "keywords", checked_keywords(self.keywords, self.most_keywords))
        if self.prompt is not None:
            _check(self.prompt, "the prompt", MAX_PROMPT, allowed="\n")
        if self.prefix:
            _check(self.prefix, "the prefix", MAX_PREFIX, allowed="\n")


def keyword_list(keywords: str | Iterable[str] | None) -> tuple[str, ...]:
    """Keywords from a list or a text with commas; raises `UnsupportedTaskError` for what is neither."""
    if not (keywords is None or isinstance(keywords, Iterable)) or isinstance(keywords, bytes):
        raise UnsupportedTaskError(
            f"keywords is {keywords!r}; give a list of texts, such as ['cortado'], or a text with commas between them"
        )
    return listed(keywords)


def checked_keywords(keywords: str | Iterable[str] | None, most: int = MAX_KEYWORDS) -> tuple[str, ...]:
    """Keywords without doubles and outer spaces.

    Raises `UnsupportedTaskError` for what is no list of texts, and for too many or too long ones.
    """
    keywords = keyword_list(keywords)
    if len(keywords) > most:
        raise UnsupportedTaskError(f"{len(keywords)} keywords; allowed are {most}: keep those most often misheard")
    for number, keyword in enumerate(keywords, start=1):
        _check(keyword, f"keyword {number}", MAX_KEYWORD)
    return tuple(dict.fromkeys(keyword.strip() for keyword in keywords))


def instruction(request: PromptRequest, kind: Kind, names_language: bool = False) -> str:
    """The instruction for one request, as the model card words it; see `PromptTemplate` for `names_language`.

    Raises `UnsupportedTaskError` with the reason, what is allowed, and which model can.
    """
    if request.verb not in ("transcribe", "translate"):
        raise UnsupportedTaskError(f"the verb is {request.verb!r}; allowed are transcribe and translate")
    if request.verb == "transcribe" and request.target_language is not None:
        raise UnsupportedTaskError(
            f"target_language is {request.target_language!r}, but the verb is transcribe; leave it out or translate"
        )
    (_check_plus if kind == "granite_speech_plus" else _check_base)(request)
    if request.prompt is not None:
        given = [name for name in ("keywords", "punctuated", "speakers", "words") if getattr(request, name)]
        if given:
            raise UnsupportedTaskError(
                f"a prompt of your own replaces the instruction, so {' and '.join(given)} would have no effect; "
                "leave them out and say it in the prompt"
            )
        return request.prompt.strip()
    text = _plus_text(request) if kind == "granite_speech_plus" else _base_text(request)
    if names_language and request.verb == "transcribe":
        named = LANGUAGES.get(request.language or "")
        text = (SPOKEN.format(named) if named else "") + EXACTLY + text
    if request.keywords:
        text = (text if text.endswith((".", "?")) else text + ".") + KEYWORDS.format(", ".join(request.keywords))
    return text


def _base_text(request: PromptRequest) -> str:
    punctuated = request.punctuated is not False and not request.keywords
    if request.verb == "translate":
        assert request.target_language is not None, "checked with the request"
        return (TRANSLATE_PUNCTUATED if punctuated else TRANSLATE).format(LANGUAGES[request.target_language])
    return WITH_KEYWORDS if request.keywords else PUNCTUATED if punctuated else PLAIN


def _plus_text(request: PromptRequest) -> str:
    return SPEAKERS if request.speakers else WORDS if request.words else PLAIN


def _check_base(request: PromptRequest) -> None:
    """What 2B cannot do."""
    for wanted, what in (
        (request.speakers, "speaker labels"),
        (request.words, "word timestamps"),
        (request.prefix, "a prefix"),
    ):
        if wanted:
            raise UnsupportedTaskError(
                f"{what}: a granite_speech model has not learned it; leave it out, or take a granite_speech_plus model "
                "such as granite-speech-4.1-2b-plus, which can"
            )
    if request.verb == "translate":
        source, target = request.language, request.target_language
        if target is None:
            raise UnsupportedTaskError(f"translate needs a target_language; allowed are {PAIRS_IN_WORDS}")
        if not any(source in (None, spoken) and target == written for spoken, written in PAIRS):
            pair = f"to {target!r}" if source is None else f"from {source!r} to {target!r}"
            raise UnsupportedTaskError(f"cannot translate {pair}; allowed are {PAIRS_IN_WORDS}")
    if request.punctuated and request.keywords:
        raise UnsupportedTaskError(
            "keywords and punctuation: the model card has no instruction for both; leave out one of them"
        )


def _check_plus(request: PromptRequest) -> None:
    """What 2B-Plus cannot do."""
    for wanted, what in ((request.verb == "translate", "translation"), (request.punctuated, "punctuation")):
        if wanted:
            raise UnsupportedTaskError(
                f"{what}: a granite_speech_plus model has not learned it; leave it out, or take a granite_speech model "
                "such as granite-speech-4.1-2b, which can"
            )
    if request.speakers and request.words:
        raise UnsupportedTaskError(
            "speakers and words: the model card has one instruction for each and none for both; ask for them one after "
            "the other"
        )


def _check(text: str, what: str, limit: int, allowed: str = "") -> None:
    """Refuse what is no text, and user text that is empty, too long, or has characters that are no text."""
    if not isinstance(text, str):
        raise UnsupportedTaskError(f"{what} is {text!r} (a value of type {type(text).__name__}); give it as a text")
    shown = f"{what} ({text[:32]!r}{'...' if len(text) > 32 else ''})"
    # A zero-width space is no space to Python, and nothing to a reader.
    if all(char.isspace() or unicodedata.category(char) == "Cf" for char in text):
        raise UnsupportedTaskError(f"{shown} is empty; leave it out")
    if len(text.strip()) > limit:
        raise UnsupportedTaskError(f"{shown} has {len(text.strip())} characters; allowed are {limit}: shorten it")
    bad = [char for char in text if char not in allowed and unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]
    if bad:
        raise UnsupportedTaskError(f"{shown} has the control character {bad[0]!r}; only printed text is allowed")


@dataclass(frozen=True)
class PromptPart:
    """A part of a rendered prompt; control tokens count only in what the template wrote."""

    text: str
    from_template: bool


@dataclass(frozen=True)
class Rendered:
    """A whole prompt, ready for `encode`; as a string it is the prompt's text."""

    pieces: tuple[PromptPart, ...]

    def __str__(self) -> str:
        return "".join(piece.text for piece in self.pieces)


@dataclass(frozen=True)
class PromptTemplate:
    """The chat text of one checkpoint, with holes for the instruction and for the text that the answer begins with."""

    kind: Kind
    bare: str
    prefixed: str
    names_language: bool = False
    """Whether instructions begin with the language that is spoken, as granite-speech-5.0-2b has learned them."""

    @property
    def most_keywords(self) -> int:
        """How many keywords the model takes."""
        return MORE_KEYWORDS if self.names_language else MAX_KEYWORDS

    @classmethod
    def built_in(cls, kind: Kind) -> PromptTemplate:
        """The template of the model card."""
        return cls(kind, BUILT_IN[kind], BUILT_IN[kind] + PREFIX)

    @classmethod
    def from_folder(cls, folder: str | Path, kind: Kind, names_language: bool = False) -> PromptTemplate:
        """A checkpoint's own template, or that of the model card where it has none; raises `CheckpointError`."""
        return replace(cls._found(Path(folder), kind), names_language=names_language)

    @classmethod
    def _found(cls, folder: Path, kind: Kind) -> PromptTemplate:
        settings = _read_json(folder / "tokenizer_config.json")
        named = {name: _token(settings.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        tokens = {name: token for name, token in named.items() if token is not None}
        path = folder / "chat_template.jinja"
        if untrusted.is_there(path):
            return cls.from_source(untrusted.read_checkpoint_text(path), kind, path, tokens)
        for name in ("chat_template.json", "tokenizer_config.json", "processor_config.json"):
            source = _read_json(folder / name).get("chat_template")
            if isinstance(source, list):  # several templates with a name each
                each = [item for item in source if isinstance(item, Mapping) and item.get("name") == "default"]
                source = each[0].get("template") if each else None
            if isinstance(source, str):
                return cls.from_source(source, kind, folder / name, tokens)
        return cls.built_in(kind)

    @classmethod
    def from_source(
        cls, source: str, kind: Kind, origin: str | Path = "chat template", tokens: Mapping[str, str] | None = None
    ) -> PromptTemplate:
        """A template from its Jinja source; `tokens` are the names it may use, such as `eos_token`.

        Raises `CheckpointError` when it is broken, does not end, or does not write audio and instruction once each.
        """
        plus = kind == "granite_speech_plus"
        user = {"role": "user", "content": f"{AUDIO}{' ' if plus else ''}{INSTRUCTION}"}
        values = {
            **(tokens or {}),
            "messages": [{"role": "system", "content": PLUS_SYSTEM}, user] if plus else [user],
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
        }
        bare = run(source, values, origin)
        prefixed = run(source, {**values, "prefix_text": PREFIX}, origin)
        if PREFIX not in prefixed:  # most templates know of no prefix
            prefixed = bare + PREFIX
        for text, hole in ((bare, INSTRUCTION), (bare, AUDIO), (prefixed, INSTRUCTION), (prefixed, AUDIO)):
            if text.count(hole) != 1:
                what = "the audio token" if hole is AUDIO else "the user's message"
                raise CheckpointError(
                    f"{origin}: the chat template writes {what} {text.count(hole)} times; it has to be once"
                )
        if prefixed.count(PREFIX) != 1 or not prefixed.endswith(PREFIX):
            raise CheckpointError(f"{origin}: the chat template does not end with prefix_text, where the answer begins")
        return cls(kind, bare, prefixed)

    def render(self, request: PromptRequest) -> Rendered:
        """The prompt for one request; raises `UnsupportedTaskError` like `instruction`."""
        fill = {INSTRUCTION: instruction(request, self.kind, self.names_language), PREFIX: request.prefix or ""}
        parts = re.split(f"({INSTRUCTION}|{PREFIX})", self.prefixed if request.prefix else self.bare)
        return Rendered(tuple(PromptPart(fill.get(part, part), part not in fill) for part in parts if part))


def encode(tokenizer: Tokenizer, rendered: Rendered) -> list[int]:
    """Token ids of a prompt, with one id for the audio; user text never gives the id of a control token.

    Template and user text between two control tokens are encoded together, so that words merge as in one string.
    Raises `CheckpointError` when the tokenizer lacks a control token of the template.
    """
    known = tokenizer.special_tokens
    names = "|".join(re.escape(name) for name in sorted(known, key=len, reverse=True))
    ids: list[int] = []
    run = ""
    for piece in rendered.pieces:
        parts = re.split(f"({names})", piece.text) if piece.from_template and names else [piece.text]
        for number, part in enumerate(parts):
            if number % 2 == 0:
                if piece.from_template and (missing := CONTROL.search(part)):
                    raise CheckpointError(
                        f"the tokenizer has no control token {missing[0]}, which the chat template uses; it has "
                        f"{', '.join(sorted(known)) or 'none'}: take the tokenizer that belongs to the template"
                    )
                run += part
            else:
                ids += [*(tokenizer.encode(run) if run else []), known[part]]
                run = ""
    return ids + (tokenizer.encode(run) if run else [])


def with_audio(ids: Sequence[int], audio_id: int, count: int) -> list[int]:
    """The ids of a prompt with its one audio id repeated `count` times; raises `CheckpointError` if it is not one."""
    if ids.count(audio_id) != 1:
        raise CheckpointError(f"the prompt has {ids.count(audio_id)} audio tokens (id {audio_id}); it has to be one")
    at = ids.index(audio_id)
    return [*ids[:at], *[audio_id] * count, *ids[at + 1 :]]


def _token(value: Any) -> str | None:
    """A token in `tokenizer_config.json`: its text, or an object with it."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None


def _read_json(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file, or nothing where there is no file."""
    return untrusted.read_json(path) if untrusted.is_there(path) else {}
