"""Chat templates: the cards' own, those of checkpoints, hostile ones, and ids in which user text stays text."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, pre_tokenizers

from redline import prompts
from redline.errors import CheckpointError
from redline.prompts import Kind, PromptRequest, PromptTemplate, encode, with_audio
from redline.tokenizer import Tokenizer
from tests.test_prompts import (
    ASR,
    BASE,
    BASE_JINJA,
    JINJA,
    KINDS,
    PLUS,
    PLUS_HEAD,
    PLUS_JINJA,
    PLUS_TAIL,
    SAA,
    SPECIAL,
    TIMES,
    audio_id,
    core,
    joined,
    plain,
    plain_core,
    tokenizer,
)


def test_the_base_prompt_is_that_of_the_card_byte_for_byte() -> None:
    prompt = joined(PromptTemplate.built_in(BASE).render(PromptRequest()))
    assert prompt == ("USER: <|audio|>transcribe the speech with proper punctuation and capitalization.\n ASSISTANT:")


@pytest.mark.parametrize(
    ("request_", "text", "end"),
    [
        (PromptRequest(), ASR, ""),
        (PromptRequest(speakers=True), SAA, ""),
        (PromptRequest(words=True), TIMES, ""),
        (PromptRequest(prefix=""), ASR, ""),
        (PromptRequest(speakers=True, prefix="[Speaker 1]: Hello"), SAA, "[Speaker 1]: Hello"),
    ],
)
def test_the_plus_prompt_is_that_of_the_card_byte_for_byte(request_: PromptRequest, text: str, end: str) -> None:
    assert joined(PromptTemplate.built_in(PLUS).render(request_)) == PLUS_HEAD + text + PLUS_TAIL + end


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoints_own_template_writes_the_same(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(JINJA[kind], encoding="utf-8")
    own = PromptTemplate.from_folder(tmp_path, kind)
    assert own == PromptTemplate.built_in(kind)
    request = PromptRequest(keywords=("a", "b"))
    assert own.render(request) == PromptTemplate.built_in(kind).render(request)


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_writes_what_it_writes_in_transformers(kind: Kind) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    space = " " if kind == PLUS else ""
    chat = [{"role": "system", "content": prompts.PLUS_SYSTEM}] if kind == PLUS else []
    chat.append({"role": "user", "content": f"<|audio|>{space}{ASR}"})
    texts, _ = utils.render_jinja_template([chat], chat_template=JINJA[kind], add_generation_prompt=True)
    assert texts == [joined(PromptTemplate.from_source(JINJA[kind], kind).render(PromptRequest(punctuated=False)))]


def test_a_template_that_knows_no_prefix_gets_it_at_the_end() -> None:
    source = PLUS_JINJA.replace("{{- prefix_text }}", "")
    assert PromptTemplate.from_source(source, PLUS) == PromptTemplate.built_in(PLUS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.json", {"chat_template": "[{{ bos_token }}]" + BASE_JINJA}),
        ("tokenizer_config.json", {"chat_template": "[{{ bos_token }}]" + BASE_JINJA, "bos_token": "<s>"}),
        ("processor_config.json", {"chat_template": "[{{ bos_token }}]" + BASE_JINJA}),
        (
            "tokenizer_config.json",
            {
                "chat_template": [
                    {"name": "tools", "template": "no"},
                    {"name": "default", "template": "[{{ bos_token }}]" + BASE_JINJA},
                ],
                "bos_token": {"content": "<s>", "special": True},
            },
        ),
    ],
)
def test_a_template_is_found_wherever_checkpoints_keep_it(tmp_path: Path, name: str, content: dict[str, Any]) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    prompt = joined(PromptTemplate.from_folder(tmp_path, BASE).render(PromptRequest()))
    start = "[<s>]" if "bos_token" in content else "[]"
    assert prompt == start + joined(PromptTemplate.built_in(BASE).render(PromptRequest()))


def test_without_a_template_the_cards_own_is_used(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": None, "eos_token": None}))
    assert PromptTemplate.from_folder(tmp_path, PLUS) == PromptTemplate.built_in(PLUS)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("tokenizer_config.json", lambda path: path.write_text("{"), "not valid JSON"),
        ("tokenizer_config.json", lambda path: path.write_text("[]"), "a JSON list; an object is needed"),
        ("chat_template.jinja", lambda path: path.write_bytes(b"\xff"), "cannot be read as text"),
        ("chat_template.jinja", lambda path: path.write_text("{% if %}"), "chat_template.jinja: .* cannot be used"),
        ("chat_template.jinja", lambda path: path.write_text(""), "user's message 0 times"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, write: Callable[[Path], object], message: str) -> None:
    write(tmp_path / name)
    with pytest.raises(CheckpointError, match=message):
        PromptTemplate.from_folder(tmp_path, BASE)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("USER: {{ messages[-1].content }}{{ messages[-1].content }}", "user's message 2 times"),
        ("USER: {{ messages[-1].content.split('>')[1] }}", "audio token 0 times"),
        ("<|audio|>{{ messages[-1].content }}", "audio token 2 times"),
        ("{{ prefix_text }}{{ messages[-1].content }}", "does not end with prefix_text"),
        ("{{ messages[-1].content }}{{ prefix_text }}{{ prefix_text }}", "does not end with prefix_text"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[-1].content + 1 }}", "TypeError"),
        ("x" * 65_537, "65537 characters; allowed are 65536"),
    ],
)
def test_a_template_that_does_not_write_a_prompt_is_refused(source: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        PromptTemplate.from_source(source, PLUS)


LOOP = "{% for i in range(8000) %}"
HOSTILE = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages['__class__'] }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ messages | attr('__class__') }}",
    "{{ raise_exception.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ dict.__subclasses__() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{% macro m() %}{% endmacro %}{{ m.__init__ }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ messages.append(1) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% for i in range(10000000000) %}{% endfor %}",
    LOOP * 4 + "{% endfor %}" * 4,
    "{% set d = dict(a=1) %}{% set v = range(8000) | list %}" + "{% for i in v %}" * 4 + "{% endfor %}" * 4,
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(200) }}",
    "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{{ 'a' * 10000000000 }}",
    "{{ [1] * 10000000000 }}",
    "{{ 9 ** 9 ** 9 ** 9 }}",
    "{{ '%10000000000d' % 1 }}",
    "{{ '{:>10000000000}'.format(1) }}",
    "{{ 'a'.ljust(10000000000) }}",
    "{{ 'a' | center(10000000000) }}",
    "{{ 1.5 | round(10000000000) }}",
    "{{ messages | tojson(indent=10000000000) }}",
    "{{ strftime_now('%10000000000d') }}",
    "{{ range(8000) | map('replace', '1', 'a' ~ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa') | join }}",
    "{% set a = 'aa' %}" + "{% set a = a ~ a %}" * 50 + "{{ a }}",
    "{% set a = 'aa' %}" + "{% set a = a + a %}" * 50 + "{{ a }}",
    "{% set a = 'aa' %}" + "{% set a = a.replace('a', a) %}" * 50 + "{{ a }}",
    "{% set a = [1] %}" + "{% set a = [a, a] %}" * 50 + "{{ a }}",
    "{% set n = namespace(x=9) %}" + LOOP * 2 + "{% set n.x = n.x + n.x %}" + "{% endfor %}" * 2,
    "{% set x %}"
    + LOOP * 2
    + "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
    + "{% endfor %}" * 2
    + "{% endset %}",
    LOOP + "aaaa" + "{% endfor %}",
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "{{ " + "not " * 3000 + "1 }}",
    "{{ 1" + "+1" * 3000 + " }}",
    "{{ a" + ".b" * 3000 + " }}",
    "{% if 1 %}" * 1000 + "{% endif %}" * 1000,
]


@pytest.mark.parametrize("source", HOSTILE, ids=[source[:40] for source in HOSTILE])
def test_a_hostile_template_is_refused_and_ends(source: str) -> None:
    start = time.process_time()
    with pytest.raises(CheckpointError, match="chat template cannot be used"):
        PromptTemplate.from_source(source + "{{ messages[-1].content }}", PLUS)
    assert time.process_time() - start < 30


def test_a_namespace_in_a_namespace_is_not_written_out() -> None:
    source = "{% set a = namespace() %}" + "{% set a = namespace(x=a, y=a) %}" * 50 + "{{ a }}{{ messages[0].content }}"
    assert str(PromptTemplate.from_source(source, BASE).bare).startswith("<namespace>")


# Ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "request_", [PromptRequest(), PromptRequest(keywords=("Ωmega", "a b")), PromptRequest(prompt="x\n y")]
)
def test_ids_are_those_of_the_whole_text(kind: Kind, request_: PromptRequest) -> None:
    rendered = PromptTemplate.built_in(kind).render(request_)
    assert encode(plain(), rendered) == plain_core().encode(joined(rendered)).ids


def test_prefix_ids_are_those_of_the_whole_text() -> None:
    rendered = PromptTemplate.built_in(PLUS).render(PromptRequest(speakers=True, prefix="[Speaker 1]: so far"))
    assert encode(plain(), rendered) == plain_core().encode(joined(rendered)).ids


def test_template_and_instruction_merge_into_one_token() -> None:
    rendered = PromptTemplate.built_in(PLUS).render(PromptRequest())
    ids = encode(plain(), rendered)
    assert ids[ids.index(audio_id()) + 1] == plain().encode(" can")[0] != plain().encode(" ")[0]


PLACES: list[tuple[Kind, str]] = [(kind, place) for kind in KINDS for place in ("keywords", "prompt")] + [
    (PLUS, "prefix")
]


@pytest.mark.parametrize(("kind", "place"), PLACES)
@pytest.mark.parametrize("token", SPECIAL)
def test_a_special_token_in_user_text_is_plain_text(token: str, kind: Kind, place: str) -> None:
    template = PromptTemplate.built_in(kind)
    text = f"{token}a{token * 2}"

    def request(text: str) -> PromptRequest:
        return PromptRequest(**{place: (text,) if place == "keywords" else text})  # type: ignore[arg-type]

    ids = encode(tokenizer(), template.render(request(text)))
    harmless = encode(tokenizer(), template.render(request("harmless")))
    assert [id for id in ids if id in tokenizer().special_ids] == [
        id for id in harmless if id in tokenizer().special_ids
    ]
    assert text.strip() in tokenizer().decode(ids)


OWN = PromptTemplate.from_source(PLUS_JINJA, PLUS)


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(st.text(st.characters(exclude_categories=("C", "Z"))), st.sampled_from(SPECIAL)), max_size=6
    ).map("".join)
)
@example(prompts.INSTRUCTION + prompts.PREFIX + prompts.AUDIO + "\\1{{ messages }}{% raw %}")
@example("<|aud")
@example("|audio|>")
def test_any_user_text_stays_user_text(text: str) -> None:
    text = f"a{text[:60]}z"
    request = PromptRequest(keywords=(text,), prefix=text)
    rendered = OWN.render(request)
    assert joined(rendered) == PLUS_HEAD + ASR + f" Keywords: {text}" + PLUS_TAIL + text
    ids = encode(tokenizer(), rendered)
    specials = tokenizer().special_tokens
    assert [id for id in ids if id in tokenizer().special_ids] == [
        specials[name]
        for name in (
            *("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
            *("<|start_of_role|>", "<|end_of_role|>", "<|audio|>", "<|end_of_text|>"),
            *("<|start_of_role|>", "<|end_of_role|>"),
        )
    ]
    assert tokenizer().decode(ids).endswith(text)


@pytest.mark.parametrize(("kind", "token"), [(BASE, "<|audio|>"), (PLUS, "<|start_of_role|>"), (PLUS, "<|audio|>")])
def test_a_control_token_that_the_tokenizer_lacks_is_named(kind: Kind, token: str) -> None:
    values = json.loads(core().to_str())
    for entry in values["added_tokens"]:
        entry["special"] = entry["content"] != token  # in the vocabulary, but text like any other
    lacking = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(values)))
    with pytest.raises(CheckpointError) as caught:
        encode(lacking, PromptTemplate.built_in(kind).render(PromptRequest()))
    assert f"no control token {token}," in str(caught.value)


def test_a_tokenizer_needs_only_the_control_tokens_of_its_template() -> None:
    small = tokenizers.Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, merges=[])
    )
    small.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    render = PromptTemplate.built_in(BASE).render
    with pytest.raises(CheckpointError, match="it has none"):
        encode(Tokenizer(small), render(PromptRequest()))
    small.add_special_tokens([AddedToken("<|audio|>", special=True)])
    request = PromptRequest(prompt="<|start_of_role|>")  # user text needs no token
    assert encode(Tokenizer(small), render(request)) == small.encode(joined(render(request))).ids


def test_the_audio_id_is_repeated_in_its_place() -> None:
    ids = encode(tokenizer(), PromptTemplate.built_in(BASE).render(PromptRequest()))
    at = ids.index(audio_id())
    assert with_audio(ids, audio_id(), 3) == [*ids[:at], *[audio_id()] * 3, *ids[at + 1 :]]
    assert with_audio(ids, audio_id(), 1) == ids


@pytest.mark.parametrize(("ids", "count"), [([1, 2], 0), ([9, 1, 9], 2)])
def test_a_prompt_has_one_audio_id(ids: list[int], count: int) -> None:
    with pytest.raises(CheckpointError, match=f"has {count} audio tokens"):
        with_audio(ids, 9, 5)


def test_special_tokens_are_the_ids_that_text_never_gives() -> None:
    known = tokenizer().special_tokens
    assert sorted(known) == sorted(SPECIAL)
    assert set(known.values()) == tokenizer().special_ids
    assert all(tokenizer().id_of(name) == id for name, id in known.items())
