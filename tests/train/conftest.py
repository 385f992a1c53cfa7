"""What tests of training share: a made-up corpus, books with the same words, and a model that can be taught on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from redline.train.run import Materials, build
from tests.ar_corpus import make_asked_corpus, small_nar_checkpoint
from tests.corpus import WORDS, make_corpus, silent, small_recipe


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of tones that stand for words; nothing of it may be changed."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of text."""
    folder = tmp_path_factory.mktemp("books")
    draw = random.Random(1)
    lines = [" ".join(draw.choice(WORDS) for _ in range(30)).capitalize() + "." for _ in range(60)]
    (folder / "book.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def model(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NAR checkpoint that has hardly learned anything."""
    out = tmp_path_factory.mktemp("model")
    build(small_recipe(steps=1), Materials(corpus, out), (), silent)
    return out / "model"


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NAR checkpoint with random weights."""
    return small_nar_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus with word times and speakers; nothing of it may be changed."""
    return make_asked_corpus(tmp_path_factory.mktemp("asked"))
