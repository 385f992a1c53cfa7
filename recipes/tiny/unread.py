"""Paragraphs that a checkpoint's n-grams have not read: text for a test set, told from the n-grams themselves.

    python -m redline_recipes.tiny.unread --model redline/assets/tiny-multi --text books/pt --out unread/pt.txt

Of a paragraph that was counted many n-grams are in the table, of another one few; with 60 tokens and more the two kinds
hardly overlap. With n-grams of 5 tokens of tiny-multi they are around 0.33 and 0.14, in French around 0.40 and 0.21: a
language has a `--most` of its own, between them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from redline.checkpoints.draft_lm import load_draft_lm
from redline.checkpoints.shared import DRAFT_LM
from redline.decoding.ngram import NgramLM
from redline.files import write_text
from redline.normalize import spoken
from redline.tokenizer import Tokenizer

LEAST_TOKENS = 60


def known_share(lm: NgramLM, ids: Sequence[int], order: int) -> float:
    """How many of the n-grams of a text are in the table, as a share; `ids` are at least `order` tokens."""
    mask, key, keys = (1 << (lm.bits * order)) - 1, 0, []
    for token in ids:
        key = ((key << lm.bits) | token) & mask
        keys.append(key)
    return float(np.isin(keys[order - 1 :], lm.grams(order).keys).mean())


def unread(lm: NgramLM, tokenizer: Tokenizer, lines: Sequence[str], order: int, most: float) -> list[str]:
    """The paragraphs of which at most the share `most` of n-grams is known, short ones left out."""
    encoded = ((line, tokenizer.encode(spoken(line, "all"))) for line in lines)
    return [line for line, ids in encoded if len(ids) >= LEAST_TOKENS and known_share(lm, ids, order) <= most]


def main(argv: Sequence[str] | None = None) -> int:
    """Read the books, write the paragraphs; 1 when there are none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a checkpoint with n-grams")
    parser.add_argument("--text", type=Path, required=True, help="folder of .txt files, one paragraph a line")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--order", type=int, default=5, help="tokens of the n-grams that are looked for (default: 5)")
    parser.add_argument("--most", type=float, default=0.2, help="share of them that may be known (default: 0.2)")
    options = parser.parse_args(argv)
    tokenizer = Tokenizer.from_file(options.model / "tokenizer.json")
    lm = load_draft_lm(options.model / DRAFT_LM, tokenizer.vocab_size)
    if not 1 <= options.order <= lm.order:
        parser.error(f"--order {options.order}: the n-grams have 1 to {lm.order} tokens")
    lines = [line for path in sorted(options.text.rglob("*.txt")) for line in path.read_text("utf-8").splitlines()]
    kept = unread(lm, tokenizer, lines, options.order, options.most)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.out, "".join(f"{line}\n" for line in kept))
    print(f"{options.out}: {len(kept)} of {len(lines)} paragraphs", file=sys.stderr)
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
