"""Steps in order: questions, messages and webhooks, each failing by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from redline.cli.main import app
from redline.serve.pipelines.pipeline import Pipeline, read_pipeline
from redline.serve.pipelines.run import PipelineResult, PipelineRunner, chapters_in_order
from redline.serve.pipelines.webhooks import WebhookQueue, is_signed
from redline.serve.store.database import Database
from redline.types import Segment, Transcript

from .conftest import OtherSide, Received

WHOLE = Transcript("we ship on monday", (Segment(0, 0.0, 4.0, "we ship on monday"),), duration=4.0, language="en")
ABOUT = {"source": "standup.mp3", "id": "t1", "job_id": None, "url": None}


def pipeline(path: Path, side: OtherSide, *steps: str) -> Pipeline:
    defaults = f'[defaults]\nbase_url = "{side.url}/v1"\nmodel = "m"\n'
    (file := path / "p.toml").write_text(defaults + "".join(f"[[step]]\n{step}\n" for step in steps), encoding="utf-8")
    return read_pipeline(file)


@pytest.fixture
def runner(tmp_path: Path) -> PipelineRunner:
    return PipelineRunner(WebhookQueue(Database(None, tmp_path)), sleep=lambda _: None)


def test_a_summary_reaches_slack_notion_and_a_webhook(
    tmp_path: Path, other_side: OtherSide, runner: PipelineRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", "s3cret")
    monkeypatch.setenv("NOTION_TOKEN", "nt")
    monkeypatch.setenv("CHANNEL", other_side.url.replace("http://", "json://") + "/channel")

    def answer(request: Received) -> tuple[int, dict[str, str], bytes]:
        if request.path.endswith("/chat/completions"):
            choice = {"message": {"content": "Monday it ships."}, "finish_reason": "stop"}
            return 200, {}, json.dumps({"choices": [choice]}).encode()
        return 200, {}, b'{"id": "page-1", "url": "https://notion.example/page-1"}'

    other_side.answer = answer
    steps = pipeline(
        tmp_path,
        other_side,
        'kind = "summary"',
        'kind = "notify"\nurl_env = "CHANNEL"\nbody = "{{ summary }} ({{ source }}, {{ duration }} s)"',
        f'kind = "notion"\ndatabase = "db"\nbase_url = "{other_side.url}/notion"',
        f'kind = "webhook"\nsecret_env = "HOOK"\nurl = "{other_side.url}/hook"\nallow_hosts = ["127.0.0.1"]',
    )
    outcome = runner.run(steps, WHOLE, ABOUT)
    assert not outcome.errors and outcome.results["summary"] == "Monday it ships."
    assert outcome.results["notion"] == {"id": "page-1", "url": "https://notion.example/page-1"}
    message = next(request for request in other_side.received if request.path.startswith("/channel"))
    assert message.json["message"] == "Monday it ships. (standup.mp3, 4.0 s)" and message.json["title"] == "standup.mp3"
    page = next(request for request in other_side.received if request.path == "/notion/pages")
    assert page.headers["Authorization"] == "Bearer nt" and page.json["parent"] == {"database_id": "db"}
    assert runner.webhooks.deliver_due() == 1
    hook = other_side.received[-1]
    assert is_signed(hook.body, hook.headers["Redline-Signature"], "s3cret", runner.webhooks.now())
    assert (
        hook.json["results"]["summary"] == "Monday it ships." and Transcript.from_dict(hook.json["transcript"]) == WHOLE
    )


def test_a_step_that_fails_stops_the_rest_or_lets_them_go_on(
    tmp_path: Path, other_side: OtherSide, runner: PipelineRunner
) -> None:
    other_side.answer = lambda _: (400, {}, b"no such model")
    stopping = pipeline(tmp_path, other_side, 'kind = "summary"', 'kind = "entities"')
    outcome = runner.run(stopping, WHOLE, ABOUT)
    assert list(outcome.errors) == ["summary"] and "HTTP 400: no such model" in outcome.errors["summary"]
    going_on = pipeline(tmp_path, other_side, 'kind = "summary"\non_error = "continue"', 'kind = "entities"')
    assert list(runner.run(going_on, WHOLE, ABOUT).errors) == ["summary", "entities"]


def test_a_fault_of_the_program_in_a_step_is_that_step_s_error(
    tmp_path: Path, other_side: OtherSide, runner: PipelineRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> bool:
        raise KeyError

    monkeypatch.setenv("CHANNEL", other_side.url.replace("http://", "json://"))
    monkeypatch.setattr("apprise.Apprise.notify", fail)
    steps = pipeline(tmp_path, other_side, 'kind = "notify"\nurl_env = "CHANNEL"\nbody = "{{ text }}"')
    assert "an internal error (KeyError)" in runner.run(steps, WHOLE, ABOUT).errors["notify"]


def test_nobody_is_asked_about_silence(tmp_path: Path, other_side: OtherSide, runner: PipelineRunner) -> None:
    steps = pipeline(tmp_path, other_side, 'kind = "summary"', 'kind = "actions"')
    assert runner.run(steps, Transcript(""), ABOUT).results == {"summary": "", "actions": []}
    assert not other_side.received


def test_a_transcript_is_text_in_a_template_never_a_template(
    tmp_path: Path, other_side: OtherSide, runner: PipelineRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHANNEL", other_side.url.replace("http://", "json://"))
    steps = pipeline(tmp_path, other_side, 'kind = "notify"\nurl_env = "CHANNEL"\nbody = "{{ text }}"')
    hostile = "{{ 7 * 7 }} {% for x in range(9) %}x{% endfor %}"
    assert not runner.run(steps, Transcript(hostile), ABOUT).errors
    assert other_side.received[0].json["message"] == hostile


def test_chapters_have_times_of_the_recording_in_order() -> None:
    items = [
        {"title": "c", "start": 9},
        {"title": "a", "start": "0"},
        {"title": "x", "start": None},
        {"title": "b", "start": 3},
    ]
    assert [item["title"] for item in chapters_in_order([*items, {"title": "y", "start": 99}], 10.0)] == ["a", "b", "c"]


def test_the_command_runs_a_pipeline_over_a_saved_transcript(tmp_path: Path, other_side: OtherSide) -> None:
    other_side.chat("Monday.")
    pipeline(tmp_path, other_side, 'kind = "summary"')
    WHOLE.save(tmp_path / "t.json")
    arguments = ["pipeline", str(tmp_path / "p.toml"), str(tmp_path / "t.json"), "--data", str(tmp_path)]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0 and json.loads(ran.stdout)["results"] == {"summary": "Monday."}
    other_side.answer = lambda _: (400, {}, b"")
    assert CliRunner().invoke(app, arguments).exit_code == 1
    assert CliRunner().invoke(app, ["pipeline", str(tmp_path / "p.toml")]).exit_code == 0


def test_a_run_that_was_killed_repeats_no_step_that_was_done(
    tmp_path: Path, other_side: OtherSide, runner: PipelineRunner
) -> None:
    (tmp_path / "more.txt").write_text("Say more.", encoding="utf-8")
    steps = pipeline(tmp_path, other_side, 'kind = "summary"', 'kind = "prompt"\nname = "more"\nprompt = "more.txt"')
    kept: list[str] = []

    def killed(outcome: PipelineResult) -> None:
        kept.append(json.dumps(outcome.to_dict()))
        raise KeyboardInterrupt

    other_side.chat("first", "second")
    with pytest.raises(KeyboardInterrupt):
        runner.run(steps, WHOLE, ABOUT, keep=killed)
    begun = PipelineResult(**json.loads(kept[0]))
    assert runner.run(steps, WHOLE, ABOUT, begun=begun).results == {"summary": "first", "more": "second"}
    assert len(other_side.received) == 2
