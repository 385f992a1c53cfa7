"""A pipeline file is checked before anything runs: unknown keys, secrets in the file, templates that cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest

from redline.errors import ConfigError
from redline.serve.pipelines.pipeline import STEP_KINDS, ModelStep, read_pipeline

MODEL = 'base_url = "http://localhost:1/v1"\nmodel = "m"\n'


def written(path: Path, text: str) -> Path:
    (file := path / "p.toml").write_text(text, encoding="utf-8")
    return file


def test_defaults_hold_for_the_steps_that_have_such_keys(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Say hello.", encoding="utf-8")
    pipeline = read_pipeline(
        written(
            tmp_path,
            f'name = "meeting"\n[defaults]\n{MODEL}api_key_env = "KEY"\n'
            '[[step]]\nkind = "summary"\n[[step]]\nkind = "prompt"\nname = "hello"\nprompt = "mine.txt"\n'
            '[[step]]\nkind = "notify"\nurl_env = "SLACK"\nbody = "{{ summary }} {{ hello }}"\n',
        )
    )
    assert [step.name for step in pipeline.steps] == ["summary", "hello", "notify"]
    assert isinstance(pipeline.steps[1], ModelStep) and pipeline.steps[1].instruction == "Say hello."
    assert pipeline.missing_secrets() == ["KEY", "SLACK"]


@pytest.mark.parametrize("kind", ["summary", "actions", "chapters", "entities"])
def test_every_kind_of_question_has_an_instruction(tmp_path: Path, kind: str) -> None:
    (step,) = read_pipeline(written(tmp_path, f'[[step]]\nkind = "{kind}"\n{MODEL}')).steps
    assert isinstance(step, ModelStep) and len(step.instruction) > 100 and kind in STEP_KINDS


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no \\[\\[step\\]\\]"),
        ("[[step", "cannot be read"),
        ('[[step]]\nkind = "dance"', "allowed are summary"),
        ('other = 1\n[[step]]\nkind = "summary"', "unknown other"),
        (f'[[step]]\nkind = "summary"\n{MODEL}api_key = "sk-secret"', "api_key is a secret.*api_key_env"),
        (f'[[step]]\nkind = "summary"\n{MODEL}tone = "warm"', "unknown tone"),
        ('[[step]]\nkind = "summary"\nmodel = "m"', "needs base_url"),
        (f'[[step]]\nkind = "summary"\n{MODEL}chunk_chars = "many"', "chunk_chars is 'many'; it is a int"),
        (f'[[step]]\nkind = "summary"\n{MODEL}chunk_chars = 3', "500 and above"),
        (f'[[step]]\nkind = "summary"\n{MODEL}on_error = "panic"', "'stop' and 'continue'"),
        (f'[[step]]\nkind = "summary"\n{MODEL}[[step]]\nkind = "summary"\n{MODEL}', "is taken"),
        (f'[[step]]\nkind = "prompt"\n{MODEL}', "needs a file"),
        (f'[[step]]\nkind = "prompt"\n{MODEL}prompt = "nowhere.txt"', "cannot be read"),
        ('[[step]]\nkind = "notify"\nurl_env = "U"\nbody = "{{ sumary }}"', "uses sumary; there are"),
        ('[[step]]\nkind = "notify"\nurl_env = "U"\nbody = "{{ text"', "is no template"),
        ('[[step]]\nkind = "webhook"\nsecret_env = "S"\nurl = "ftp://a"', "begins with http"),
    ],
)
def test_what_cannot_work_is_told_with_the_step(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_pipeline(written(tmp_path, text))
