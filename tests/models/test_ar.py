"""The AR and Plus models against `transformers`, with random weights: embeddings, logits and greedy tokens agree."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from redline.checkpoints import ar
from redline.checkpoints.layouts import AR_LAYOUT, LM_HEAD
from redline.errors import CheckpointError, ConfigError
from redline.features import FRAME_SAMPLES, num_frames, pad
from redline.models.ar import ArModel
from redline.models.config import ArConfig
from redline.models.conformer import ConformerEncoder
from redline.models.granite import KVCache

FRAMES = (1, 14, 15, 41, 67)
"""Encoder frames of the clips: one, one less than a window, a window, more than two blocks of 20, and three."""
AUDIO, STEPS = 95, 40
KINDS = ("granite_speech", "granite_speech_plus")


def referee(kind: str, **changes: Any) -> Any:
    """A small random model of `transformers`."""
    import transformers

    encoder: dict[str, Any] = {
        "input_dim": 160,
        "num_layers": 4,
        "hidden_dim": 32,
        "num_heads": 2,
        "dim_head": 16,
        "output_dim": 30,
        "context_size": 20,
        "max_pos_emb": 32,
        "conv_kernel_size": 7,
    }
    plus = kind == "granite_speech_plus"
    if plus:
        encoder["cat_hidden_layers"] = changes.pop("cat_hidden_layers", [1])
    text = {
        "model_type": "granite",
        "vocab_size": 96,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "attention_multiplier": 0.3,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
        "rms_norm_eps": 1e-5,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "tie_word_embeddings": plus,
        **changes.pop("text", {}),
    }
    projector = {
        "model_type": "blip_2_qformer",
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "encoder_hidden_size": 32 * (len(encoder.get("cat_hidden_layers", ())) + 1),
        "cross_attention_frequency": changes.pop("cross_attention_frequency", 1),
    }
    names = {
        "granite_speech": ("GraniteSpeechConfig", "GraniteSpeechForConditionalGeneration"),
        "granite_speech_plus": ("GraniteSpeechPlusConfig", "GraniteSpeechPlusForConditionalGeneration"),
    }
    config_name, model_name = names[kind]
    config = getattr(transformers, config_name)(
        encoder_config=encoder,
        projector_config=projector,
        text_config=text,
        audio_token_index=AUDIO,
        has_lora_adapter=False,
        tie_word_embeddings=plus,
        initializer_range=0.2,
        **changes,
    )
    torch.manual_seed(3)
    model = getattr(transformers, model_name)(config).eval()
    with torch.no_grad():  # a fresh model says the same whatever it hears
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, ArModel]]:
    """The same weights twice: in `transformers`, and loaded here from what it saved."""
    theirs = referee(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    ours = ar.load_ar(folder).model
    assert ours.config.kind == request.param
    yield theirs, ours


def clips() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(frames, 160, generator=generator) for frames in FRAMES]


def prompt(tokens: int, clip: int) -> list[int]:
    return [7, 8 + clip, *[AUDIO] * tokens, 20, 21, *range(30, 30 + clip)]


def prompts(model: ArModel) -> list[list[int]]:
    return [prompt(model.projector.num_tokens(frames), clip) for clip, frames in enumerate(FRAMES)]


@torch.no_grad()
def generate(model: ArModel, features: Tensor, lengths: Tensor, asked: list[list[int]]) -> list[list[int]]:
    """Forty greedy tokens of every row, the end of text like any other; the placeholder is never one."""
    audio, _ = model.embed_audio(model.encode(features, lengths))
    cache = model.cache(len(asked), max(map(len, asked)) + STEPS)
    hidden = model.prefill(asked, audio, cache)
    rows = range(len(asked))
    logits = model.language_model.logits(hidden[rows, [len(prompt) - 1 for prompt in asked]])
    ids = [logits[:, :AUDIO].argmax(dim=-1).tolist()]
    while len(ids) < STEPS:
        ids.append(model.step(ids[-1], rows, cache)[:, :AUDIO].argmax(dim=-1).tolist())
    return [list(row) for row in zip(*ids, strict=True)]


@pytest.mark.parametrize("clip", range(len(FRAMES)))
@torch.no_grad()
def test_embeddings_and_logits_equal_the_referees(pair: tuple[Any, ArModel], clip: int) -> None:
    theirs, ours = pair
    x, lengths = pad([clips()[clip]])
    wanted = theirs.model.get_audio_features(x, return_dict=True).pooler_output
    audio, counts = ours.embed_audio(ours.encode(x, lengths))
    assert counts.tolist() == [wanted.shape[1]]
    torch.testing.assert_close(audio, wanted, atol=1e-4, rtol=0)
    asked = prompts(ours)[clip]
    logits, sizes = ours(x, lengths, [asked])
    mask = torch.ones(audio.shape[:2], dtype=torch.bool)
    said = theirs(input_ids=torch.tensor([asked]), input_features=x, input_features_mask=mask)
    assert sizes.tolist() == [len(asked)]
    # The referee leaves `logits_scaling` out, which changes no greedy token.
    torch.testing.assert_close(logits * ours.config.text.logits_scaling, said.logits, atol=1e-4, rtol=1e-5)


def said_by(theirs: Any, ours: ArModel) -> list[list[int]]:
    """Forty greedy tokens of the referee for each clip."""
    wanted = []
    for one, asked in zip(clips(), prompts(ours), strict=True):
        count = ours.projector.num_tokens(len(one))
        said = theirs.generate(
            input_ids=torch.tensor([asked]),
            attention_mask=torch.ones(1, len(asked), dtype=torch.long),
            input_features=one[None],
            input_features_mask=torch.ones(1, count, dtype=torch.bool),
            max_new_tokens=STEPS,
            min_new_tokens=STEPS,
            do_sample=False,
            eos_token_id=None,
            suppress_tokens=[AUDIO],
        )
        wanted.append(said[0, len(asked) :].tolist())
    return wanted


STRETCHED = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10_000}


@pytest.mark.parametrize(("kind", "key"), [(KINDS[0], "rope_scaling"), (KINDS[1], "rope_parameters")])
def test_greedy_tokens_of_models_with_stretched_positions_equal_the_referees(
    tmp_path: Path, kind: str, key: str
) -> None:
    """As granite-speech-5.0-2b and 2B-Plus v2610 ask for them, far beyond the original positions."""
    keen = {"embedding_multiplier": 0.3, "residual_multiplier": 1.0, "attention_multiplier": 0.6}
    theirs = referee(kind, text={key: STRETCHED, "max_position_embeddings": 128, **keen})
    theirs.save_pretrained(tmp_path)
    ours = ar.load_ar(tmp_path).model
    config = ours.config
    assert config.text.positions == 128 and config.text.yarn is not None
    assert generate(ours, *pad(clips()), prompts(ours)) == said_by(theirs, ours)
    ours.language_model.config = replace(config.text, yarn=None)
    assert generate(ours, *pad(clips()), prompts(ours)) != said_by(theirs, ours), "positions do not matter here"


def test_greedy_tokens_equal_the_referees_alone_and_in_a_batch(pair: tuple[Any, ArModel]) -> None:
    theirs, ours = pair
    wanted = said_by(theirs, ours)
    assert len({tuple(row) for row in wanted}) == len(FRAMES), "the clips do not matter: the test proves nothing"
    alone = [generate(ours, *pad([one]), [asked])[0] for one, asked in zip(clips(), prompts(ours), strict=True)]
    assert alone == wanted
    assert generate(ours, *pad(clips()), prompts(ours)) == wanted


@torch.no_grad()
def test_reading_in_pieces_equals_reading_at_once(pair: tuple[Any, ArModel]) -> None:
    _, ours = pair
    lm = ours.language_model
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(3, 23, ours.config.text.hidden_size, generator=generator)
    lengths = torch.tensor([23, 9, 17])
    whole = lm.hidden(embeddings, lengths)
    cache = KVCache(ours.config.text, 3, 30)
    found: list[list[Tensor]] = [[], [], []]
    for start, end in ((0, 5), (5, 6), (6, 14), (14, 23)):
        new = (lengths.clamp(max=end) - start).clamp(min=0).tolist()
        hidden = lm.extend(embeddings[:, start:end], new, cache)
        for row, count in enumerate(new):
            found[row].append(hidden[row, :count])
    assert cache.lengths == lengths.tolist()
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(torch.cat(found[row]), whole[row, :length], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_cache_can_be_filled_under_autocast(pair: tuple[Any, ArModel]) -> None:
    _, ours = pair
    with torch.autocast("cpu", torch.bfloat16):
        assert len(generate(ours, *pad(clips()[:2]), prompts(ours)[:2])) == 2


@torch.no_grad()
def test_a_broken_neighbour_is_never_seen(pair: tuple[Any, ArModel]) -> None:
    _, ours = pair
    broken = clips()
    broken[3] = broken[3] * torch.nan
    clean, heard = (ours(*pad(rows), prompts(ours)) for rows in (clips(), broken))
    for row, size in enumerate(clean[1].tolist()):
        if row != 3:
            torch.testing.assert_close(heard[0][row, :size], clean[0][row, :size])


@torch.no_grad()
def test_rows_of_a_cache_can_be_dropped_doubled_and_moved(pair: tuple[Any, ArModel]) -> None:
    _, ours = pair
    wanted = generate(ours, *pad(clips()), prompts(ours))
    audio, _ = ours.embed_audio(ours.encode(*pad(clips())))
    for first, second in (([4, 1, 4], [0, 2, 1, 1]), ([0, 4, 2, 3], [3, 1, 2]), ([0, 1], [1]), ([1, 1, 1, 1, 1], [4])):
        cache = ours.cache(len(FRAMES), max(map(len, prompts(ours))) + STEPS)
        ours.prefill(prompts(ours), audio, cache)
        one = ours.step([wanted[row][0] for row in first], first, cache).argmax(dim=-1).tolist()
        assert one == [wanted[row][1] for row in first]
        kept = [first[row] for row in second]
        two = ours.step([wanted[row][1] for row in kept], second, cache).argmax(dim=-1).tolist()
        assert two == [wanted[row][2] for row in kept]


@torch.no_grad()
def test_only_rows_that_change_places_are_copied_and_nothing_of_a_broken_one_is_left(pair: tuple[Any, ArModel]) -> None:
    _, ours = pair
    cache = ours.cache(3, 40)
    hidden = torch.randn(3, 20, ours.config.text.hidden_size)
    hidden[1] = torch.nan
    ours.language_model.extend(hidden, [20, 20, 5], cache)
    keys, place = cache.keys.clone(), cache.keys.data_ptr()
    cache.select([0, 2])
    assert cache.keys.data_ptr() == place and cache.lengths == [20, 5]
    assert torch.equal(cache.keys[:, 0], keys[:, 0]) and torch.equal(cache.keys[:, 1], keys[:, 2])
    assert cache.keys[:, :2].isfinite().all() and cache.values[:, :2].isfinite().all()


@pytest.mark.parametrize("prefix", ["", "model."])
def test_both_namings_load(tmp_path: Path, prefix: str) -> None:
    theirs = referee("granite_speech")
    theirs.save_pretrained(tmp_path / "saved")
    tensors = load_file(tmp_path / "saved" / "model.safetensors")
    bare = {
        name.removeprefix("model.")
        .replace("lm_head", "language_model.lm_head")
        .replace("language_model.language_model", "language_model"): tensor
        for name, tensor in tensors.items()
    }
    assert any(name.startswith("encoder.") for name in bare)
    if prefix:
        bare = {
            f"model.{name}".replace("model.language_model.lm_head", "lm_head").replace(
                "model.language_model.model.", "model.language_model."
            ): tensor
            for name, tensor in bare.items()
        }
    save_file(bare, tmp_path / "saved" / "model.safetensors", metadata={"format": "pt"})
    ours = ar.load_ar(tmp_path / "saved").model
    config = ours.config
    assert not config.text.tie_word_embeddings
    torch.testing.assert_close(ours.language_model.lm_head.weight, theirs.lm_head.weight)


def test_what_is_saved_here_is_read_by_the_referee_and_back(tmp_path: Path, pair: tuple[Any, ArModel]) -> None:
    theirs, ours = pair
    (tmp_path / "tokenizer.json").write_text("{}")
    ar.save_ar(tmp_path / "model", ours, tmp_path / "tokenizer.json", chat_template="{{ 1 }}")
    again = type(theirs).from_pretrained(tmp_path / "model")
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, msg=name)
    assert ar.load_ar(tmp_path / "model").model.config == ours.config
    assert (tmp_path / "model" / "chat_template.jinja").read_text() == "{{ 1 }}"


@pytest.mark.parametrize(("cat_hidden_layers", "frequency"), [([0, 2], 1), ([1, 3], 2), ([3, 0, 2], 1)])
@torch.no_grad()
def test_other_exports_and_sparser_cross_attention_equal_the_referees(
    tmp_path: Path, cat_hidden_layers: list[int], frequency: int
) -> None:
    theirs = referee("granite_speech_plus", cat_hidden_layers=cat_hidden_layers, cross_attention_frequency=frequency)
    theirs.save_pretrained(tmp_path)
    ours = ar.load_ar(tmp_path).model
    x, lengths = pad([clips()[3]])
    wanted = theirs.model.get_audio_features(x, return_dict=True).pooler_output
    torch.testing.assert_close(ours.embed_audio(ours.encode(x, lengths))[0], wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("place", ["in a file of their own", "among the weights", "in both"])
@torch.no_grad()
def test_adapters_are_merged_once_wherever_they_are(tmp_path: Path, place: str) -> None:
    import peft

    theirs = referee("granite_speech")
    theirs.save_pretrained(tmp_path)
    # The scale is alpha / rank; both matrices are filled, because B begins as zero and would prove nothing.
    adapted = peft.get_peft_model(
        theirs, peft.LoraConfig(r=4, lora_alpha=6, target_modules=r".*language_model.*\.(q_proj|v_proj)")
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.3)
    adapted.save_pretrained(str(tmp_path))
    weights, adapters = (load_file(tmp_path / name) for name in ("model.safetensors", "adapter_model.safetensors"))
    if place == "among the weights":
        (tmp_path / "adapter_model.safetensors").unlink()
        save_file(weights | adapters, tmp_path / "model.safetensors", metadata={"format": "pt"})
    if place == "in both":  # as `save_pretrained` of a model with an adapter writes them, names included
        both = {re.sub(r"(language_model.*\.[qv]_proj)\.", r"\1.base_layer.", name): x for name, x in weights.items()}
        for name, tensor in adapters.items():
            name = name.replace("base_model.model.model.language_model.", "language_model.model.")
            both[re.sub(r"lora_([AB])\.", r"lora_\1.default.", name)] = tensor
        assert len(both) == len(weights) + len(adapters)
        save_file(both, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ours = ar.load_ar(tmp_path).model
    x, lengths = pad([clips()[4]])
    asked = prompts(ours)[4]
    count = ours.projector.num_tokens(len(x[0]))
    said = adapted(input_ids=torch.tensor([asked]), input_features=x, input_features_mask=torch.ones(1, count) > 0)
    wanted = said.logits / ours.config.text.logits_scaling
    torch.testing.assert_close(ours(x, lengths, [asked])[0], wanted, atol=1e-4, rtol=1e-4)
    if place == "in both":
        halved = {name: tensor.bfloat16() for name, tensor in adapters.items()}  # a copy of less precision is a copy
        save_file(halved, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
        again = ar.load_ar(tmp_path).model.state_dict()
        assert all(torch.equal(again[name], tensor) for name, tensor in ours.state_dict().items())
        for other in (lambda tensor: tensor * 1.5, lambda tensor: tensor[:1]):
            changed = dict(adapters)
            name = sorted(changed)[-1]
            changed[name] = other(changed[name]).contiguous()
            save_file(changed, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
            with pytest.raises(CheckpointError, match=r"v_proj\.lora_B\.weight is in the weights and in .*they differ"):
                ar.load_ar(tmp_path)
        save_file(adapters, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match="that tells their scale"):
        ar.load_ar(tmp_path)


@pytest.mark.parametrize(("config", "tensors", "projector"), [(ArConfig(), 938, 35.7), (ArConfig.plus(), 937, 39.9)])
def test_full_size_models_have_the_published_tensors(config: ArConfig, tensors: int, projector: float) -> None:
    with torch.device("meta"):
        made = ArModel(config).state_dict()
    counters = [name for name, tensor in made.items() if not tensor.is_floating_point()]
    assert (len(made) - len(counters), len(counters)) == (tensors, 16)
    size = sum(tensor.numel() for name, tensor in made.items() if name.startswith("projector."))
    assert size / 1e6 == pytest.approx(projector, abs=0.06)
    shapes = {
        "projector.query": (1, 3, 1024),
        "projector.qformer.layernorm.weight": (1024,),
        "projector.qformer.encoder.layer.1.attention.attention.query.weight": (1024, 1024),
        "projector.qformer.encoder.layer.1.crossattention.attention.key.weight": (
            1024,
            config.projector.encoder_hidden_size,
        ),
        "projector.qformer.encoder.layer.0.crossattention.output.LayerNorm.bias": (1024,),
        "projector.qformer.encoder.layer.0.intermediate_query.dense.weight": (4096, 1024),
        "projector.qformer.encoder.layer.0.output_query.dense.weight": (1024, 4096),
        "projector.linear.weight": (2048, 1024),
        "language_model.model.embed_tokens.weight": (100_353, 2048),
        "encoder.layers.15.attn.rel_pos_emb.weight": (1025, 128),
    }
    assert {name: tuple(made[name].shape) for name in shapes} == shapes
    assert ("language_model.lm_head.weight" in made) is not config.text.tie_word_embeddings


@pytest.mark.parametrize("config", [ArConfig(), ArConfig.plus()], ids=["2b", "2b-plus"])
def test_full_size_models_have_the_referees_names_and_shapes(config: ArConfig) -> None:
    import transformers

    kind = "GraniteSpeechPlus" if config.kind == "granite_speech_plus" else "GraniteSpeech"
    values = config.to_dict()
    encoder = {key: value for key, value in values["encoder_config"].items() if key != "model_type"}
    made = getattr(transformers, f"{kind}Config")(
        encoder_config=encoder,
        projector_config=values["projector_config"],
        text_config=values["text_config"],
        audio_token_index=config.audio_token_index,
        tie_word_embeddings=config.text.tie_word_embeddings,
    )
    with torch.device("meta"):
        theirs = getattr(transformers, f"{kind}ForConditionalGeneration")(made).state_dict()
        ours = ArModel(config).state_dict()
    renamed = AR_LAYOUT.rename(theirs, Path("referee"))
    if config.text.tie_word_embeddings:
        renamed.pop(LM_HEAD)
    assert {name: tensor.shape for name, tensor in renamed.items()} == {
        name: tensor.shape for name, tensor in ours.items()
    }


def test_audio_tokens_of_the_published_sizes_equal_the_referees() -> None:
    import transformers

    extractor = object.__new__(transformers.GraniteSpeechFeatureExtractor)
    extractor.melspec_kwargs = {"hop_length": 160}
    extractor.projector_window_size, extractor.projector_downsample_rate = 15, 5
    with torch.device("meta"):
        projector = ArModel(ArConfig()).projector
    samples = [*range(257, 6000, 37), *range(15 * FRAME_SAMPLES - 200, 15 * FRAME_SAMPLES + 400, 40), 160_000, 160_159]
    counted = [projector.num_tokens(num_frames(count, "ar")) for count in samples]
    assert counted == extractor._get_num_audio_features(samples)


@torch.no_grad()
def test_the_draft_head_reads_pooled_frames_and_has_its_blank_last(tmp_path: Path, pair: tuple[Any, ArModel]) -> None:
    _, ours = pair
    (tmp_path / "tokenizer.json").write_text("{}")
    folder = ar.save_ar(tmp_path / "model", ours, tmp_path / "tokenizer.json")
    head = {"weight": torch.randn(96, 32), "bias": torch.randn(96)}
    save_file(head, folder / "out_llm.safetensors")
    loaded = ar.load_ar(folder).model
    assert loaded.draft_head is not None
    encoded = loaded.encode(*pad(clips()))
    logits, lengths = loaded.draft_head(encoded)
    assert lengths.tolist() == [1, 4, 4, 11, 17]
    alone = loaded.draft_head(loaded.encode(*pad([clips()[3]])))[0]
    torch.testing.assert_close(logits[3, :11], alone[0], atol=1e-5, rtol=1e-5)
    weights = 1 - encoded.mid_logits.softmax(-1)[3, 4:8, :1]
    pooled = (weights * encoded.hidden[3, 4:8]).sum(0) / weights.sum()
    wanted = pooled @ head["weight"].T + head["bias"]  # the blank's row first
    torch.testing.assert_close(logits[3, 1], wanted.roll(-1), atol=1e-5, rtol=1e-5)
    assert loaded.draft_head.blank == 95
    saved = load_file(ar.save_ar(tmp_path / "again", loaded, tmp_path / "tokenizer.json") / "out_llm.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in head.items())
    save_file({"weight": torch.randn(98, 32), "bias": torch.randn(98)}, folder / "out_llm.safetensors")
    with pytest.raises(CheckpointError, match="98 rows; allowed are the blank and up to 96 tokens"):
        ar.load_ar(folder)


def test_a_checkpoint_that_does_not_fit_is_told(tmp_path: Path) -> None:
    theirs = referee("granite_speech_plus")
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["encoder_config"]["cat_hidden_layers"] = [1, 2]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="encoder_hidden_size is 64; 3 encoder layers of width 32 make 96"):
        ar.load_ar(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not an AR or Plus checkpoint"):
        ar.load_ar(tmp_path)


def test_the_encoder_is_one_for_all_models() -> None:
    """The AR encoder has the names and shapes of the NAR encoder, which adds its token head."""
    with torch.device("meta"):
        names = ConformerEncoder(ArConfig().encoder).state_dict().keys()
    assert len(names) == 518 + 16
    assert not any(name.startswith("out_bpe") for name in names)
