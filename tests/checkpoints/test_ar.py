"""Every published layout of the AR and Plus models, with tiny random weights: it loads and is asked its own way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from redline import load_model
from redline.checkpoints import ar
from redline.checkpoints.layouts import AR_LAYOUT, LM_HEAD
from redline.errors import CheckpointError, ConfigError, UnsupportedTaskError
from redline.models.ar import ArModel
from redline.models.config import ArConfig, ArKind, LMConfig
from redline.models.rope import Yarn
from redline.prompts import PromptRequest, PromptTemplate, instruction
from redline.recognizer import ArRecognizer
from redline.tokenizer import Tokenizer
from redline.types import Task, Waveform
from tests.builders import recognize_clips, tiny_ar_checkpoint
from tests.model_configs import plus_config

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "rope_theta": 10_000}
CLIP = Waveform(np.random.default_rng(1).normal(0, 0.1, 24_000).astype(np.float32))
DECODER = "language_model.model."


def nested(name: str) -> str:
    """2B-Plus v2610: the decoder one level further down."""
    return name.replace("language_model.", "language_model.model.", 1) if name.startswith("language_model.") else name


def led(name: str) -> str:
    """transformers 5: a leading `model.`, the head outside."""
    if name.startswith("language_model.lm_head."):
        return name.removeprefix("language_model.")
    return "model." + (name.replace(DECODER, "language_model.", 1) if name.startswith(DECODER) else name)


LAYOUTS: dict[str, tuple[ArKind, Callable[[str], str], dict[str, Any], bool]] = {
    # kind, names of tensors, what the text_config says, whether out_llm.safetensors is there
    "2b": ("granite_speech", str, {}, False),
    "2b of transformers 5": ("granite_speech", led, {}, False),
    "2b-plus v2604": ("granite_speech_plus", str, {}, False),
    "2b-plus v2610": ("granite_speech_plus", nested, {"rope_parameters": YARN}, False),
    "2b-plus v2610 of transformers 5": ("granite_speech_plus", lambda name: "model." + nested(name), {}, False),
    "5.0-2b": ("granite_speech", str, {"rope_parameters": None, "rope_scaling": YARN, "rope_theta": 10_000}, True),
}


@pytest.fixture
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """One layout, and the same weights as they are written here."""
    kind, rename, text, drafts = LAYOUTS[request.param]
    ours = tiny_ar_checkpoint(tmp_path / "ours", kind, drafts=drafts)
    theirs = tiny_ar_checkpoint(tmp_path / "theirs", kind, drafts=drafts)
    tensors = load_file(theirs / "model.safetensors")
    save_file({rename(name): x for name, x in tensors.items()}, theirs / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((theirs / "config.json").read_text())
    values["text_config"].update(text)
    (theirs / "config.json").write_text(json.dumps(values))
    return theirs, ours


@pytest.mark.parametrize("layout", LAYOUTS, indirect=True)
def test_every_published_layout_loads_to_the_same_weights(layout: tuple[Path, Path]) -> None:
    theirs, ours = (ar.load_ar(folder).model for folder in layout)
    wanted = ours.state_dict()
    assert theirs.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in theirs.state_dict().items())


@pytest.mark.parametrize("layout", LAYOUTS, indirect=True)
def test_every_published_layout_is_written_and_read_again(layout: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint = ar.load_ar(layout[0])
    saved = ar.save_ar(tmp_path / "saved", checkpoint.model, checkpoint.folder / "tokenizer.json")
    assert ar.load_ar(saved).model.config == checkpoint.model.config


@pytest.mark.parametrize(
    ("layout", "yarn", "names_language"),
    [
        ("2b", None, False),
        ("2b-plus v2604", None, False),
        ("2b-plus v2610", Yarn(4.0, 256), False),
        ("5.0-2b", Yarn(4.0, 256), True),
    ],
    indirect=["layout"],
)
def test_checkpoints_are_told_apart_by_their_positions_and_never_by_a_name(
    layout: tuple[Path, Path], yarn: Yarn | None, names_language: bool
) -> None:
    config = ar.load_ar(layout[0]).model.config
    assert (config.text.yarn, config.names_language) == (yarn, names_language)
    assert config.text.positions == 1024


def two_decoders(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "language_model.model.norm.weight"
    save_file({**tensors, nested(name): tensors[name] + 1}, folder / "model.safetensors", metadata={"format": "pt"})


def unknown_positions(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    values["text_config"]["rope_scaling"] = {"rope_type": "longrope", "long_factor": [1.0]}
    del values["text_config"]["rope_parameters"]
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (two_decoders, CheckpointError, "two tensors are both language_model.model.norm.weight; layouts are mixed"),
        (unknown_positions, ConfigError, "rope_scaling: rope_type is 'longrope'; supported are default and yarn"),
    ],
)
def test_what_is_no_published_layout_is_refused_by_name(
    tmp_path: Path, spoil: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    folder = tiny_ar_checkpoint(tmp_path / "model")
    spoil(folder)
    with pytest.raises(error, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    "config",
    [
        replace(ArConfig(), text=replace(ArConfig().text, yarn=Yarn(4.0, 4096))),
        replace(plus_config(), text=replace(plus_config().text, yarn=Yarn(4.0, 4096))),
    ],
    ids=["5.0-2b", "2b-plus v2610"],
)
def test_full_size_models_with_stretched_positions_have_the_referees_names_and_shapes(config: ArConfig) -> None:
    transformers = pytest.importorskip("transformers")
    kind = "GraniteSpeechPlus" if config.kind == "granite_speech_plus" else "GraniteSpeech"
    values = config.to_dict()
    reference = getattr(transformers, f"{kind}Config")(**{key: values[key] for key in values if key != "model_type"})
    with torch.device("meta"):
        theirs = getattr(transformers, f"{kind}ForConditionalGeneration")(reference).state_dict()
        ours = ArModel(config).state_dict()
    renamed = AR_LAYOUT.rename(theirs, Path("referee"))
    if config.text.tie_word_embeddings:
        renamed.pop(LM_HEAD)
    assert {name: x.shape for name, x in renamed.items()} == {name: x.shape for name, x in ours.items()}


# How granite-speech-5.0-2b is asked


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (
            PromptRequest(language="de"),
            "The speech is in German. Transcribe it exactly; do not translate. transcribe the speech with proper "
            "punctuation and capitalization.",
        ),
        (
            PromptRequest(language="en", keywords=("Priya", "cortado")),
            "The speech is in English. Transcribe it exactly; do not translate. transcribe the speech to text. "
            "Keywords: Priya, cortado",
        ),
        (
            PromptRequest(punctuated=False),
            "Transcribe it exactly; do not translate. can you transcribe the speech into a written format?",
        ),
        (PromptRequest(language="de", prompt="what is said?"), "what is said?"),
        (
            PromptRequest("translate", language="en", target_language="de"),
            "translate the speech to German with proper punctuation and capitalization.",
        ),
    ],
)
def test_the_fifth_generation_is_told_the_language_and_not_to_translate(request_: PromptRequest, text: str) -> None:
    assert instruction(request_, "granite_speech", names_language=True) == text
    assert "exactly" not in instruction(request_, "granite_speech")


@pytest.mark.parametrize("layout", ["5.0-2b", "2b"], indirect=True)
def test_each_generation_is_asked_its_own_way(layout: tuple[Path, Path]) -> None:
    recognizer = load_model(layout[0]).recognizer
    assert isinstance(recognizer, ArRecognizer)
    asked = recognizer.tokenizer.decode(recognizer.plan(Task(language="de")).prompt)
    assert ("peech is in" in asked and "xactly" in asked) is recognizer.model.config.names_language
    assert "punctuation" in asked


def full_size(config: ArConfig, tokenizer: Tokenizer) -> ArRecognizer:
    with torch.device("meta"):
        model = ArModel(replace(config, audio_token_index=1))
    template = replace(PromptTemplate.built_in(config.kind), names_language=config.names_language)
    return ArRecognizer(model, tokenizer, template, name="full size")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A token per letter: the worst."""
    folder = tiny_ar_checkpoint(tmp_path_factory.mktemp("models") / "plus", "granite_speech_plus")
    return Tokenizer.from_file(folder / "tokenizer.json")


def stretched(lm: LMConfig) -> LMConfig:
    return replace(lm, yarn=Yarn(4.0, 4096))


def test_windows_grow_with_the_positions(tokenizer: Tokenizer) -> None:
    """IBM advises two minutes for 5.0; the card of 2B-Plus calls nine minutes good with speakers, five with times."""
    fifth = full_size(replace(ArConfig(), text=stretched(ArConfig().text)), tokenizer)
    assert fifth.limits(Task()).max_s == fifth.limits(Task(words=True)).max_s == 120.0
    plus = plus_config()
    old, new = (full_size(config, tokenizer) for config in (plus, replace(plus, text=stretched(plus.text))))
    tasks = (Task(), Task(speakers=True), Task(words=True))
    assert [new.limits(task).max_s for task in tasks] == [120.0, 540.0, 300.0]
    assert all(old.limits(task).max_s < new.limits(task).max_s for task in tasks)
    long = Task(speakers=True, prefix="word " * 1000)  # more than 4,096 positions hold beside any audio
    with pytest.raises(UnsupportedTaskError, match="the prompt leaves 0 of 4096 positions"):
        old.limits(long)
    assert 300 < new.limits(long).max_s <= 540


@pytest.mark.parametrize("count", [101, 2000, 2001])
def test_the_fifth_generation_takes_2000_keywords_and_the_fourth_100(tokenizer: Tokenizer, count: int) -> None:
    task = Task(keywords=tuple(f"w{number}" for number in range(count)))
    fourth = full_size(ArConfig(), tokenizer)
    fifth = full_size(replace(ArConfig(), text=stretched(ArConfig().text)), tokenizer)
    with pytest.raises(UnsupportedTaskError, match=f"{count} keywords; allowed are 100"):
        fourth.plan(task)
    if count > 2000:
        with pytest.raises(UnsupportedTaskError, match="2001 keywords; allowed are 2000"):
            fifth.plan(task)
    else:
        assert f"w{count - 1}" in fifth.tokenizer.decode(fifth.plan(task).prompt).replace(" ", "")


@pytest.mark.parametrize("layout", ["5.0-2b"], indirect=True)
def test_many_keywords_draw_the_draft_too(layout: tuple[Path, Path]) -> None:
    recognizer = load_model(layout[0]).recognizer
    assert isinstance(recognizer, ArRecognizer) and recognizer.model.draft_head is not None
    words = tuple(f"w{number}" for number in range(150))
    (hypothesis,) = recognize_clips(recognizer, [CLIP], Task(keywords=words))
    assert hypothesis.draft
