"""Fine-tuning: what is chosen, what is held out, what is refused, and that a checkpoint comes back in its layout."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from redline.checkpoints import nar
from redline.errors import ConfigError, DataError
from redline.manifest import Utterance
from redline.train.finetune import LARGE, FinetuneOptions, FinetunePlan, finetune, split_rows
from redline.train.loop.run_record import RUN_RECORD
from tests.corpus import silent


def test_small_models_learn_as_a_whole_and_large_ones_through_adapters() -> None:
    small = FinetunePlan.choose(FinetuneOptions(passes=10, batch_s=60), 10_000_000, 600.0)
    assert (small.steps, small.lora_rank, small.train_encoder) == (100, 0, True)
    ranks = [FinetunePlan.choose(FinetuneOptions(), LARGE, hours * 3600).lora_rank for hours in (0.2, 2, 20)]
    assert ranks == [16, 64, 128] and not FinetunePlan.choose(FinetuneOptions(), LARGE, 60).train_encoder
    asked = FinetunePlan.choose(FinetuneOptions(steps=7, lora_rank=8, train_encoder=False, lr=0.5), 1, 60)
    assert (asked.steps, asked.lora_rank, asked.train_encoder, asked.lr) == (7, 8, False, 0.5)
    assert [FinetunePlan.choose(FinetuneOptions(), 1, hours * 3600).blend for hours in (0.2, 2)] == [0.5, 1.0]
    with pytest.raises(ConfigError, match="blend is 0"):
        FinetunePlan.choose(FinetuneOptions(blend=0), 1, 60)
    with pytest.raises(ConfigError, match="lora_rank is -1"):
        FinetunePlan.choose(FinetuneOptions(lora_rank=-1), 1, 60)


def test_numbers_that_mean_nothing_are_refused() -> None:
    for name, values in {
        "lr": (-1.0, 0.0, math.nan, math.inf),
        "passes": (0.0, -1.0, math.nan, math.inf),
        "steps": (0, -3),
        "batch_s": (0.0, -1.0),
        "lora_rank": (-1,),
        "blend": (0.0, 1.5, math.nan),
    }.items():
        for value in values:
            with pytest.raises(ConfigError, match=f"{name} is .*allowed"):
                FinetuneOptions(**{name: value})


def row(number: int, split: str = "") -> Utterance:
    return Utterance(str(number), Path("a.wav"), "a", 1.0, split=split)


def test_test_rows_never_teach_and_a_tenth_is_held_out_where_no_dev_is_named() -> None:
    train, dev = split_rows([*(row(n) for n in range(100)), row(100, "test")])
    assert (len(train), len(dev)) == (90, 10) and not {utterance.id for utterance in train} & {
        utterance.id for utterance in dev
    }
    assert split_rows([row(n) for n in range(100)]) == (train, dev), "the same every time"
    named = [row(0, "train"), row(1, "dev"), row(2, "test")]
    assert split_rows(named) == ([named[0]], [named[1]])
    with pytest.raises(DataError, match="at least 5 are needed"):
        split_rows([row(1)])


@pytest.mark.parametrize(("rank", "encoder"), [(0, True), (4, False)])
def test_a_checkpoint_comes_back_in_its_layout_and_only_what_should_has_changed(
    corpus: Path, model: Path, tmp_path: Path, rank: int, encoder: bool
) -> None:
    options = FinetuneOptions(steps=3, lora_rank=rank, train_encoder=encoder, batch_s=8, text="spoken", lr=1e-2)
    target = finetune(model, corpus, tmp_path, options, silent)
    old, config, _ = nar.load_nar(model)
    new, new_config, _ = nar.load_nar(target)
    assert config == new_config
    assert json.loads((target / "config.json").read_text())["dtype"] == "float16"
    changed = {name for name, tensor in new.state_dict().items() if not torch.equal(tensor, old.state_dict()[name])}
    assert any(name.startswith("language_model") for name in changed)
    assert any(name.startswith("encoder") for name in changed) == encoder
    assert not any("running" in name or "num_batches" in name for name in changed), "statistics stay"


def test_a_model_without_a_language_model_is_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "granite_speech5_ctc"}')
    with pytest.raises(ConfigError, match="is a CTC model; those that can be fine-tuned are NAR, AR and Plus"):
        finetune(tmp_path, corpus, tmp_path / "run", FinetuneOptions(), silent)


def test_half_way_lies_between_the_old_weights_and_the_new(corpus: Path, model: Path, tmp_path: Path) -> None:
    def taught(blend: float) -> dict[str, torch.Tensor]:
        options = FinetuneOptions(steps=2, batch_s=8, text="spoken", lr=1e-2, blend=blend)
        target = finetune(model, corpus, tmp_path / str(blend), options, silent)
        return nar.load_nar(target)[0].state_dict()

    old, half, new = nar.load_nar(model)[0].state_dict(), taught(0.5), taught(1.0)
    for name in ("encoder.out.weight", "language_model.model.norm.weight", "projector.out_linear.weight"):
        assert not torch.equal(old[name], new[name])
        assert torch.allclose(half[name], (old[name] + new[name]) / 2, atol=1e-3)


def test_a_run_goes_on_only_with_the_settings_and_data_it_began_with(corpus: Path, model: Path, tmp_path: Path) -> None:
    options = FinetuneOptions(steps=2, batch_s=8, lr=1e-3, text="spoken")
    finetune(model, corpus, tmp_path, options, silent)
    with pytest.raises(ConfigError, match=r"began with lr 0\.001 \(now 0\.01\).*another --out"):
        finetune(model, corpus, tmp_path, replace(options, lr=1e-2), silent)
    lines: list[str] = []
    finetune(model, corpus, tmp_path, replace(options, steps=3), lines.append)
    assert any("steps 3 instead of 2" in line for line in lines), "more steps are welcome"
    fewer = corpus.with_name("fewer.jsonl")
    fewer.write_text("\n".join(corpus.read_text().splitlines()[3:]))
    with pytest.raises(DataError, match=r"other data \(train: 20 utterances then, 17 now\)"):
        finetune(model, fewer, tmp_path, replace(options, steps=3), silent)


def test_the_model_holds_what_made_it_and_no_path_of_this_machine(corpus: Path, model: Path, tmp_path: Path) -> None:
    options = FinetuneOptions(steps=2, batch_s=8, lr=1e-3, text="spoken", noise_dir=None)
    target = finetune(model, corpus, tmp_path, options, silent)
    text = (target / RUN_RECORD).read_text()
    record = json.loads(text)
    assert record["settings"]["lr"] == 1e-3 and record["plan"]["steps"] == 2 and "edited_wer" in record["best"]
    assert record["data"]["train"]["utterances"] == 20 and record["data"]["dev"]["speakers"] == 3
    assert record["data"]["train"]["hours_by_language"].keys() == {"en"} and record["versions"]["torch"]
    assert str(tmp_path) not in text and str(corpus.parent) not in text and "THE" not in text
    assert nar.load_nar(target)[1].languages == ("en",), "and it loads"
    assert json.loads((model / RUN_RECORD).read_text())["command"] == "train"


def test_rows_that_share_an_id_or_have_no_text_are_told(corpus: Path, model: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) | {"id": "same"} for line in corpus.read_text().splitlines()]
    rows += [rows[0] | {"text": ""}, rows[0] | {"text": "..."}]
    shared = corpus.with_name("shared.jsonl")
    shared.write_text("\n".join(map(json.dumps, rows)))
    lines: list[str] = []
    finetune(model, shared, tmp_path, FinetuneOptions(steps=1, batch_s=8, text="spoken"), lines.append)
    output = "\n".join(lines)
    assert "25 rows have the id of another" in output and "1 of 26 rows have no text" in output
    assert "1 of 25 rows have no words that are spoken" in output and "20 utterances, " in output
    assert "only 4 utterances with" in output and "points (95 %)" in output


def test_a_disk_that_fills_at_the_end_leaves_no_half_model(
    corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = FinetuneOptions(steps=1, batch_s=8, text="spoken")

    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(nar, "save_nar", full)
        with pytest.raises(DataError, match=r"disk is full.*best weights are kept.*same command"):
            finetune(model, corpus, tmp_path, options, silent)
    assert (finetune(model, corpus, tmp_path, options, silent) / "model.safetensors").exists()
    shutil.rmtree(tmp_path / "model")
