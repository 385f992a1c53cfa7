"""What is scored is what users run: `redline evaluate` of a row is `redline transcribe` of its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from typer.testing import CliRunner

from redline.cli.main import app
from redline.manifest import write_manifest
from redline.types import Transcript
from tests.builders import tiny_ar_checkpoint, tiny_checkpoint

PARTS = ((0.0, 2.2, "fellow americans"), (3.2, 6.0, "country"), (7.6, 11.0, ""))  # seconds of the recording, a keyword
CHECKPOINTS: dict[str, Callable[[Path], Path | str]] = {
    "nar": tiny_checkpoint,
    "ar": lambda folder: tiny_ar_checkpoint(folder, drafts=True),
    "plus": lambda folder: tiny_ar_checkpoint(folder, "granite_speech_plus", drafts=True),
    "bundled": lambda folder: "tiny",
}


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module", params=list(CHECKPOINTS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path | str:
    return CHECKPOINTS[request.param](tmp_path_factory.mktemp("checkpoint") / "model")


@pytest.mark.parametrize("ask", ["", "--word-timestamps", "--keywords"], ids=["text", "words", "keywords"])
def test_the_score_of_a_row_is_that_of_the_transcript_of_its_file(
    tmp_path: Path, jfk: Path, model: Path | str, ask: str
) -> None:
    samples, rate = soundfile.read(jfk, dtype="float32")
    rows, transcripts = [], []
    for number, (start, end, keyword) in enumerate(PARTS):
        file = tmp_path / f"{number}.wav"
        soundfile.write(file, samples[round(start * rate) : round(end * rate)], rate, subtype="FLOAT")
        row = {"text": "ask not", "language": "en", "keywords": keyword}
        # A row that is a part of a longer recording is as the part in a file of its own.
        rows += [row | {"audio": str(file)}, row | {"audio": str(jfk), "start": start, "end": end}]
        asked = [ask, keyword] if ask == "--keywords" and keyword else [ask] if ask == "--word-timestamps" else []
        output = run("transcribe", file, "--model", model, "--format", "json", "--language", "en", *asked)
        transcripts += 2 * [Transcript.from_dict(json.loads(output))]
    manifest, scores = write_manifest(tmp_path / "rows.jsonl", rows), tmp_path / "scores.json"
    run("evaluate", "--data", manifest, "--model", model, "--json", scores, *filter(None, [ask]))
    scored = {(each["audio"], each["start"]): each for each in json.loads(scores.read_text())["utterances"]}
    for row, transcript in zip(rows, transcripts, strict=True):
        utterance = scored[row["audio"], row.get("start", 0.0)]
        assert (utterance["edited"], utterance["draft"]) == (transcript.text, transcript.draft)
        assert utterance["warnings"] == [notice.to_dict() for notice in transcript.warnings]
        assert utterance["confidence"] == pytest.approx(transcript.segments[0].confidence, abs=1e-3)
    assert len({transcript.text for transcript in transcripts}) == len(PARTS), "else the texts tell nothing"
