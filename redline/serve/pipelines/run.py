"""Run the steps of a pipeline over a transcript."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import apprise
import httpx

from redline.errors import RedlineError
from redline.serve.pipelines.language_model import ChatModel, StepError, ask_items, ask_text
from redline.serve.pipelines.pipeline import (
    ActionsStep,
    ChaptersStep,
    EntitiesStep,
    MessageStep,
    ModelStep,
    NotifyStep,
    NotionStep,
    Pipeline,
    PipelineStep,
    WebhookStep,
    templates,
)
from redline.serve.pipelines.webhooks import WebhookQueue
from redline.types import Transcript

_log = logging.getLogger(__name__)
_NOTION_VERSION = "2022-06-28"
_NOTION_CHARS, _NOTION_BLOCKS = 2_000, 100  # of a text, and in a request
_TIMEOUT_S = 30.0
ITEM_KEYS: dict[type[PipelineStep], tuple[str, ...]] = {
    ActionsStep: ("task", "owner", "due"),
    ChaptersStep: ("title", "start", "summary"),
    EntitiesStep: ("name", "type"),
}
"""The keys of what a step lists, the first of which is always there."""


@dataclass
class PipelineResult:
    """What came of a pipeline: the result of each step by its name, and the errors of those that failed."""

    pipeline: str
    results: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether some step has no result."""
        return bool(self.errors)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"pipeline": self.pipeline, "results": self.results, "errors": self.errors}


class PipelineRunner:
    """Runs pipelines; webhooks go through a queue that keeps them. `sleep` waits between attempts."""

    def __init__(self, webhooks: WebhookQueue, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.webhooks, self._sleep = webhooks, sleep

    def run(
        self,
        pipeline: Pipeline,
        transcript: Transcript,
        about: Mapping[str, Any],
        *,
        begun: PipelineResult | None = None,
        keep: Callable[[PipelineResult], None] = lambda _: None,
    ) -> PipelineResult:
        """All steps in order; `about` has source, id and url of the transcript, for messages.

        A step that fails ends the pipeline unless its `on_error` is "continue"; what was done stays. `keep` gets what
        there is behind each step; with that as `begun` a run that was killed goes on, and repeats the step at most that
        it was in.
        """
        outcome = begun or PipelineResult(pipeline.name)
        for step in pipeline.steps:
            if step.name in outcome.results:
                continue
            if step.name not in outcome.errors:
                try:
                    outcome.results[step.name] = self._step(step, transcript, about, outcome)
                except RedlineError as error:
                    outcome.errors[step.name] = str(error)
                except Exception as error:
                    _log.exception("step %s of pipeline %s failed", step.name, pipeline.name)
                    outcome.errors[step.name] = f"an internal error ({type(error).__name__}); the server's log has it"
                keep(outcome)
            if step.name in outcome.errors and step.on_error == "stop":
                break
        return outcome

    def _step(
        self, step: PipelineStep, transcript: Transcript, about: Mapping[str, Any], outcome: PipelineResult
    ) -> Any:
        if isinstance(step, ModelStep):
            chat = ChatModel(step, self._sleep)
            if not transcript.text.strip():
                return "" if type(step) not in ITEM_KEYS else []
            if (keys := ITEM_KEYS.get(type(step))) is None:
                return ask_text(chat, transcript)
            items = ask_items(chat, transcript, keys, timed=isinstance(step, ChaptersStep))
            return chapters_in_order(items, transcript.duration) if isinstance(step, ChaptersStep) else items
        if isinstance(step, MessageStep):
            title, body = (
                _rendered(step, template, transcript, about, outcome) for template in (step.title, step.body)
            )
            return _notify(step, title, body) if isinstance(step, NotifyStep) else self._notion(step, title, body)
        assert isinstance(step, WebhookStep)
        content = {"type": "transcript.completed", **about, **outcome.to_dict()}
        if step.transcript:
            content["transcript"] = transcript.to_dict()
        body = json.dumps(content)
        event_id = self.webhooks.add(step.url, body, step.secret_env, step.allow_hosts, job_id=about.get("job_id"))
        return {"event_id": event_id}

    def _notion(self, step: MessageStep, title: str, body: str) -> dict[str, str]:
        assert isinstance(step, NotionStep)
        token = _secret(step, step.token_env)
        blocks = [_paragraph(part) for part in _cut(body, _NOTION_CHARS)]
        page = {
            "parent": {"database_id": step.database},
            "properties": {step.title_property: {"title": _texts(title[:_NOTION_CHARS])}},
            "children": blocks[:_NOTION_BLOCKS],
        }
        headers = {"Authorization": f"Bearer {token}", "Notion-Version": _NOTION_VERSION}
        with httpx.Client(base_url=step.base_url, headers=headers, timeout=_TIMEOUT_S) as client:
            made = _replied(step, client, "POST", "/pages", page)
            for at in range(_NOTION_BLOCKS, len(blocks), _NOTION_BLOCKS):
                more = {"children": blocks[at : at + _NOTION_BLOCKS]}
                _replied(step, client, "PATCH", f"/blocks/{made['id']}/children", more)
        return {"id": str(made["id"]), "url": str(made.get("url", ""))}


def chapters_in_order(items: list[dict[str, Any]], duration_s: float | None) -> list[dict[str, Any]]:
    """Chapters with times that a recording has, in order; those without a usable time are left out."""
    chapters: dict[float, dict[str, Any]] = {}
    for item in items:
        try:
            start = float(item["start"])
        except (TypeError, ValueError):
            continue
        if start >= 0 and (duration_s is None or start <= duration_s):
            chapters.setdefault(start, {**item, "start": start})
    return [chapters[start] for start in sorted(chapters)]


def _rendered(
    step: PipelineStep, template: str, transcript: Transcript, about: Mapping[str, Any], outcome: PipelineResult
) -> str:
    values: dict[str, Any] = {
        "text": transcript.text,
        "duration": transcript.duration,
        "language": transcript.language,
        "model": transcript.model,
        "speakers": sorted({turn.speaker for turn in transcript.turns}),
        "warnings": [notice.message for notice in transcript.warnings],
    }
    try:
        return templates().from_string(template).render({**values, **about, **outcome.results}).strip()
    except Exception as error:  # whatever a template can do wrong
        raise StepError(f"{step.name}: the template failed: {type(error).__name__}: {error}") from error


def _notify(step: NotifyStep, title: str, body: str) -> dict[str, bool]:
    service = apprise.Apprise()
    if not service.add(_secret(step, step.url_env)):
        raise StepError(f"{step.name}: {step.url_env} holds no URL that Apprise knows (github.com/caronc/apprise/wiki)")
    if not service.notify(title=title, body=body or title):
        raise StepError(f"{step.name}: the message was not taken; is the URL in {step.url_env} right?")
    return {"sent": True}


def _secret(step: PipelineStep, variable: str) -> str:
    if not (value := os.environ.get(variable)):
        raise StepError(f"{step.name}: the environment variable {variable} is not set")
    return value


def _replied(step: NotionStep, client: httpx.Client, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        reply = client.request(method, path, json=body)
        content = reply.json()
    except (httpx.HTTPError, ValueError) as error:
        raise StepError(f"{step.name}: {type(error).__name__}: {error} (from {step.base_url})") from error
    if reply.status_code != 200 or not isinstance(content, dict):
        message = content.get("message", "") if isinstance(content, dict) else ""
        raise StepError(f"{step.name}: Notion answered HTTP {reply.status_code}: {message}")
    return content


def _cut(text: str, most: int) -> list[str]:
    """Paragraphs, in parts of at most so many characters."""
    return [line[at : at + most] for line in text.splitlines() if line.strip() for at in range(0, len(line), most)]


def _texts(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": {"content": text}}]


def _paragraph(text: str) -> dict[str, Any]:
    return {"object": "block", "type": "paragraph", "paragraph": {"rich_text": _texts(text)}}
