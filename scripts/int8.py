#!/usr/bin/env python3
"""Write a checkpoint again with int8 weights: half the size of float16, a quarter of float32.

scripts/int8.py tiny-plus smaller/

Takes a bundled name, a folder or a hub id of a model that edits or answers, with its n-grams and extra heads. The
texts it then writes are nearly, not quite, the same: `redline evaluate` tells what it costs.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch

from redline.checkpoints import ar, nar
from redline.checkpoints.draft_lm import find_draft_lm
from redline.checkpoints.folder import resolve
from redline.checkpoints.word_confidence import WORD_CONFIDENCE
from redline.diarize.overlap import OVERLAP_HEAD
from redline.errors import RedlineError


def rewrite(source: str, out: Path) -> Path:
    """The checkpoint with int8 weights; raises `CheckpointError` where `out` is there already."""
    folder = resolve(source)
    tokenizer = folder / "tokenizer.json"
    if ar.is_ar(folder):
        checkpoint = ar.load_ar(folder)
        template = folder / "chat_template.jinja"
        written = ar.save_ar(
            out,
            checkpoint.model,
            tokenizer,
            checkpoint.draft_lm,
            checkpoint.speaker_embedder,
            trusts_draft=checkpoint.trusts_draft,
            chat_template=template.read_text(encoding="utf-8") if template.is_file() else None,
            dtype=torch.float16,
            int8=True,
        )
        if (folder / OVERLAP_HEAD).is_file():
            shutil.copyfile(folder / OVERLAP_HEAD, written / OVERLAP_HEAD)
        return written
    model, config, _ = nar.load_nar(folder)
    draft_lm = find_draft_lm(folder, "own", config.text.vocab_size)
    return nar.save_nar(out, model, tokenizer, draft_lm, dtype=torch.float16, int8=True)


def main() -> int:
    """Write it, and say how large it was and is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", help="a bundled name, a folder or a hub id")
    parser.add_argument("out", type=Path, help="folder of the new checkpoint")
    given = parser.parse_args()
    try:
        path = rewrite(given.checkpoint, given.out)
        sizes = [(where / "model.safetensors").stat().st_size / 1e6 for where in (resolve(given.checkpoint), path)]
    except (RedlineError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{path}: weights of {sizes[1]:.1f} MB in place of {sizes[0]:.1f}", file=sys.stderr)
    if (resolve(given.checkpoint) / WORD_CONFIDENCE).is_file():
        print("word confidences are not calibrated for them: scripts/calibrate.py does that", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
