"""A pipeline: a small TOML file with the steps that follow a transcript, read and checked before anything runs.

Secrets are never in the file: keys that end in `_env` name the environment variables that hold them.
"""

from __future__ import annotations

import os
import sys
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from redline.errors import ConfigError
from redline.files import read_utf8

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

PROMPTS = Path(__file__).parent / "prompts"
ALWAYS = ("text", "source", "duration", "language", "model", "speakers", "warnings", "id", "job_id", "url")
"""What every template may use, beside the results of the steps before it."""


@dataclass(frozen=True, kw_only=True)
class PipelineStep:
    """What all steps have: a name for its result, by default its kind, and whether the rest goes on without it."""

    kind: ClassVar[str]
    name: str = ""
    on_error: str = "stop"
    """"stop" ends the pipeline, "continue" goes on without this step's result."""

    def checked(self, known: set[str]) -> None:
        """Raises `ConfigError` for what cannot work; `known` are the results of the steps before."""
        if self.on_error not in ("stop", "continue"):
            raise ConfigError(f"{self.name}: on_error is {self.on_error!r}; allowed are 'stop' and 'continue'")

    def secrets(self) -> list[str]:
        """The environment variables that it reads."""
        named = [getattr(self, field.name) for field in fields(self) if field.name.endswith("_env")]
        return [name for name in named if name]


@dataclass(frozen=True, kw_only=True)
class ModelStep(PipelineStep):
    """Asks a language model behind an OpenAI-compatible chat endpoint."""

    base_url: str
    """Such as https://api.openai.com/v1, or http://localhost:11434/v1 (Ollama), or a server of llama.cpp or vLLM."""
    model: str
    api_key_env: str | None = None
    prompt: str | None = None
    """A file with the instruction, beside the pipeline, in place of the one that comes with the package."""
    language: str | None = None
    """The language of the answer; None is that of the transcript."""
    chunk_chars: int = 24_000
    """Longer transcripts are read in parts of this size, and what came of the parts is joined."""
    max_tokens: int = 2_000
    temperature: float = 0.0
    timeout_s: float = 120.0
    attempts: int = 3

    def checked(self, known: set[str]) -> None:
        super().checked(known)
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"{self.name}: base_url is {self.base_url!r}; it begins with http:// or https://")
        for name, least in (("chunk_chars", 500), ("max_tokens", 1), ("attempts", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{self.name}: {name} is {getattr(self, name)}; allowed are {least} and above")
        if not self.timeout_s > 0:
            raise ConfigError(f"{self.name}: timeout_s is {self.timeout_s:g}; allowed are seconds above 0")
        _ = self.instruction

    @property
    def instruction(self) -> str:
        """The text of the prompt's file."""
        path = Path(self.prompt) if self.prompt else PROMPTS / f"{self.kind}.txt"
        try:
            return read_utf8(path).strip()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.name}: the prompt {path} cannot be read: {error}") from error


class SummaryStep(ModelStep):
    """-> text: what it was about."""

    kind = "summary"


class ActionsStep(ModelStep):
    """-> list of {task, owner, due}: what somebody is to do."""

    kind = "actions"


class ChaptersStep(ModelStep):
    """-> list of {start, title, summary} in order of time."""

    kind = "chapters"


class EntitiesStep(ModelStep):
    """-> list of {name, type}: people, organisations, places, dates, amounts."""

    kind = "entities"


@dataclass(frozen=True, kw_only=True)
class PromptStep(ModelStep):
    """-> text: the answer to an instruction of your own, `prompt`."""

    kind = "prompt"

    def checked(self, known: set[str]) -> None:
        if self.prompt is None:
            raise ConfigError(f"{self.name}: a step of the kind prompt needs a file: prompt = 'my-prompt.txt'")
        super().checked(known)


@cache
def templates() -> SandboxedEnvironment:
    """What reads templates; Jinja is imported for the first of them, since most servers have none."""
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(autoescape=False)


@dataclass(frozen=True, kw_only=True)
class MessageStep(PipelineStep):
    """Sends a text that a template makes of the results."""

    title: str = "{{ source }}"
    body: str = "{{ summary or text }}"

    def checked(self, known: set[str]) -> None:
        from jinja2 import TemplateError, meta

        super().checked(known)
        for field, template in (("title", self.title), ("body", self.body)):
            try:
                used = meta.find_undeclared_variables(templates().parse(template))
            except TemplateError as error:
                raise ConfigError(f"{self.name}: {field} is no template: {error}") from error
            unknown = used - known - set(ALWAYS) - {"summary", "actions", "chapters", "entities"}
            if unknown:
                allowed = ", ".join(sorted(known | set(ALWAYS)))
                raise ConfigError(f"{self.name}: {field} uses {', '.join(sorted(unknown))}; there are {allowed}")


@dataclass(frozen=True, kw_only=True)
class NotifyStep(MessageStep):
    """To Slack, Teams, Discord, mail and a hundred others, by a URL of Apprise in an environment variable."""

    kind = "notify"
    url_env: str


@dataclass(frozen=True, kw_only=True)
class NotionStep(MessageStep):
    """A page in a Notion database."""

    kind = "notion"
    database: str
    token_env: str = "NOTION_TOKEN"
    title_property: str = "Name"
    base_url: str = "https://api.notion.com/v1"


@dataclass(frozen=True, kw_only=True)
class WebhookStep(PipelineStep):
    """A signed POST of all results and, by default, the transcript."""

    kind = "webhook"
    url: str
    secret_env: str
    transcript: bool = True
    allow_hosts: tuple[str, ...] = ()
    """Hosts of private networks that it may reach."""

    def checked(self, known: set[str]) -> None:
        super().checked(known)
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"{self.name}: url is {self.url!r}; it begins with http:// or https://")


STEP_KINDS: dict[str, type[PipelineStep]] = {
    each.kind: each
    for each in (SummaryStep, ActionsStep, ChaptersStep, EntitiesStep, PromptStep, NotifyStep, NotionStep, WebhookStep)
}


@dataclass(frozen=True)
class Pipeline:
    """Steps in their order."""

    name: str
    steps: tuple[PipelineStep, ...]

    def missing_secrets(self) -> list[str]:
        """Environment variables that are named and not set."""
        return sorted({name for step in self.steps for name in step.secrets() if not os.environ.get(name)})


def read_pipeline(path: Path) -> Pipeline:
    """Read and check a TOML file; raises `ConfigError` that names the step and the key."""
    try:
        content = tomllib.loads(read_utf8(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a pipeline: {error}") from error
    if unknown := set(content) - {"name", "defaults", "step"}:
        raise ConfigError(f"{path}: unknown {', '.join(sorted(unknown))}; allowed are name, [defaults] and [[step]]")
    tables = content.get("step", [])
    if not isinstance(tables, list) or not tables:
        raise ConfigError(f"{path}: no [[step]]; the kinds are {', '.join(STEP_KINDS)}")
    steps: list[PipelineStep] = []
    for number, table in enumerate(tables, start=1):
        step = _step(f"{path}, step {number}", table, content.get("defaults", {}), path.parent)
        known = {each.name for each in steps}
        if step.name in known or step.name in ALWAYS:
            raise ConfigError(f"{path}, step {number}: the name {step.name} is taken; give it one: name = '...'")
        step.checked(known)
        steps.append(step)
    return Pipeline(str(content.get("name", path.stem)), tuple(steps))


def _step(where: str, table: dict[str, Any], defaults: dict[str, Any], folder: Path) -> PipelineStep:
    kind = STEP_KINDS.get(str(table.get("kind")))
    if kind is None:
        raise ConfigError(f"{where}: kind is {table.get('kind')!r}; allowed are {', '.join(STEP_KINDS)}")
    own = {field.name: field for field in fields(kind)}
    values = {key: value for key, value in defaults.items() if key in own} | table
    values.pop("kind")
    for key in values:
        if key in own:
            continue
        if f"{key}_env" in own:
            raise ConfigError(
                f"{where}: {key} is a secret; put it into an environment variable and name that: {key}_env"
            )
        raise ConfigError(f"{where}: unknown {key}; a step of the kind {kind.kind} has {', '.join(own)}")
    if missing := [name for name, field in own.items() if field.default is MISSING and name not in values]:
        raise ConfigError(f"{where}: a step of the kind {kind.kind} needs {', '.join(missing)}")
    values = {key: _typed(where, key, value, own[key].type) for key, value in values.items()}
    if values.get("prompt"):
        values["prompt"] = str(folder / values["prompt"])
    return kind(**{"name": kind.kind, **values})


def _typed(where: str, key: str, value: Any, type_name: Any) -> Any:
    """A value of the file, as the field's type; raises `ConfigError`."""
    allowed = str(type_name)
    kinds = {"str": str, "int": int, "float": (int, float), "bool": bool, "tuple": list}
    expected = next(kind for name, kind in kinds.items() if allowed.startswith(name))
    is_bool = isinstance(value, bool)
    if not isinstance(value, expected) or (is_bool and expected is not bool):  # type: ignore[arg-type]
        raise ConfigError(f"{where}: {key} is {value!r}; it is a {allowed.split(' ')[0].split('[')[0]}")
    return tuple(map(str, value)) if expected is list else value
