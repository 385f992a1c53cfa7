"""Shards of audio: the same features as from files, in any order, and a run that goes on at the sample."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch

from redline.errors import DataError
from redline.manifest import Utterance, read_manifest, write_manifest
from redline.train.data.batches import Batch, BatchSource, SpeechBatchOptions
from redline.train.data.feature_cache import AugmentOptions, build_feature_cache, feature_caches, streamed_view
from redline.train.data.shard_writer import ShardOptions, write_shards
from redline.train.data.shards import ahead, read_sharded
from tests.corpus import silent

OPTIONS = SpeechBatchOptions(batch_s=3.0)


@pytest.fixture
def sharded(corpus: Path, tmp_path: Path) -> list[Utterance]:
    """The corpus in shards of a few utterances, as its manifest tells it."""
    rows = write_shards(read_manifest(corpus), str(tmp_path / "shards"), ShardOptions(shard_mb=0.1))
    return read_manifest(write_manifest(tmp_path / "shards.jsonl", [row.to_dict() for row in rows]))


def batches(source: BatchSource, epoch: int, skip: int = 0) -> Iterator[Batch]:
    yield from (batch() if callable(batch) else batch for batch in source.epoch(epoch, skip))


def test_a_shard_is_a_webdataset_tar_and_its_manifest_tells_where_each_recording_is(
    corpus: Path, sharded: list[Utterance], tmp_path: Path
) -> None:
    before = read_manifest(corpus)
    assert [row.id for row in sharded] == [row.id for row in before]
    assert [row.text for row in sharded] == [row.text for row in before]
    shards = sorted((tmp_path / "shards").iterdir())
    assert len(shards) > 2 and not [path for path in shards if not path.name.startswith("shard-")]
    members = {}
    for path in shards:
        with tarfile.open(path) as tar:
            members.update({member.name: tar.extractfile(member).read() for member in tar})  # type: ignore[union-attr]
    assert len(members) == 2 * len(before)
    for row, old in zip(sharded, before, strict=True):
        assert read_sharded(row) == members[row.audio.name]
        assert json.loads(members[f"{row.audio.stem}.json"])["text"] == row.text
        samples, rate = soundfile.read(io.BytesIO(read_sharded(row)))
        assert rate == 16_000 and len(samples) / rate == row.duration
        assert (samples == soundfile.read(old.audio)[0]).all()


@pytest.mark.parametrize("view", [0, 1])
def test_streamed_features_are_those_of_a_cache_to_the_bit(
    corpus: Path, sharded: list[Utterance], tmp_path: Path, view: int
) -> None:
    options = AugmentOptions(views=2)
    cached = build_feature_cache(read_manifest(corpus), view, options, tmp_path / "views")
    streamed = streamed_view(sharded, view, options, "nar")
    assert streamed.offsets.keys() == cached.offsets.keys()
    assert all(torch.equal(streamed[row.id], cached[row.id]) for row in sharded)


def test_nothing_of_a_training_set_in_shards_is_kept_and_a_mixed_one_is_refused(
    corpus: Path, sharded: list[Utterance], tmp_path: Path
) -> None:
    train, dev = ([row for row in sharded if row.split == split] for split in ("train", "dev"))
    options = AugmentOptions(views=3)
    views, dev_view = feature_caches(train, dev, options, tmp_path / "views", silent)
    assert len(views) == 3 and set(dev_view.offsets) == {row.id for row in dev}
    assert len(list((tmp_path / "views").glob("*.f16"))) == 1, "dev is small, and asked for again and again"
    with pytest.raises(DataError, match=r"of \d+ rows to train on lie in shards; write all"):
        feature_caches([*train, replace(read_manifest(corpus)[0], id="x")], dev, options, tmp_path / "views", silent)


def test_any_batch_of_an_epoch_can_be_the_first_and_each_utterance_comes_once(sharded: list[Utterance]) -> None:
    source = BatchSource(sharded, [streamed_view(sharded, 0, AugmentOptions(), "nar")], OPTIONS, None)
    whole = list(batches(source, 1))
    assert sorted(id for batch in whole for id in batch.ids) == sorted(row.id for row in sharded)
    for skip in (0, 1, len(whole) - 1):
        rest = list(batches(source, 1, skip))
        assert [batch.ids for batch in rest] == [batch.ids for batch in whole[skip:]]
        assert all(torch.equal(one.features, two.features) for one, two in zip(rest, whole[skip:], strict=True))


def test_only_batches_that_are_asked_for_are_finished_and_those_that_come_next_are_read_before() -> None:
    read, finished = list[int](), list[int]()
    functions = ahead(
        iter(range(100)), lambda plan: (read.append(plan), plan)[1], lambda plan, got: finished.append(got)
    )
    for _, function in zip(range(3), functions, strict=False):
        function()
    assert finished == [0, 1, 2] and set(read) <= set(range(9))
    functions.close()  # type: ignore[attr-defined]


def test_shards_that_cannot_be_read_or_written_are_told(sharded: list[Utterance], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="shards already"):
        write_shards(sharded, str(tmp_path / "shards"))
    with pytest.raises(DataError, match="it is the URL of a tar file"):
        read_sharded(replace(sharded[0], shard="shard-000000.tar"))
    with pytest.raises(DataError, match="cannot be read"):
        read_sharded(replace(sharded[0], shard=str(tmp_path / "none.tar#512+10")))
    path, _, place = sharded[-1].shard.partition("#")
    Path(path).write_bytes(Path(path).read_bytes()[:600])
    with pytest.raises(DataError, match="ends before"):
        read_sharded(sharded[-1])
    reasons = list[str]()
    gone = replace(read_manifest(tmp_path / "shards.jsonl")[0], shard="", audio=tmp_path / "gone.flac")
    rows = write_shards([gone, sharded[0]], str(tmp_path / "again"), skipped=reasons.append)
    assert [row.id for row in rows] == [sharded[0].id] and "no such file" in reasons[0] and place


@pytest.mark.battery
def test_shards_lie_in_a_bucket(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs", reason="needs redline[s3]")
    import fsspec
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        port = server.get_host_and_port()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        fsspec.filesystem("s3").mkdir("speech")
        rows = write_shards(read_manifest(corpus), "s3://speech/train", ShardOptions(shard_mb=0.2))
        assert all(row.shard.startswith("s3://speech/train/shard-") for row in rows)
        cached = build_feature_cache(read_manifest(corpus), 0, AugmentOptions(), tmp_path / "views")
        source = BatchSource(rows, [streamed_view(rows, 0, AugmentOptions(), "nar")], OPTIONS, None)
        for batch in batches(source, 0):
            lengths = [int(length) for length in batch.lengths]
            for features, length, identity in zip(batch.features, lengths, batch.ids, strict=True):
                assert torch.equal(features[:length], cached[identity])
        with pytest.raises(DataError, match="cannot be read"):
            read_sharded(replace(rows[0], shard="s3://speech/train/none.tar#512+10"))
    finally:
        server.stop()
