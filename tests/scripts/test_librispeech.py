"""scripts/librispeech.py on a folder laid out like LibriSpeech; what it writes is a manifest that evaluation reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from redline.manifest import read_manifest
from tests.scripts.loading import SCRIPTS

SCRIPT = SCRIPTS / "librispeech.py"


def call(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, check=False)


def test_manifest_is_read_back(tmp_path: Path) -> None:
    for part, seconds in (("train-clean-5", 1), ("test-clean", 2)):
        chapter = tmp_path / part / "19" / "198"
        chapter.mkdir(parents=True)
        soundfile.write(chapter / "19-198-0000.flac", np.zeros(16_000 * seconds, dtype=np.float32), 16_000)
        (chapter / "19-198.trans.txt").write_text("19-198-0000 TO BE OR NOT\n", encoding="utf-8")
    process = call(tmp_path)
    assert process.returncode == 0, process.stderr
    (tmp_path / "manifest.jsonl").write_text(process.stdout, encoding="utf-8")
    (utterance,) = read_manifest(tmp_path / "manifest.jsonl", split="test")
    assert (utterance.text, utterance.source, utterance.duration) == ("TO BE OR NOT", "librispeech-test-clean", 2.0)
    assert utterance.audio.is_file()


def test_wrong_folder_says_what_to_give(tmp_path: Path) -> None:
    process = call(tmp_path)
    assert (process.returncode, process.stdout) == (2, "")
    assert "give the unpacked LibriSpeech folder" in process.stderr
