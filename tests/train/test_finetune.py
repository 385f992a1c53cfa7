"""Fine-tuning: what is chosen, what is held out, and that a checkpoint comes back in its own layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from redline.checkpoints import nar
from redline.cli.main import app
from redline.errors import ConfigError, DataError
from redline.manifest import Utterance, read_manifest
from redline.train.finetune import LARGE, FinetuneOptions, FinetunePlan, finetune, split_rows
from redline.train.loop.loop import fit
from redline.train.loop.optim import TrainingOptions
from redline.train.nar import Materials, build
from tests.corpus import make_corpus, small_recipe


def silent(line: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model")
    build(small_recipe(steps=1), Materials(data, out), ("tokenizer", "encoder", "editor", "export"), silent)
    return out / "model"


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


def row(number: int, split: str = "") -> Utterance:
    return Utterance(str(number), Path("a.wav"), "a", 1.0, split=split)


def test_test_rows_never_teach_and_a_tenth_is_held_out_where_no_dev_is_named() -> None:
    train, dev = split_rows([*(row(n) for n in range(100)), row(100, "test")])
    assert (len(train), len(dev)) == (90, 10) and not {one.id for one in train} & {one.id for one in dev}
    assert split_rows([row(n) for n in range(100)]) == (train, dev), "the same every time"
    named = [row(0, "train"), row(1, "dev"), row(2, "test")]
    assert split_rows(named) == ([named[0]], [named[1]])
    with pytest.raises(DataError, match="at least 5 are needed"):
        split_rows([row(1)])


@pytest.mark.parametrize(("rank", "encoder"), [(0, True), (4, False)])
def test_a_checkpoint_comes_back_in_its_layout_and_only_what_should_has_changed(
    data: Path, model: Path, tmp_path: Path, rank: int, encoder: bool
) -> None:
    options = FinetuneOptions(steps=3, lora_rank=rank, train_encoder=encoder, batch_s=8, text="spoken", lr=1e-2)
    target = finetune(model, data, tmp_path, options, silent)
    old, config, _ = nar.load(model)
    new, new_config, _ = nar.load(target)
    assert config == new_config
    assert json.loads((target / "config.json").read_text())["dtype"] == "float16"
    changed = {name for name, tensor in new.state_dict().items() if not torch.equal(tensor, old.state_dict()[name])}
    assert any(name.startswith("language_model") for name in changed)
    assert any(name.startswith("encoder") for name in changed) == encoder
    assert not any("running" in name or "num_batches" in name for name in changed), "statistics stay"


def test_half_way_lies_between_the_old_weights_and_the_new(data: Path, model: Path, tmp_path: Path) -> None:
    def taught(blend: float) -> dict[str, torch.Tensor]:
        options = FinetuneOptions(steps=2, batch_s=8, text="spoken", lr=1e-2, blend=blend)
        target = finetune(model, data, tmp_path / str(blend), options, silent)
        return nar.load(target)[0].state_dict()

    old, half, new = nar.load(model)[0].state_dict(), taught(0.5), taught(1.0)
    for name in ("encoder.out.weight", "language_model.model.norm.weight", "projector.out_linear.weight"):
        assert not torch.equal(old[name], new[name])
        assert torch.allclose(half[name], (old[name] + new[name]) / 2, atol=1e-3)


def test_learning_ends_when_the_score_no_longer_falls_and_keeps_the_best(tmp_path: Path) -> None:
    class Still:
        """A stage whose score is best at its second evaluation."""

        name = "still"

        def __init__(self) -> None:
            self.objective = torch.nn.Linear(1, 1)
            self.objective.forward = lambda batch: (self.linear(batch), {})  # type: ignore[method-assign]
            self.scores = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
            self.seen: list[torch.Tensor] = []

        def linear(self, batch: torch.Tensor) -> torch.Tensor:
            return (self.objective.weight * batch).sum()

        def batches(self, epoch: int, skip: int) -> list[torch.Tensor]:
            return [torch.ones(1, 1)] * 50

        def seconds(self, batch: torch.Tensor) -> float:
            return 1.0

        def evaluate(self) -> dict[str, float]:
            self.seen.append(self.objective.weight.detach().clone())
            return {"wer": next(self.scores)}

    stage = Still()
    options = TrainingOptions(steps=50, evaluate_every=5, keep_best="wer", patience=2, precision="no", warmup_steps=1)
    fit(stage, options, tmp_path, silent)  # type: ignore[arg-type]
    assert len(stage.seen) == 4, "two evaluations without a better score"
    assert torch.equal(stage.objective.weight, stage.seen[1])
    with pytest.raises(ConfigError, match="patience needs keep_best"):
        TrainingOptions(patience=1)
    with pytest.raises(ConfigError, match="this stage has wer"):
        fit(
            Still(), TrainingOptions(steps=5, evaluate_every=5, keep_best="cer", precision="no"), tmp_path / "b", silent
        )  # type: ignore[arg-type]


def test_the_command_tells_what_was_gained(data: Path, model: Path, tmp_path: Path) -> None:
    arguments = ["finetune", "--data", str(data), "--model", str(model), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*arguments, "--steps", "2", "--text", "spoken"])
    assert result.exit_code == 0, result.output
    assert "before" in result.stdout and "after" in result.stdout and "after against before" in result.stdout
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert {one.split for one in read_manifest(tmp_path / "run" / "dev.jsonl")} == {"dev"}
    wrong = CliRunner().invoke(app, [*arguments, "--text", "loud"])
    assert wrong.exit_code == 2 and "allowed are auto, as-is, spoken" in wrong.output


def test_a_reader_is_divided_and_other_readers_only_score() -> None:
    import importlib.util

    path = Path(__file__).parents[2] / "scripts" / "one_reader.py"
    spec = importlib.util.spec_from_file_location("one_reader", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rows = [{"id": f"{who}{n}", "speaker": who, "duration": 60.0, "split": "dev"} for who in "ab" for n in range(10)]
    teach, score = script.divide(rows, "a", minutes=5)
    assert len(teach) == 5 and {row["speaker"] for row in teach} == {"a"}
    assert [sum(row["source"] == source for row in score) for source in (script.READER, script.OTHERS)] == [5, 10]
    assert not {row["id"] for row in teach} & {row["id"] for row in score}
    assert len(script.divide(rows, "a", minutes=99)[0]) == 7, "three tenths are left to score"
    with pytest.raises(SystemExit, match="no speaker c in this split; there are a, b"):
        script.divide(rows, "c", minutes=5)
