"""What the bench measures is what was run, and a model is as it was afterwards."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from redline.audio import load
from redline.engine import bench, rivals
from redline.engine.bench import (
    BenchOptions,
    Stopwatch,
    cuts,
    encoder_flops,
    measure,
    measure_random_weights,
    watched,
)
from redline.engine.rivals import against_transformers, transformers_2b
from redline.load import load_model
from redline.models.config import ArConfig, EncoderConfig, LMConfig, QFormerConfig
from redline.types import Waveform
from tests.builders import tiny_config

JFK = Path(__file__).parents[1] / "data" / "jfk.flac"
SHORT = BenchOptions(clips=3, clip_s=1.0, latency_s=(0.5,), repeats=2)


def test_clips_are_different_cuts_of_one_recording_that_goes_round() -> None:
    wave = Waveform(np.arange(16000, dtype=np.float32))
    clips = cuts(wave, 2.5, 4)
    assert [len(clip.samples) for clip in clips] == [40000] * 4
    assert [clip.samples[0] for clip in clips] == [0, 4000, 8000, 12000]
    assert clips[1].samples[12000] == 0 and clips[1].samples[11999] == 15999


def test_a_part_inside_another_is_counted_once() -> None:
    watch = Stopwatch()
    inner = watch.timed("inner", lambda: time.sleep(0.02))
    outer = watch.timed("outer", lambda: (time.sleep(0.01), inner(), inner()))
    outer()
    assert watch.seconds["inner"] >= 0.04 and 0.01 <= watch.seconds["outer"] < watch.seconds["inner"]


def test_a_model_is_measured_and_left_as_it_was(random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "MOST_STREAMS", 2)
    monkeypatch.setattr(bench, "MATMUL", 64)
    transcriber, speech = load_model(random_checkpoint), load(JFK)
    before = transcriber.transcribe(speech).text
    said: list[str] = []
    values = measure(transcriber, speech, SHORT, said.append)
    assert set(values["parts"]) == {*bench.PARTS, "search and text", "detection and stitching"}
    assert sum(values["parts"].values()) == pytest.approx(1.0, abs=0.01)
    assert all(share >= 0 for share in values["parts"].values())
    assert values["rtfx"] > 0 and set(values["latency"]) == {"0.5 s"} and 1 <= values["live_streams"] <= 2
    assert values["encoder"]["gflop_per_s"] is not None and values["peak_memory_mib"] > 0 and len(said) == 5
    assert transcriber.transcribe(speech).text == before
    with watched(transcriber.recognizer):
        pass
    assert not {"encode", "answer", "prepare"} & set(vars(transcriber.recognizer))


def test_operations_of_an_encoder_are_those_of_its_products() -> None:
    config = EncoderConfig(
        num_layers=2, hidden_dim=16, num_heads=2, dim_head=8, context_size=50, max_pos_emb=50, output_dim=4,
        self_conditioning_layer=1, bpe_output_dim=None, conv_expansion_factor=1, feedforward_mult=2,
    )  # fmt: skip
    per_frame = 2 * (160 * 16 + 2 * (2 * 2 * 16 * 32 + 4 * 16 * 16 + 3 * 16 * 16) + 3 * 16 * 4)
    attention = 2 * 2 * (2 * 50 * 16 + 99 * 16)  # scores, values and distances
    depthwise = 2 * 2 * 16 * 15
    assert encoder_flops(config) == pytest.approx(50 * (per_frame + attention + depthwise), rel=0.02)


def test_the_encoder_of_transformers_is_the_same_on_the_same_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(rivals, "SHAPES", {"2 x 32": (2, 32)})
    values = against_transformers(torch.bfloat16, 1, lambda line: None)["2 x 32"]
    assert values["difference"] < 1e-4
    assert values["ratio_float32"] > 0 and values["ratio_bfloat16"] > 0 and values["transformers_s"] > 0


def test_networks_of_a_shape_are_measured_without_weights_of_anybody() -> None:
    values = measure_random_weights(torch.float32, SHORT, lambda line: None, tiny_config(40))
    assert values["rtfx"] > 0 and sum(values["parts"].values()) == pytest.approx(1.0, abs=0.2)
    assert set(values["parts"]) == {"encoder", "projector", "language model"}


def test_the_2b_of_transformers_writes_a_token_after_the_other() -> None:
    pytest.importorskip("transformers")
    encoder = EncoderConfig(
        num_layers=2, hidden_dim=16, num_heads=2, dim_head=8, context_size=20, max_pos_emb=32, output_dim=24,
        self_conditioning_layer=1, bpe_output_dim=None, pred_dropout=0.0,
    )  # fmt: skip
    qformer = QFormerConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
                            encoder_hidden_size=16)  # fmt: skip
    text = LMConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, head_dim=8, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1,
                    eos_token_id=1)  # fmt: skip
    config = ArConfig(encoder=encoder, projector=qformer, text=text, audio_token_index=63)
    values = transformers_2b(2, 1.3, 1, lambda line: None, config)
    assert values["tokens"] == 4 and values["rtfx"] > 0
