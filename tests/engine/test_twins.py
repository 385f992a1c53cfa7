"""Which networks compute, and that recognizers write the same with any of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import redline
from redline.engine import precision
from redline.engine.fixed_editor import FixedEditor, has_varlen
from redline.engine.fixed_encoder import FixedEncoder
from redline.engine.fp8 import FP8
from redline.engine.launch import LaunchOptions
from redline.engine.packed import PackedEncoder
from redline.engine.packed_editor import PackedEditor
from redline.engine.precision import pick_dtype, stored
from redline.engine.twins import Engine, check_engine, check_fp8, editor_twin, encoder_twin, launch_options
from redline.errors import RedlineError
from redline.load import load_model
from redline.recognizer import NarRecognizer
from tests.builders import tiny_checkpoint
from tests.engine.editor_clips import random_model
from tests.engine.test_packed import encoder

DEMO = Path(redline.__file__).parent / "assets" / "demo.flac"


@pytest.mark.parametrize(
    ("engine", "dtype", "bf16", "packed"),
    [
        ("auto", torch.float32, False, True),
        ("packed", torch.bfloat16, True, True),
        ("plain", torch.float32, True, False),
        ("auto", torch.bfloat16, False, False),
        ("packed", torch.bfloat16, False, None),
        ("compiled", torch.float32, True, None),
        ("quick", torch.float32, True, None),
    ],
)
def test_an_encoder_is_packed_where_that_is_fast(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, dtype: torch.dtype, bf16: bool, packed: bool | None
) -> None:
    for module in ("packed", "twins"):
        monkeypatch.setattr(f"redline.engine.{module}.has_bf16", lambda: bf16)
    model = encoder("odd sizes", dtype)
    if packed is None:
        with pytest.raises(RedlineError, match=f"engine is '{engine}'; allowed on cpu in"):
            encoder_twin(model, (), engine)
    else:
        assert isinstance(encoder_twin(model, (), engine), PackedEncoder) == packed


@pytest.mark.parametrize(
    ("allowed", "uses"), [("", True), ("DEFAULT", True), ("AVX512_CORE_BF16", True), ("AVX512_CORE_VNNI", False)]
)
def test_bfloat16_is_fast_where_the_processor_has_it_and_the_user_lets_it(
    monkeypatch: pytest.MonkeyPatch, allowed: str, uses: bool
) -> None:
    monkeypatch.setattr(precision, "has_amx", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    if not allowed:
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert precision.has_fast_bf16.__wrapped__() == uses
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert not precision.has_fast_bf16.__wrapped__()


@pytest.mark.parametrize("engine", ["auto", "packed", "compiled", "plain"])
def test_every_engine_is_there_on_cuda_and_only_two_elsewhere(engine: Engine) -> None:
    check_engine(engine, torch.device("cuda"), torch.bfloat16)
    if engine in ("packed", "compiled"):
        with pytest.raises(RedlineError, match=f"allowed on mps in float16 are auto, plain; {engine} needs"):
            check_engine(engine, torch.device("mps"), torch.float16)


def test_fp8_is_for_launches_of_a_device_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert pick_dtype("fp8", cuda) == FP8 and stored(FP8) == torch.bfloat16
    assert launch_options("compiled", FP8).in_fp8 and not launch_options("compiled", torch.bfloat16).in_fp8
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    check_fp8("auto", cuda)
    with pytest.raises(RedlineError, match="engine='plain'"):
        check_fp8("plain", cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    for device in (cuda, torch.device("cpu")):
        with pytest.raises(RedlineError, match=r"capability 8.9 or above; take bfloat16"):
            check_fp8("auto", device)
    with pytest.raises(RedlineError, match="allowed on cpu are float32, bfloat16, int8"):
        pick_dtype("fp8", torch.device("cpu"))


@pytest.mark.parametrize(("engine", "packed"), [("auto", True), ("packed", True), ("plain", False)])
def test_the_editor_of_a_cpu_is_packed_unless_the_plain_one_is_asked_for(engine: Engine, packed: bool) -> None:
    assert isinstance(editor_twin(random_model(), engine), PackedEditor) == packed
    assert has_varlen(torch.device("cpu"), torch.float32) and not has_varlen(torch.device("mps"), torch.float16)


@pytest.mark.parametrize("name", ["tiny", "random"])
def test_a_recognizer_with_the_networks_of_accelerators_writes_the_same(name: str, tmp_path: Path) -> None:
    model = load_model(tiny_checkpoint(tmp_path) if name == "random" else name, engine="plain", dtype="float32")
    plain = model.transcribe(DEMO, words=True)
    recognizer = model.recognizer
    assert isinstance(recognizer, NarRecognizer)
    networks, options = recognizer.model, LaunchOptions(encoder_rows=1024, editor_rows=512)
    recognizer.engine = FixedEncoder(networks.encoder, networks.config.encoder_layer_indices, options, release=True)
    recognizer.networks = FixedEditor(networks, options, release=True)
    left = {name.split(".layers.")[0] for name, _ in networks.named_parameters() if ".layers." in name}
    assert left == {"projector.qformer"}  # no weights are in memory twice
    fast = model.transcribe(DEMO, words=True)
    assert fast.text == plain.text
    assert [word.start for word in fast.words] == [word.start for word in plain.words]
