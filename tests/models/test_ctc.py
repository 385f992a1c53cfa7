"""TurboCTC against transformers: its encoder, its layout and its greedy text, over random configurations."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import GraniteSpeech5CTCConfig, GraniteSpeech5EncoderConfig, GraniteSpeech5ForCTC

from redline.checkpoints.ctc import load_ctc, save_ctc
from redline.decoding import ctc
from redline.errors import CheckpointError, ConfigError
from redline.features import HOP, STACK, clip_features, log_mel
from redline.models.ctc import CtcConfig, CtcModel
from redline.testing import tone


def referee(seed: int) -> GraniteSpeech5ForCTC:
    """A model of transformers with random shapes and weights, its normalisation statistics too."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    heads, head_dim, layers = draw.choice([1, 2, 4]), draw.choice([4, 8]), draw.choice([2, 3, 4, 5, 6])
    width = heads * head_dim * draw.choice([1, 2])
    rows = draw.choice([11, 32, 50])
    encoder = GraniteSpeech5EncoderConfig(
        vocab_size=rows,
        hidden_size=width,
        intermediate_size=width * draw.choice([2, 4]),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        head_dim=head_dim,
        context_size=draw.choice([3, 4, 8, 16]),
        max_position_embeddings=draw.choice([16, 20]),
        conv_kernel_size=draw.choice([3, 5, 7]),
        conv_expansion_factor=draw.choice([1, 2]),
        subsample_layers=[layer for layer in draw.choice([[0, 1], [0], [1], []]) if layer < layers // 2],
    )
    model = GraniteSpeech5ForCTC(GraniteSpeech5CTCConfig(vocab_size=rows, encoder_config=encoder)).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return model


def published(model: GraniteSpeech5ForCTC, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("seed", range(20))
def test_logits_and_ids_are_those_of_transformers(seed: int, tmp_path: Path) -> None:
    theirs = referee(seed)
    ours = load_ctc(published(theirs, tmp_path / "model"))
    lengths = torch.randint(9, 60, (3,))
    x = torch.randn(3, int(lengths.max()), 320)
    mask = torch.arange(x.shape[1])[None] < lengths[:, None]
    with torch.no_grad():
        expected = theirs(input_features=x, attention_mask=mask.long()).logits
        ids = theirs.generate(input_features=x, attention_mask=mask.long())
        encoded = ours(x, lengths)
    logits, frames = encoded.char_logits, encoded.lengths
    for row, count in enumerate(frames.tolist()):
        torch.testing.assert_close(logits[row, :count], expected[row, :count], atol=1e-4, rtol=0)
        assert (
            ctc.collapse(ids[row, :count].tolist(), ours.blank)
            == ctc.greedy(logits[row : row + 1], frames[row : row + 1], ours.blank)[0]
        )


@pytest.mark.parametrize("seed", range(5))
def test_a_checkpoint_round_trips_through_the_published_layout(seed: int, tmp_path: Path, golden: Path) -> None:
    theirs = referee(seed)
    ours = load_ctc(published(theirs, tmp_path / "theirs"))
    written = save_ctc(tmp_path / "ours", ours, golden / "nar-tiny" / "tokenizer.json")
    again = load_ctc(written)
    assert again.config == ours.config
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), again.state_dict().values(), strict=True))
    back = GraniteSpeech5ForCTC.from_pretrained(written).eval()
    x = torch.randn(1, 40, 320)
    with torch.no_grad():
        assert torch.equal(back(input_features=x).logits, theirs(input_features=x).logits)


def test_what_is_not_built_is_refused_by_name(tmp_path: Path) -> None:
    folder = published(referee(1), tmp_path / "model")
    text = (folder / "config.json").read_text()
    for old, new, message in (
        ('"hidden_act": "silu"', '"hidden_act": "gelu"', "hidden_act"),
        ('"num_mel_bins": 80', '"num_mel_bins": 128', "num_mel_bins"),
        ('"pad_token_id": 0', '"pad_token_id": 4000', "pad_token_id is 4000"),
    ):
        assert old in text
        (folder / "config.json").write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=message):
            load_ctc(folder)
    (folder / "config.json").write_text(text)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        load_ctc(folder)


def test_the_published_shape_has_470_million_parameters() -> None:
    with torch.device("meta"):
        model = CtcModel(CtcConfig())
    assert 460e6 < sum(parameter.numel() for parameter in model.parameters()) < 480e6
    assert CtcConfig().block_s == 10.24


def test_features_hold_each_mel_frame_with_its_delta() -> None:
    wave = tone(1.003)
    x = clip_features(wave, "ctc")
    frames = -(-(len(wave.samples) // HOP) // STACK)
    assert x.shape == (frames, 320)
    mels = log_mel(torch.from_numpy(wave.samples), frames * STACK)
    expected = torch.nn.functional.pad(mels.T[None], (1, 1), mode="replicate")[0].T
    delta = (expected[2:] - expected[:-2]) / 2
    assert torch.allclose(x.reshape(-1, 2, 80)[:-1, 0], mels[:-1], atol=1e-5)
    assert torch.allclose(x.reshape(-1, 2, 80)[:-2, 1], delta[:-2], atol=1e-5)


def test_windows_of_whole_attention_blocks_are_encoded_as_in_the_whole_recording() -> None:
    config = CtcConfig(
        output_dim=20, hidden_dim=16, feedforward_mult=2, num_layers=4, num_heads=2, dim_head=8, context_size=8,
        max_pos_emb=16, conv_kernel_size=1, self_conditioning_layer=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = CtcModel(config).eval()
    block = 8 * 4  # input frames: the last layers see a quarter of them
    x = torch.randn(1, 3 * block, 320)
    with torch.no_grad():
        whole = model(x, torch.tensor([3 * block])).char_logits
        parts = [model(part, torch.tensor([block])).char_logits for part in x.split(block, dim=1)]
        shifted = model(x[:, 4:], torch.tensor([3 * block - 4])).char_logits
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)
    assert not torch.allclose(shifted, whole[:, 1:], atol=1e-3), "elsewhere the blocks, and so the context, are others"
