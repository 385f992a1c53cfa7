"""Prompts: request -> the chat text of each model card -> token ids in which only the template writes control tokens.

A checkpoint's own chat template is used where it has one. It is foreign code, so it runs once, when it is read, in a
sandbox that counts: what comes out is a text with two holes, and user text is put into the holes afterwards.

Sources: the model cards of granite-speech-4.1-2b and granite-speech-4.1-2b-plus; of granite-speech-5.0-2b only how its
prompt begins is known here (docs/checkpoints.md).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from redline import untrusted
from redline.errors import CheckpointError, UnsupportedTaskError
from redline.keywords import Keyword
from redline.languages import NAMES
from redline.tokenizer import AUDIO as AUDIO
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
SPEECH_IS_IN = "The speech is in {}. "
EXACTLY = "Transcribe it exactly; do not translate. "
PLUS_SYSTEM = (
    "Knowledge Cutoff Date: April 2024.\n"
    "Today's Date: December 19, 2024.\n"
    "You are Granite, developed by IBM. You are a helpful AI assistant"
)
INTO_ENGLISH = ("fr", "de", "es", "pt", "ja")
FROM_ENGLISH = (*INTO_ENGLISH, "it", "zh")
PROMPT_LANGUAGES = {code: NAMES[code] for code in ("en", *FROM_ENGLISH)} | {"zh": "Mandarin"}
"""The names that the instructions use."""
PAIRS_IN_WORDS = f"{', '.join(INTO_ENGLISH)} to en, and en to {', '.join(FROM_ENGLISH)}"

MAX_KEYWORDS, MAX_KEYWORDS_5, MAX_BIASING = 100, 2_000, 20_000
"""Keywords of a prompt, of that of granite-speech-5.0-2b, and where only a draft is drawn towards them."""
MAX_KEYWORD, MAX_PROMPT, MAX_PREFIX = 64, 2_000, 16_000
"""Characters; more of a prefix than 4,096 positions of a language model hold."""
INSTRUCTION, PREFIX = "\ue000instruction\ue001", "\ue000prefix\ue001"
"""The holes of a rendered template; private characters, so that no template writes them by chance."""
BUILT_IN: dict[Kind, str] = {
    "granite_speech": f"USER: {AUDIO}{INSTRUCTION}\n ASSISTANT:",
    "granite_speech_plus": f"<|start_of_role|>system<|end_of_role|>{PLUS_SYSTEM}<|end_of_text|>\n"
    f"<|start_of_role|>user<|end_of_role|>{AUDIO} {INSTRUCTION}<|end_of_text|>\n"
    "<|start_of_role|>assistant<|end_of_role|>",
}
CONTROL_TOKEN = re.compile(r"<\|[^|<>\s]+\|>")


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
            f"keywords is {keywords!r}; give a list of texts, or a text with commas between them"
        )
    return listed(keywords)


def checked_keywords(keywords: str | Iterable[str] | None, most: int = MAX_KEYWORDS) -> tuple[str, ...]:
    """Keywords, as `Keyword.parse` reads them, without doubles; raises `UnsupportedTaskError` for what is none, and for
    too many."""
    keywords = keyword_list(keywords)
    if len(keywords) > most:
        raise UnsupportedTaskError(f"{len(keywords)} keywords; allowed are {most}: keep those most often misheard")
    if not all(isinstance(keyword, str) for keyword in keywords):
        for number, keyword in enumerate(keywords, start=1):
            _check(keyword, f"keyword {number}", MAX_KEYWORD)
    return _checked(keywords)


@lru_cache(maxsize=16)  # each window of a recording comes with the same list, which may be long
def _checked(keywords: tuple[str, ...]) -> tuple[str, ...]:
    for number, text in enumerate(keywords, start=1):
        _check(text, f"keyword {number}", math.inf)
        keyword = Keyword.parse(text)
        for part in (keyword.phrase, *keyword.spoken):
            _check(part, f"keyword {number}", MAX_KEYWORD)
    return tuple(dict.fromkeys(keyword.strip() for keyword in keywords))


def instruction(request: PromptRequest, kind: Kind, names_language: bool = False) -> str:
    """The instruction for one request, as the model card words it; see `PromptTemplate` for `names_language`.

    Raises `UnsupportedTaskError` with the reason, what is allowed, and which model can.
    """
    if refusal := _refusal(request, kind):
        raise UnsupportedTaskError(refusal)
    if request.prompt is not None:
        return request.prompt.strip()
    punctuated = request.punctuated is not False and not request.keywords
    if kind == "granite_speech_plus":
        text = SPEAKERS if request.speakers else WORDS if request.words else PLAIN
    elif request.verb == "translate":
        language = PROMPT_LANGUAGES[request.target_language or ""]
        text = (TRANSLATE_PUNCTUATED if punctuated else TRANSLATE).format(language)
    else:
        text = WITH_KEYWORDS if request.keywords else PUNCTUATED if punctuated else PLAIN
    if names_language and request.verb == "transcribe":
        name = PROMPT_LANGUAGES.get(request.language or "")
        text = (SPEECH_IS_IN.format(name) if name else "") + EXACTLY + text
    if request.keywords:
        phrases = [Keyword.parse(keyword).phrase for keyword in request.keywords]
        text = (text if text.endswith((".", "?")) else text + ".") + KEYWORDS.format(", ".join(phrases))
    return text


def _refusal(request: PromptRequest, kind: Kind) -> str | None:
    """Why a kind of model cannot do what is asked; None where it can."""
    translates, source, target = request.verb == "translate", request.language, request.target_language
    if request.verb not in ("transcribe", "translate"):
        return f"the verb is {request.verb!r}; allowed are transcribe and translate"
    if not translates and target is not None:
        return f"target_language is {target!r}, but the verb is transcribe; leave it out or translate"
    if kind == "granite_speech_plus":
        unlearned: dict[str, object] = {"translation": translates, "punctuation": request.punctuated}
        other = "granite_speech model such as granite-speech-4.1-2b"
    else:
        unlearned = {"speaker labels": request.speakers, "word timestamps": request.words, "a prefix": request.prefix}
        other = "granite_speech_plus model such as granite-speech-4.1-2b-plus"
    if what := next((what for what, is_asked in unlearned.items() if is_asked), None):
        return f"{what}: a {kind} model has not learned it; leave it out, or take a {other}, which can"
    if request.speakers and request.words:
        return "speakers and words: the model card has one instruction for each; ask for them one after the other"
    if request.punctuated and request.keywords:
        return "keywords and punctuation: the model card has no instruction for both; leave out one of them"
    if translates and target is None:
        return f"translate needs a target_language; allowed are {PAIRS_IN_WORDS}"
    into_english, out_of_english = target == "en" and source in (None, *INTO_ENGLISH), target in FROM_ENGLISH
    if translates and not (into_english or (out_of_english and source in (None, "en"))):
        pair = f"to {target!r}" if source is None else f"from {source!r} to {target!r}"
        return f"cannot translate {pair}; allowed are {PAIRS_IN_WORDS}"
    replaced = [name for name in ("keywords", "punctuated", "speakers", "words") if getattr(request, name)]
    if request.prompt is not None and replaced:
        return (
            f"a prompt replaces the instruction, so {' and '.join(replaced)} would have no effect; say it in the prompt"
        )
    return None


def _check(text: str, what: str, limit: float, allowed: str = "") -> None:
    """Refuse what is no text, and user text that is empty, too long, or has characters that are no text."""
    if not isinstance(text, str):
        raise UnsupportedTaskError(f"{what} is {text!r} (a value of type {type(text).__name__}); give it as a text")
    bad = [char for char in text if char not in allowed and unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]
    wrong = None
    # A zero-width space is no space to Python, and nothing to a reader.
    if all(char.isspace() or unicodedata.category(char) == "Cf" for char in text):
        wrong = "is empty; leave it out"
    elif len(text.strip()) > limit:
        wrong = f"has {len(text.strip())} characters; allowed are {limit}: shorten it"
    elif bad:
        wrong = f"has the control character {bad[0]!r}; only printed text is allowed"
    if wrong:
        raise UnsupportedTaskError(f"{what} ({text[:32]!r}{'...' if len(text) > 32 else ''}) {wrong}")


@dataclass(frozen=True)
class PromptPart:
    """A part of a rendered prompt; control tokens count only in what the template wrote."""

    text: str
    from_template: bool


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
        return MAX_KEYWORDS_5 if self.names_language else MAX_KEYWORDS

    @classmethod
    def built_in(cls, kind: Kind) -> PromptTemplate:
        """The template of the model card."""
        return cls(kind, BUILT_IN[kind], BUILT_IN[kind] + PREFIX)

    @classmethod
    def from_folder(cls, folder: str | Path, kind: Kind, names_language: bool = False) -> PromptTemplate:
        """A checkpoint's own template, or that of the model card where it has none; raises `CheckpointError`."""
        jinja = Path(folder) / "chat_template.jinja"
        names = ("chat_template.json", "tokenizer_config.json", "processor_config.json")
        files = [Path(folder) / name for name in names]
        settings = {path: untrusted.read_json(path) if untrusted.is_there(path) else {} for path in files}
        tokens = {}  # names that a template may use: texts, or objects with one
        for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
            token = settings[files[1]].get(name)
            if isinstance(token := token.get("content") if isinstance(token, Mapping) else token, str):
                tokens[name] = token
        sources: list[tuple[Path, Any]] = [(path, settings[path].get("chat_template")) for path in files]
        if untrusted.is_there(jinja):
            sources = [(jinja, untrusted.read_checkpoint_text(jinja))]
        template = cls.built_in(kind)
        for path, source in sources:
            if isinstance(source, list):  # several templates with a name each
                named = (item for item in source if isinstance(item, Mapping) and item.get("name") == "default")
                source = next(named, {}).get("template")
            if isinstance(source, str):
                template = cls.from_source(source, kind, path, tokens)
                break
        return replace(template, names_language=names_language)

    @classmethod
    def from_source(
        cls, source: str, kind: Kind, origin: str | Path = "chat template", tokens: Mapping[str, str] | None = None
    ) -> PromptTemplate:
        """A template from its Jinja source; `tokens` are the names it may use, such as `eos_token`.

        Raises `CheckpointError` when it is broken, does not end, or does not write audio and instruction once each.
        """
        from redline.sandbox import render_template  # Jinja, which only models that answer prompts need

        plus = kind == "granite_speech_plus"
        user = {"role": "user", "content": f"{AUDIO}{' ' if plus else ''}{INSTRUCTION}"}
        values = {
            **(tokens or {}),
            "messages": [{"role": "system", "content": PLUS_SYSTEM}, user] if plus else [user],
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
        }
        bare = render_template(source, values, origin)
        prefixed = render_template(source, {**values, "prefix_text": PREFIX}, origin)
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

    def render(self, request: PromptRequest) -> tuple[PromptPart, ...]:
        """The prompt for one request; raises `UnsupportedTaskError` like `instruction`."""
        fill = {INSTRUCTION: instruction(request, self.kind, self.names_language), PREFIX: request.prefix or ""}
        parts = re.split(f"({INSTRUCTION}|{PREFIX})", self.prefixed if request.prefix else self.bare)
        return tuple(PromptPart(fill.get(part, part), part not in fill) for part in parts if part)


def encode(tokenizer: Tokenizer, prompt: Sequence[PromptPart]) -> list[int]:
    """Token ids of a prompt, with one id for the audio; user text never gives the id of a control token.

    Template and user text between two control tokens are encoded together, so that words merge as in one string.
    Raises `CheckpointError` when the tokenizer lacks a control token of the template.
    """
    known = tokenizer.special_tokens
    names = "|".join(re.escape(name) for name in sorted(known, key=len, reverse=True)) or "(?!)"
    ids: list[int] = []
    text = ""
    for part in prompt:
        # Every second piece is a control token.
        for number, piece in enumerate(re.split(f"({names})", part.text) if part.from_template else [part.text]):
            if number % 2:
                ids += [*(tokenizer.encode(text) if text else []), known[piece]]
                text = ""
                continue
            if part.from_template and (missing := CONTROL_TOKEN.search(piece)):
                raise CheckpointError(
                    f"the tokenizer has no control token {missing[0]}, which the chat template uses; it has "
                    f"{', '.join(sorted(known)) or 'none'}: take the tokenizer that belongs to the template"
                )
            text += piece
    return ids + (tokenizer.encode(text) if text else [])


def with_audio(ids: Sequence[int], audio_id: int, count: int) -> list[int]:
    """The ids of a prompt with its one audio id repeated `count` times; raises `CheckpointError` if it is not one."""
    if ids.count(audio_id) != 1:
        raise CheckpointError(f"the prompt has {ids.count(audio_id)} audio tokens (id {audio_id}); it has to be one")
    at = ids.index(audio_id)
    return [*ids[:at], *[audio_id] * count, *ids[at + 1 :]]
