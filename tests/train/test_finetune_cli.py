"""`redline finetune` and `redline train`: what is gained is told, and what cannot be is refused before the work."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from redline.checkpoints import nar
from redline.cli.main import app
from redline.manifest import read_manifest


def test_the_command_tells_what_was_gained(corpus: Path, model: Path, tmp_path: Path) -> None:
    arguments = ["finetune", "--data", str(corpus), "--model", str(model), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*arguments, "--steps", "2", "--text", "spoken"])
    assert result.exit_code == 0, result.output
    assert "before" in result.stdout and "after" in result.stdout and "after against before" in result.stdout
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert {row.split for row in read_manifest(tmp_path / "run" / "dev.jsonl")} == {"dev"}
    wrong = CliRunner().invoke(app, [*arguments, "--text", "loud"])
    assert wrong.exit_code == 2 and "allowed are auto, as-is, spoken" in wrong.output


def test_a_diverged_run_exits_with_1_and_leaves_a_model(
    corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from redline.train.objectives import nar as objective

    monkeypatch.setattr(objective, "nle_loss", lambda *a: a[0].sum() * math.nan)
    arguments = ["finetune", "--data", str(corpus), "--model", str(model), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*arguments, "--steps", "2", "--text", "spoken"])
    assert (
        result.exit_code == 1 and "is no number at step 1" in result.stderr and "lower learning rate" in result.stderr
    )
    new, old = (nar.load_nar(folder)[0].state_dict() for folder in (tmp_path / "run" / "model", model))
    assert all(torch.equal(new[name], old[name]) for name in old)


def test_where_nothing_can_be_written_is_said_before_the_work(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    places = [(str(tmp_path / "file"), "is no folder"), ("/proc/nowhere/run", "another --out")]
    for out, message in [*places, (str(tmp_path / "file" / "run"), "another --out")]:
        for verb in (["finetune", "--model", "tiny"], ["train", "tiny"]):
            result = CliRunner().invoke(app, [*verb, "--data", str(corpus), "--out", out])
            assert result.exit_code == 2 and message in result.output, (out, verb, result.output)
            assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("more", ["--lr -1", "--lr nan", "--lr inf", "--passes 0", "--blend 2"])
def test_options_that_mean_nothing_are_refused_before_anything_is_heard(
    corpus: Path, tmp_path: Path, more: str
) -> None:
    out = tmp_path / "run"
    result = CliRunner().invoke(app, ["finetune", "--data", str(corpus), "--out", str(out), *more.split()])
    assert result.exit_code == 2 and "allowed" in result.output and not out.exists()
