"""The folder of a checkpoint: where it is found, and weights that are spread over several files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from redline.checkpoints import folder as places
from redline.checkpoints import nar
from redline.errors import CheckpointError
from redline.models.nar import NarModel

LATER = Path(__file__).parents[1] / "data" / "golden" / "nar-tiny"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def same(a: NarModel, b: NarModel) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_sharded_loads_like_whole(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, members in shards.items():
        save_file({name: tensors[name] for name in members}, folder / shard)
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert same(nar.load_nar(folder)[0], nar.load_nar(LATER)[0])
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing"):
        nar.load_nar(folder)


def test_bundled_names_are_found_before_folders(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "assets").mkdir()
    shutil.copytree(folder, tmp_path / "assets" / "small")
    monkeypatch.setattr(places, "ASSETS", tmp_path / "assets")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    assert places.bundled_names() == ["small"]
    assert places.resolve("small") == tmp_path / "assets" / "small"
    assert places.resolve("./small") == places.resolve(Path("small")) == Path("small")
    with pytest.raises(CheckpointError, match=r"revision .* only makes sense for a hub id"):
        places.resolve("small", revision="main")
    with pytest.raises(CheckpointError, match=r"nothing: no such folder.*bundled model \(small\)"):
        places.resolve("nothing")


def test_a_hub_id_that_is_not_cached_is_refused_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"owner/name \(revision v1\): not a local folder.*while online"):
        places.resolve("owner/name", revision="v1")


def test_a_cached_hub_id_is_read_offline(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repo = tmp_path / "cache" / "models--owner--name"
    commit = "0" * 40
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    for path in folder.iterdir():  # as the hub's cache does: links out of the snapshot
        path.rename(repo / "blobs" / path.name)
        (repo / "snapshots" / commit / path.name).symlink_to(repo / "blobs" / path.name)
    model, _, snapshot = nar.load_nar("owner/name")
    assert snapshot == repo / "snapshots" / commit
    assert same(model, nar.load_nar(LATER)[0])
