#!/usr/bin/env python3
"""What effort "auto" costs and saves at each threshold: the table from which a checkpoint's `tau_ctc` is chosen.

    scripts/draft_certainty.py --data manifest.jsonl --split dev --model tiny --draft-lm none

Each utterance of up to 30 s is drafted and edited once; a threshold then decides which of its two texts counts. For
models that edit. The chosen number goes into `encoder_config` of the checkpoint's `config.json`, as "tau_ctc".
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from redline import audio, load_model
from redline.decoding.ctc import collapse
from redline.decoding.speculative import frame_entropy
from redline.evaluate.metrics.alignment import Errors, align_words, count_errors, total
from redline.evaluate.run import clip
from redline.manifest import Utterance, read_manifest
from redline.normalize import normalised
from redline.recognizer import NarRecognizer
from redline.recognizer.common import MAX_DRAFT_CLIP_S
from redline.recognizer.drafts import search_drafts
from redline.recognizer.nar import edit_drafts, edit_options
from redline.types import Request

THRESHOLDS = (0.7, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)


@dataclass(frozen=True)
class Outcome:
    """One utterance: its greatest entropy of a frame, and the errors of both of its texts."""

    seconds: float
    entropy: float
    draft: Errors
    edited: Errors


@torch.inference_mode()
def outcome(recognizer: NarRecognizer, row: Utterance) -> Outcome:
    """Draft and edit an utterance, as the recognizer does with full effort."""
    wave, model, lm = clip(audio.load(row.audio), row), recognizer.model, recognizer.draft_lm
    encoded = recognizer.encode([recognizer.prepare(Request(wave))])
    ids = search_drafts(model.draft_head, encoded, lm, [None])[0].ids
    (slots,) = edit_drafts(model, encoded, [(0, ids, edit_options(model, lm))])
    language = row.language or "en"
    reference = normalised(row.text, language)

    def errors(tokens: list[int]) -> Errors:
        text = normalised(recognizer.tokenizer.decode(tokens), language)
        return count_errors(align_words(reference, text))

    entropy = float(frame_entropy(model.draft_head(encoded)[0]).max())
    edited = collapse([slot.label for slot in slots], model.config.blank_token_id)
    return Outcome(wave.duration, entropy, errors(ids), errors(edited))


def table(outcomes: list[Outcome], thresholds: list[float]) -> list[str]:
    """A row per threshold: which share is not read by the language model, and the word error rate."""
    seconds = sum(each.seconds for each in outcomes)
    lines = ["tau_ctc  clips unread  sound unread  WER"]
    for tau_ctc in (0.0, *thresholds, float("inf")):
        unread = [each for each in outcomes if each.entropy < tau_ctc]
        errors = total(each.draft if each.entropy < tau_ctc else each.edited for each in outcomes)
        sound = sum(each.seconds for each in unread) / seconds
        lines.append(f"{tau_ctc:7.1f}  {len(unread) / len(outcomes):12.1%}  {sound:12.1%}  {errors.rate:.2%}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, action="append", help="a manifest; may be repeated")
    parser.add_argument("--split", help="which rows")
    parser.add_argument("--language", default="en", help="which rows")
    parser.add_argument("--every", type=int, default=1, help="take each so many rows only")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--draft-lm", default="own")
    parser.add_argument("--dtype")
    parser.add_argument("thresholds", nargs="*", type=float, default=list(THRESHOLDS), help="nats")
    given = parser.parse_args()
    recognizer = load_model(given.model, draft_lm=given.draft_lm, dtype=given.dtype, punctuate=False).recognizer
    if not isinstance(recognizer, NarRecognizer):
        raise SystemExit(f"{given.model} does not edit; this is for models that do")
    rows = [row for data in given.data for row in read_manifest(data, split=given.split) if row.text]
    rows = [
        row for row in rows if (row.language or "en") == given.language and (row.duration or 0.0) <= MAX_DRAFT_CLIP_S
    ]
    outcomes = [(row.source or "unnamed", outcome(recognizer, row)) for row in rows[:: given.every]]
    for source in (None, *sorted({source for source, _ in outcomes})):
        own = [each for name, each in outcomes if source in (None, name)]
        print(f"{source or 'all'}: {len(own)} utterances", *table(own, given.thresholds), sep="\n")


if __name__ == "__main__":
    main()
