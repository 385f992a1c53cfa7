"""Prompts: the model cards' strings byte for byte, refused requests, and user text that stays user text."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any, get_args

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from redline.errors import UnsupportedTaskError
from redline.prompts import Kind, PromptPart, PromptRequest, instruction
from redline.tokenizer import Tokenizer

BASE: Kind = "granite_speech"
PLUS: Kind = "granite_speech_plus"
KINDS = get_args(Kind)

ASR = "can you transcribe the speech into a written format?"
SAA = (
    "Speaker attribution: Transcribe and denote who is speaking by adding [Speaker 1]: and [Speaker 2]: tags before "
    "speaker turns."
)
TIMES = (
    "Timestamps: Transcribe the speech. After each word, add a timestamp tag showing the end time in centiseconds, "
    "e.g. hello [T:45] world [T:82]"
)
PLUS_HEAD = (
    "<|start_of_role|>system<|end_of_role|>Knowledge Cutoff Date: April 2024.\n"
    "Today's Date: December 19, 2024.\n"
    "You are Granite, developed by IBM. You are a helpful AI assistant<|end_of_text|>\n"
    "<|start_of_role|>user<|end_of_role|><|audio|> "
)
PLUS_TAIL = "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>"

BASE_JINJA = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{- 'USER: ' + message['content'] + '\\n' -}}
{% elif message['role'] == 'assistant' %}
{{- 'ASSISTANT: ' + message['content'] + eos_token -}}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
{{- ' ASSISTANT:' -}}
{% endif %}
"""
PLUS_JINJA = """{%- set default = 'Be accurate on ' ~ strftime_now('%d %B %Y') %}
{%- set ns = namespace(system='', tools='') %}
{%- if tools %}
    {%- for tool in tools %}
        {%- set ns.tools = ns.tools + '\\n' + (tool | tojson(indent=2)) %}
    {%- endfor %}
{%- endif %}
{%- if messages[0].role == 'system' %}
    {%- if messages[0].content is string %}
        {%- set ns.system = messages[0].content %}
    {%- elif messages[0].content is iterable %}
        {%- for entry in messages[0].content %}
            {%- set ns.system = ns.system + entry.text %}
        {%- endfor %}
    {%- endif %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + (ns.system or default) + '<|end_of_text|>\\n' }}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|start_of_role|>' + message.role + '<|end_of_role|>' + message.content + '<|end_of_text|>\\n' }}
    {%- elif message.role == 'tool' and messages[loop.index0 - 1].role != 'tool' %}
        {{- message.content | trim | replace('a', 'b') }}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_of_role|>assistant<|end_of_role|>' }}
    {%- if prefix_text is defined and prefix_text %}{{- prefix_text }}{%- endif %}
{%- endif %}
"""
JINJA: dict[Kind, str] = {BASE: BASE_JINJA, PLUS: PLUS_JINJA}

SPECIAL = [
    "<|end_of_text|>",
    "<|pad|>",
    "<|start_of_role|>",
    "<|end_of_role|>",
    "<|audio|>",
    "<|audio|><|audio|>",
    "<|unused_1|>",
    "<fim_prefix>",
    "<s>",
    "speech",
    "USER:",
    "Keywords: ",
]


@functools.cache
def core() -> tokenizers.Tokenizer:
    """A byte-level BPE with merges that cross from the template into the instruction, and special tokens."""
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    core.train_from_iterator(
        [ASR, SAA, TIMES, PLUS_HEAD, PLUS_TAIL, "USER: .\n ASSISTANT:", "a?\n b.\n c"] * 3, trainer
    )
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return core


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer(core())


@functools.cache
def plain_core() -> tokenizers.Tokenizer:
    """The tokenizer without the special tokens that are words of the instructions."""
    values = json.loads(core().to_str())
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"].startswith("<|")]
    return tokenizers.Tokenizer.from_str(json.dumps(values))


@functools.cache
def plain() -> Tokenizer:
    return Tokenizer(plain_core())


def joined(prompt: Sequence[PromptPart]) -> str:
    return "".join(part.text for part in prompt)


def audio_id() -> int:
    return tokenizer().special_tokens["<|audio|>"]


# Instructions


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (PromptRequest(), "transcribe the speech with proper punctuation and capitalization."),
        (PromptRequest(punctuated=True), "transcribe the speech with proper punctuation and capitalization."),
        (PromptRequest(punctuated=False), "can you transcribe the speech into a written format?"),
        (PromptRequest(keywords=("kw1", "kw2")), "transcribe the speech to text. Keywords: kw1, kw2"),
        (PromptRequest(keywords=("kw1",), punctuated=False), "transcribe the speech to text. Keywords: kw1"),
        (PromptRequest("translate", target_language="fr", punctuated=False), "translate the speech to French."),
        (
            PromptRequest("translate", target_language="zh", language="en"),
            "translate the speech to Mandarin with proper punctuation and capitalization.",
        ),
        (
            PromptRequest("translate", target_language="de", keywords=("kw1", "kw2")),
            "translate the speech to German. Keywords: kw1, kw2",
        ),
        (PromptRequest(prompt=" say it\nshort "), "say it\nshort"),
        (PromptRequest("translate", target_language="en", prompt="in English, please"), "in English, please"),
    ],
)
def test_instructions_of_the_base_card(request_: PromptRequest, text: str) -> None:
    assert instruction(request_, BASE) == text


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (PromptRequest(), ASR),
        (PromptRequest(punctuated=False), ASR),
        (PromptRequest(speakers=True), SAA),
        (PromptRequest(words=True), TIMES),
        (PromptRequest(keywords=("kw1", "kw2")), ASR + " Keywords: kw1, kw2"),
        (PromptRequest(keywords=("kw1",), speakers=True), SAA + " Keywords: kw1"),
        (PromptRequest(keywords=("kw1",), words=True), TIMES + ". Keywords: kw1"),
        (PromptRequest(prompt="say it"), "say it"),
    ],
)
def test_instructions_of_the_plus_card(request_: PromptRequest, text: str) -> None:
    assert instruction(request_, PLUS) == text


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("fr", "French"),
        ("de", "German"),
        ("es", "Spanish"),
        ("pt", "Portuguese"),
        ("ja", "Japanese"),
        ("it", "Italian"),
        ("zh", "Mandarin"),
        ("en", "English"),
    ],
)
def test_languages_have_the_names_of_the_card(code: str, name: str) -> None:
    request = PromptRequest("translate", target_language=code, punctuated=False)
    assert instruction(request, BASE) == f"translate the speech to {name}."


PAIRS = "fr, de, es, pt, ja to en, and en to fr, de, es, pt, ja, it, zh"


@pytest.mark.parametrize(
    ("kind", "request_", "words"),
    [
        (BASE, PromptRequest(speakers=True), ["speaker labels", "granite-speech-4.1-2b-plus", "leave it out"]),
        (BASE, PromptRequest(words=True), ["word timestamps", "granite-speech-4.1-2b-plus"]),
        (BASE, PromptRequest(prefix="so far"), ["a prefix", "granite-speech-4.1-2b-plus"]),
        (BASE, PromptRequest("translate"), ["needs a target_language", PAIRS]),
        (BASE, PromptRequest("translate", target_language="ko"), ["to 'ko'", PAIRS]),
        (BASE, PromptRequest("translate", target_language="de", language="fr"), ["from 'fr' to 'de'", PAIRS]),
        (BASE, PromptRequest("translate", target_language="en", language="en"), ["from 'en' to 'en'", PAIRS]),
        (BASE, PromptRequest("translate", target_language="en", language="it"), ["from 'it' to 'en'", PAIRS]),
        (BASE, PromptRequest(keywords=("a",), punctuated=True), ["keywords and punctuation", "leave out one"]),
        (PLUS, PromptRequest("translate", target_language="en"), ["translation", "granite-speech-4.1-2b,"]),
        (PLUS, PromptRequest(punctuated=True), ["punctuation", "granite-speech-4.1-2b,"]),
        (PLUS, PromptRequest(speakers=True, words=True), ["speakers and words", "one after the other"]),
        (PLUS, PromptRequest(prompt="x", speakers=True), ["replaces the instruction", "speakers"]),
        (PLUS, PromptRequest(prompt="x", words=True, keywords=("a",)), ["keywords and words", "in the prompt"]),
        (BASE, PromptRequest(prompt="x", punctuated=True), ["punctuated would have no effect"]),
        (BASE, PromptRequest(target_language="en"), ["'en'", "the verb is transcribe"]),
        (BASE, PromptRequest("summarize"), ["'summarize'", "transcribe and translate"]),  # type: ignore[arg-type]
    ],
)
def test_what_a_model_cannot_do_is_refused_with_a_way_out(
    kind: Kind, request_: PromptRequest, words: list[str]
) -> None:
    with pytest.raises(UnsupportedTaskError) as caught:
        instruction(request_, kind)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keywords": ("a",) * 101}, "101 keywords; allowed are 100"),
        ({"keywords": ("ok", "x" * 65)}, r"keyword 2 \('x+'\.\.\.\) has 65 characters; allowed are 64"),
        ({"keywords": ("ok", " ")}, r"keyword 2 \(' '\) is empty"),
        ({"keywords": ("", "ok")}, r"keyword 1 \(''\) is empty"),
        ({"keywords": ("a\nb",)}, r"keyword 1 .* control character '\\n'"),
        ({"keywords": ("a\x1bb",)}, r"keyword 1 .* control character '\\x1b'"),
        ({"keywords": ("a\u2028b",)}, r"keyword 1 .* control character"),
        ({"keywords": ("a\ud800b",)}, r"keyword 1 .* control character"),
        ({"prompt": "x" * 2001}, "the prompt .* has 2001 characters; allowed are 2000"),
        ({"prompt": "\n"}, "the prompt .* is empty"),
        ({"prompt": "a\x00"}, "the prompt .* control character"),
        ({"prefix": "x" * 16_001}, "the prefix .* allowed are 16000"),
        ({"prefix": "a\udfff"}, "the prefix .* control character"),
    ],
)
def test_user_text_beyond_the_limits_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedTaskError, match=message):
        PromptRequest(**values)


def test_user_text_at_the_limits_is_taken() -> None:
    words = tuple(f"{number:064}" for number in range(100))
    request = PromptRequest(keywords=words, prefix="x" * 16_000)
    assert instruction(request, PLUS).endswith(words[-1])
    assert len(instruction(PromptRequest(prompt="x" * 2_000), BASE)) == 2_000


def test_doubled_keywords_are_written_once_and_in_order() -> None:
    assert PromptRequest(keywords=("b", "a", " b ", "B")).keywords == ("b", "a", "B")


# Templates
