"""The stages that Ray runs, without Ray: whatever is pickled in between, the bytes are those of one process."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import soundfile

from redline.cluster import ray_stages
from redline.cluster.ledger import Ledger
from redline.cluster.ray_bundles import in_bundles
from redline.cluster.ray_stages import AnsweredPart, Load, RayRunSpec, RayTask, RecognizeWorker
from redline.cluster.source import Source, SourceRecording
from redline.cluster.stages import PlanBook
from redline.cluster.store import FolderStore
from redline.errors import RecognitionError
from redline.testing import FakeRecognizer, tone
from redline.transcriber import Transcriber
from redline.types import Hypothesis, Word
from tests.cluster.archives import OPTIONS, archive, contents, level, run, settings


def respond(clip: Any) -> Hypothesis:
    """A text, and word times on demand, which cannot be pickled."""
    return Hypothesis(level(clip), timing=lambda: (Word(0.0, 0.1, "so"),))


def through_stages(source: Path, out: Path, **recognizer: Any) -> list[Load]:
    """What `write_recordings` and `stitch` gave for a folder, all pickled between the stages."""
    transcriber = Transcriber(FakeRecognizer(respond, **recognizer))
    plans = PlanBook.of(transcriber, **OPTIONS)
    spec = pickle.loads(pickle.dumps(RayRunSpec(str(out), settings(), plans)))
    Ledger(FolderStore(out), settings()).open()
    tasks = [RayTask(each.row // 2, each) for each in Source(str(source)).recordings()]
    worker = RecognizeWorker(lambda: transcriber, spec)
    loads, parts = list[Load](), dict[int, list[AnsweredPart]]()
    for load in ray_stages.decode_recordings(tasks, spec):
        _, answered = worker.recognize(pickle.loads(pickle.dumps(load)))
        written = ray_stages.write_recordings(pickle.loads(pickle.dumps(answered)), spec)
        loads.append(written)
        for part in written.parts:
            parts.setdefault(part.task.row.row, []).insert(0, part)  # in any order
    return loads + [ray_stages.stitch(pickle.loads(pickle.dumps(own)), spec) for own in parts.values()]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = archive(tmp_path / "in", 3)
    soundfile.write(folder / "long.flac", tone(100.0).samples, 16_000)
    (folder / "bad.wav").write_bytes(b"no audio")
    return folder


@pytest.mark.parametrize("recognizer", [{"max_clip_s": 1.5}, {"max_clip_s": 3.0, "needs_previous": True}, {}])
@pytest.mark.parametrize("load_s", [2.0, 600.0])
def test_recordings_in_parts_are_written_as_by_one_process(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recognizer: dict[str, Any], load_s: float
) -> None:
    monkeypatch.setattr(ray_stages, "LOAD_S", load_s)
    loads = through_stages(source, tmp_path / "out", **recognizer)
    alone = Transcriber(FakeRecognizer(respond, **recognizer))
    results = {result.row: result for load in loads for _, result in load.results}
    assert len(results) == 5 and sum(not each.is_done for each in results.values()) == 1
    for recording in Source(str(source)).recordings():
        if (id := results[recording.row].id) is not None and results[recording.row].is_done:
            written = tmp_path / "out" / f"json/{id[:2]}/{id}.json"
            alone.transcribe(recording.audio, **OPTIONS).save(tmp_path / "alone.json")
            assert written.read_bytes() == (tmp_path / "alone.json").read_bytes()
    in_parts = [part for load in loads for part in load.parts if part.session is not None]
    assert bool(in_parts) == (load_s == 2.0 and "needs_previous" not in recognizer)


def test_what_is_written_already_is_not_cut_again(source: Path, tmp_path: Path) -> None:
    through_stages(source, tmp_path / "out")
    before = contents(tmp_path / "out")
    (load,) = through_stages(source, tmp_path / "out")
    assert load.costs.recognized == 0 and len(load.results) == 5 and contents(tmp_path / "out") == before


def test_a_dest_that_fails_is_told_and_nobody_accused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "json").touch()
    assert all(load.problem is not None and not load.results for load in through_stages(source, tmp_path / "out"))


def test_a_failed_recording_may_be_tried_elsewhere(tmp_path: Path) -> None:
    def fails(clip: Any) -> str:
        raise RecognitionError("out of memory")

    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", tone(0.5).samples, 16_000)
    transcriber = Transcriber(FakeRecognizer(fails))
    spec = RayRunSpec(str(tmp_path / "out"), settings(), PlanBook.of(transcriber, **OPTIONS))
    (row,) = Source(str(tmp_path / "in")).recordings()
    for attempts, is_final in (0, False), (1, False), (2, True):
        (load,) = ray_stages.decode_recordings([RayTask(0, row, attempts)], spec)
        _, answered = RecognizeWorker(lambda: transcriber, spec).recognize(load)
        ((_, result),) = ray_stages.write_recordings(answered, spec).results
        assert (result.attempts, result.is_final) == (attempts + 1, is_final) and "out of memory" in str(result.reason)


def test_long_recordings_are_read_by_few_and_short_ones_together() -> None:
    def sizes(most: int = 16, **told: Any) -> list[int]:
        tasks = [RayTask(0, SourceRecording(row, "a.wav", **told)) for row in range(40)]
        return [len(bundle) for bundle in in_bundles(tasks, most)]

    assert sizes(duration=3600.0) == [1] * 40 and sizes(duration=10.0) == [16, 16, 8]
    assert sizes(size=100 << 20) == [1] * 40 and sizes(size=1 << 20) == [16, 16, 8]
    assert sizes(64, duration=10.0) == [40] and sizes(64, size=1 << 20) == [32, 8]
    assert sizes() == [8] * 5  # nothing is told


def test_one_process_writes_the_same(source: Path, tmp_path: Path) -> None:
    through_stages(source, tmp_path / "out")
    run(source, FolderStore(tmp_path / "one"))
    one = {name: data for name, data in contents(tmp_path / "one").items() if name.startswith("json")}
    assert one == {name: data for name, data in contents(tmp_path / "out").items() if name.startswith("json")}
