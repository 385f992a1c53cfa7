"""`redline plan`: a table for people, JSON for programs, a picture, and what cannot be planned."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from redline.cli.main import app
from redline.cluster.report import BatchReport, StageRates


def plan(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_the_table_and_the_json_tell_the_same_and_what_is_not_measured(tmp_path: Path) -> None:
    shown = plan("--hours", "1e5", "--gpus", "h100:16", "--chart", tmp_path / "plan.png")
    values = json.loads(plan("--hours", "1e5", "--gpus", "h100:16", "--json").stdout)
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    (row,) = (line for line in shown.stdout.splitlines() if line.startswith("16 h100"))
    assert f"{values['run_hours']:,.2f}" in row and f"{values['euros']:,.2f}" in row and "recognition" in row
    assert all(f"{count} h100" in shown.stdout for count in (8, 32, 64))
    assert values["figures"]["h100.recognize_x"]["status"] == "computed"
    assert "not measured" in shown.stderr and "h100.recognize_x" in shown.stderr


def test_a_report_plans_more_of_its_own_machines(tmp_path: Path) -> None:
    rates = StageRates(20.0, 60.0, 0.01, 0.001)
    counts = {
        "recordings": 40,
        "done": 40,
        "failed": 0,
        "audio_hours": 20.0,
        "recognized": 40,
        "recognized_hours": 20.0,
    }
    pools = {"wall_s": 1200.0, "machines": 1, "decode_workers": 1, "recognize_workers": 1}
    report = BatchReport(engine="local", model="tiny", source="s", rates=rates, **counts, **pools)
    (tmp_path / "report.json").write_bytes(report.render())
    own, more = (
        json.loads(plan("--hours", "1000", "--report", tmp_path / "report.json", "--json", *each).stdout)
        for each in ((), ("--machines", "measured:4"))
    )
    assert own["machines"] == {"measured": 1} and more["machines"] == {"measured": 4}
    assert own["run_hours"] > 3.8 * more["run_hours"]
    assert own["archive"]["mean_minutes"] == 30 and own["archive"]["model"] == "tiny"


def test_what_is_asked_wrongly_is_told_with_what_there_is() -> None:
    for arguments, message in (
        (("--hours", "1", "--gpus", "h100"), "KIND:COUNT"),
        (("--hours", "1", "--gpus", "cpu:2"), "the prices have l4, a100, h100, h200; others go in --prices"),
        (("--hours", "1", "--machines", "h100:2"), "the prices have cpu"),
        (("--hours", "0"), "give more than 0"),
    ):
        result = plan(*arguments)
        assert result.exit_code == 2 and message in " ".join(result.output.split()), result.output
