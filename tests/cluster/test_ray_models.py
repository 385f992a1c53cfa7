"""Bundled models on Ray: what one process writes, to the byte, also where texts are generated and speakers told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from redline import audio
from tests.cluster.archives import contents

pytest.importorskip("ray")
pytestmark = pytest.mark.laws
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two voices, apart and in one recording."""
    folder = tmp_path_factory.mktemp("in")
    voices = [audio.load(ROOT / name).samples for name in ("redline/assets/demo.flac", "tests/data/jfk.flac")]
    for number, voice in enumerate(voices):
        soundfile.write(folder / f"{number}.flac", voice, 16_000)
    with soundfile.SoundFile(folder / "both.flac", "w", 16_000, 1) as file:
        for voice in voices:
            file.write(voice)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        ["--model", "tiny-plus", "--drafts", "none"],
        ["--model", "tiny-plus", "--drafts", "none", "--speakers", "2", "--word-timestamps"],
        ["--model", "tiny", "--speakers", "2"],
    ],
    ids=["generated", "generated with speakers", "speakers by voice"],
)
def test_ray_writes_what_one_process_writes(source: Path, tmp_path: Path, options: list[str]) -> None:
    for out, how in ("one", ["--shard", "1/1"]), ("ray", ["--workers", "2", "--threads", "1"]):
        command = [sys.executable, "-m", "redline", "batch", str(source), "--out", str(tmp_path / out), *options, *how]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one = contents(tmp_path / "one")
    assert len([name for name in one if name.startswith("json/")]) == 3 and contents(tmp_path / "ray") == one
