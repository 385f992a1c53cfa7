"""Laws of the ledger: whatever fails when, the next run ends with the same bytes, and each recording once."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import soundfile

from redline.cluster.ledger import Ledger
from redline.cluster.progress import ShardShare
from redline.cluster.source import Source
from redline.cluster.store import FolderStore, StoreError
from redline.errors import DataError, RecognitionError, RedlineError
from redline.testing import tone
from redline.types import Waveform
from tests.cluster.archives import MemoryStore, archive, contents, level, rows, run, settings


@pytest.mark.parametrize("outputs", [("json",), ("parquet",), ("json", "parquet")])
def test_whichever_operation_fails_the_next_run_ends_with_the_same_bytes(tmp_path: Path, outputs: Any) -> None:
    source, undisturbed = archive(tmp_path / "in", 3), MemoryStore()
    said = settings(outputs=outputs)
    (source / "twin.wav").write_bytes((source / "001.wav").read_bytes())
    run(source, undisturbed, said=said)
    assert undisturbed.operations > 15 and not any(name.startswith(("partial", "starts")) for name in undisturbed.files)
    for fail_at in range(1, undisturbed.operations + 1):
        store = MemoryStore()
        store.fail_at = fail_at
        with pytest.raises(StoreError, match="injected"):
            run(source, store, said=said)
        report = run(source, store, said=said)
        assert store.files == undisturbed.files, fail_at
        assert report.done == 4 and report.failed == 0


def test_two_operations_may_fail_in_any_distance(tmp_path: Path) -> None:
    source, undisturbed = archive(tmp_path / "in", 3), MemoryStore()
    run(source, undisturbed)
    for first in range(3, 18, 4):
        for second in range(3, 12, 4):
            store = MemoryStore()
            for fail_at in first, second:
                store.fail_at, store.operations = fail_at, 0
                try:
                    run(source, store)
                except StoreError:
                    continue
            store.fail_at = None
            run(source, store)
            assert store.files == undisturbed.files, (first, second)


def test_machines_together_make_what_one_makes(tmp_path: Path) -> None:
    source = archive(tmp_path / "in", 9)
    rates = run(source, FolderStore(tmp_path / "one")).rates
    assert rates.decode_cpu_s_per_audio_hour and rates.recognize_s_per_audio_hour and rates.write_s_per_recording
    shares = [ShardShare(index, 3) for index in (1, 2, 3)]
    reports = [run(source, FolderStore(tmp_path / "three"), share=share) for share in shares]
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    assert [report.recordings for report in reports] == [4, 3, 2] and sum(each.recognized for each in reports) == 9
    again = run(source, FolderStore(tmp_path / "three"), share=ShardShare(1, 1))
    assert (again.recognized, again.done) == (0, 9)


@pytest.mark.parametrize("text", [(0, 3), (4, 3)])
def test_a_share_that_is_none_is_refused(text: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="allowed are 1/3 to 3/3"):
        ShardShare(*text)
    assert [ShardShare(index, 3).recordings_of(9, 2) for index in (1, 2, 3)] == [4, 3, 2]
    assert [ShardShare(index, 3).recordings_of(3, 2) for index in (1, 2, 3)] == [2, 1, 0]


def test_other_options_are_refused_by_name(tmp_path: Path) -> None:
    source, store = archive(tmp_path / "in", 1), MemoryStore()
    run(source, store, said=settings(words=False))
    before = dict(store.files)
    with pytest.raises(RedlineError, match=r"another run \(words: false, now true\); give the options"):
        run(source, store, said=settings(words=True))
    with pytest.raises(RedlineError, match="shard_size: 2, now 3"):
        run(source, store, said=settings(3, words=False))
    store.files["run.json"] = b"{"
    with pytest.raises(DataError, match="is not JSON"):
        run(source, store, said=settings(words=False))
    assert before.keys() == store.files.keys()


def test_a_full_disk_stops_the_run_and_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = archive(tmp_path / "in"), tmp_path / "out"
    run(source, FolderStore(tmp_path / "undisturbed"))
    real, count = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count > 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="the disk is full; free some space"):
        run(source, FolderStore(out))
    monkeypatch.setattr(os, "fsync", real)
    for path in out.rglob("*.json"):
        json.loads(path.read_text())
    assert not list(out.rglob("*.part"))
    run(source, FolderStore(out))
    assert contents(out) == contents(tmp_path / "undisturbed")


def test_a_process_that_is_killed_between_writing_and_renaming_leaves_nothing_to_repair(tmp_path: Path) -> None:
    source, out = archive(tmp_path / "in"), tmp_path / "out"
    run(source, FolderStore(tmp_path / "undisturbed"))
    code = (
        "import os, signal; from pathlib import Path; from redline.cluster.store import FolderStore\n"
        "from tests.cluster.archives import run\n"
        "replace, left = Path.replace, [6]\n"
        "def killed(self, other):\n"
        "    left[0] -= 1\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if not left[0] else replace(self, other)\n"
        f"Path.replace = killed; run({str(source)!r}, FolderStore(Path({str(out)!r})))\n"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert process.returncode == -signal.SIGKILL and list(out.rglob("*.part"))
    report = run(source, FolderStore(out))
    assert contents(out) == contents(tmp_path / "undisturbed") and 0 < report.recognized < report.done


def test_a_bad_recording_harms_only_itself_and_is_told(tmp_path: Path) -> None:
    source, store = archive(tmp_path / "in", 3), MemoryStore()
    (source / "001.wav").write_bytes(b"not audio at all")
    report = run(source, store)
    assert (report.done, report.failed) == (2, 1) and report.failures[0].audio.endswith("001.wav")
    failed = json.loads(store.files["failed/000000.json"])["recordings"]
    assert "not audio" in failed[0]["reason"] and failed[0]["attempts"] == 1
    assert run(source, store).failures == report.failures  # it is not read again


def test_what_may_go_better_is_tried_three_times(tmp_path: Path) -> None:
    source, store, calls = archive(tmp_path / "in", 2), MemoryStore(), list[float]()

    def respond(clip: Waveform) -> str:
        calls.append(clip.duration)
        if clip.duration > 0.11:
            raise RecognitionError("no memory today")
        return "fine"

    for attempt in 1, 2, 3, 3:
        report = run(source, store, respond)
        assert (report.failed, report.failures[0].attempts) == (1, attempt)
    assert calls == [0.1, 0.12, 0.12, 0.12]  # and what was done stays done
    assert run(source, store, level, retry_failed=True).failed == 0
    assert "failed/000000.json" not in store.files


def test_a_recording_over_which_the_process_ends_is_left_out_after_three(tmp_path: Path) -> None:
    source, store, heard = archive(tmp_path / "in", 2), MemoryStore(), list[float]()

    def respond(clip: Waveform) -> str:
        heard.append(clip.duration)
        if clip.duration > 0.11:
            raise SystemExit("killed")  # nothing of ours runs any more: what is in the store stays as it is
        return "fine"

    for _ in range(10):
        try:
            files = dict(store.files)
            report = run(source, store, respond)
            break
        except SystemExit:
            killed = {name: data for name, data in store.files.items() if name.startswith("starts")}
            store.files = files | {name: data for name, data in store.files.items() if name.startswith("json")} | killed
            store.files |= _starts_of_killed(source, files)
    assert (report.done, report.failed) == (1, 1) and report.failures[0].attempts == 3
    assert "ended 3 times" in report.failures[0].reason


def _starts_of_killed(source: Path, before: dict[str, bytes]) -> dict[str, bytes]:
    """What a killed process leaves of `starts`: the count of the beginning, since it could not take it back."""
    store = MemoryStore()
    store.files = dict(before)
    ledger = Ledger(store, settings())
    (shard,) = Source(str(source)).shards(2)
    starts = ledger.begin(shard)
    if starts.starts > 3 or starts.alone:
        ledger.work_alone(shard, shard.recordings[1])
    return {name: data for name, data in store.files.items() if name.startswith("starts")}


def test_a_content_is_recognized_once_and_told_for_each(tmp_path: Path) -> None:
    source, store, heard = archive(tmp_path / "in", 3), MemoryStore(), list[float]()
    for name in "000-copy", "zz":
        (source / f"{name}.wav").write_bytes((source / "000.wav").read_bytes())

    def respond(clip: Waveform) -> str:
        heard.append(clip.duration)
        return level(clip)

    report = run(source, store, respond)
    assert sorted(heard) == [0.1, 0.12, 0.14] and (report.done, report.recognized) == (5, 3)
    ids = {row["audio"].rsplit("/", 1)[1]: row["id"] for row in rows(store)}
    assert ids["000.wav"] == ids["000-copy.wav"] == ids["zz.wav"] and len(set(ids.values())) == 3


def test_progress_counts_recordings_of_shards_that_are_not_done_yet(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    source = archive(tmp_path / "in", 5)
    run(source, MemoryStore(), said=settings(4), on_progress=lambda each: told.append((each.done, each.settled)))
    assert told == [(0, 1), (0, 2), (0, 3), (4, 0), (5, 0)]


def test_manifests_of_shards_are_read_together(tmp_path: Path) -> None:
    class Slow(MemoryStore):
        both = threading.Barrier(2, timeout=60.0)

        def read(self, name: str) -> bytes | None:
            if name.startswith("shards/"):
                self.both.wait()  # raises where nobody else reads at the same time
            return super().read(name)

    source, done, slow = archive(tmp_path / "in", 8), MemoryStore(), Slow()
    run(source, done)
    slow.files = done.files
    assert run(source, slow).done == 8 and slow.files == done.files


def test_a_source_that_grew_is_gone_on_with(tmp_path: Path) -> None:
    source, store, heard = archive(tmp_path / "in", 3), MemoryStore(), list[float]()

    def respond(clip: Waveform) -> str:
        heard.append(clip.duration)
        return level(clip)

    run(source, store, respond)
    soundfile.write(source / "000-new.wav", tone(0.5).samples, 16_000)  # in front: all rows move
    report = run(source, store, respond)
    assert heard == [0.1, 0.12, 0.14, 0.5] and (report.recordings, report.done) == (4, 4)


def test_a_transcript_that_was_spoilt_is_made_again(tmp_path: Path) -> None:
    source, store, undisturbed = archive(tmp_path / "in", 2), MemoryStore(), MemoryStore()
    run(source, undisturbed)
    store.files = {name: b"{" if name.startswith("json") else data for name, data in undisturbed.files.items()}
    del store.files["shards/000000.json"]
    run(source, store)
    assert store.files == undisturbed.files
