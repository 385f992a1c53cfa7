"""Models that recognizers of this folder are made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from redline.models.config import ArKind
from tests.builders import tiny_ar_checkpoint, tiny_checkpoint
from tests.recognizer.ar_models import with_speaker_embedder

KINDS: tuple[ArKind, ...] = ("granite_speech", "granite_speech_plus")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints with random weights: of each kind that answers prompts, of an editor, and one with speakers."""
    root = tmp_path_factory.mktemp("models")
    return {
        **{kind: tiny_ar_checkpoint(root / kind, kind, drafts=True) for kind in KINDS},
        "nar": tiny_checkpoint(root / "nar"),
        "speakers": with_speaker_embedder(root / "speakers"),
    }
