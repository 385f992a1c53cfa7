"""The skill that tells agents how to use the command line names only what is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from redline.cli.main import VERBS, Verbs

SKILL = (Path(__file__).parents[2] / "docs" / "skill" / "SKILL.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line, comments=True) for line in SKILL.splitlines() if line.startswith("redline ")]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_its_commands_have_verbs_and_options_that_are_there(words: list[str]) -> None:
    assert words[1] in VERBS
    options = {name for param in Verbs().get_command(None, words[1]).params for name in param.opts}
    given = {word.partition("=")[0] for word in words[2:] if word.startswith("-")}
    assert given <= options


def test_it_is_a_skill() -> None:
    assert re.match(r"---\nname: redline\ndescription: .{40,1000}\n---\n", SKILL) and len(COMMANDS) >= 6
