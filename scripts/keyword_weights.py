#!/usr/bin/env python3
"""What the weight of keywords does: how many that are said are recognized, and how many that nobody said.

    scripts/rare_keywords.py --data manifest.jsonl --split dev --text manifest.jsonl --out keywords.jsonl
    scripts/keyword_weights.py --data keywords.jsonl --picture docs/keywords.png

Each row is transcribed without keywords, and with its own among others that are not said in it, at each weight.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from redline import audio, load_model
from redline.evaluate.metrics.alignment import Errors, align_words, count_errors, total
from redline.evaluate.metrics.keywords import longest_keyword, normalised_keyword, phrases
from redline.evaluate.run import clip
from redline.manifest import Utterance, read_manifest
from redline.normalize import normalised

WEIGHTS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)


@dataclass
class WeightScore:
    """Keywords that were said and recognized, and those that were not said, in all rows at one weight."""

    said: int = 0
    recognized: int = 0
    unsaid: int = 0
    false_alarms: int = 0

    def add(self, own: set[str], others: set[str], text: str, language: str) -> None:
        """Count a row's normalised keywords in its text."""
        written = phrases(text, language, longest_keyword(own | others))
        self.said += len(own)
        self.recognized += len(own & written)
        self.unsaid += len(others)
        self.false_alarms += len(others & written)

    @property
    def recall(self) -> float:
        return self.recognized / max(1, self.said)


def lists_of(rows: Sequence[Utterance], distractors: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """The keywords of each row, and so many of other rows that are not said in it."""
    draw, every = random.Random(seed), sorted({keyword for row in rows for keyword in row.keywords})
    lists = []
    for row in rows:
        spoken = phrases(row.text, row.language or "en", longest_keyword(every))
        others = [each for each in every if normalised_keyword(each, row.language or "en") not in spoken]
        lists.append((list(row.keywords), draw.sample(others, min(distractors, len(others)))))
    return lists


def picture(scores: dict[float, WeightScore], path: Path) -> None:
    """PNG of recall, and of what nobody said, over the weight."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, recall = pyplot.subplots(figsize=(6.5, 3.2), layout="constrained")
    weights = list(scores)
    recall.plot(weights, [100 * score.recall for score in scores.values()], "o-", color="#0b6e4f")
    recall.set(xlabel="weight (0: no keywords)", ylim=(0, 100))
    recall.set_ylabel("% of said keywords recognized", color="#0b6e4f")
    alarms = recall.twinx()
    rates = [1000 * score.false_alarms / max(1, score.unsaid) for score in scores.values()]
    alarms.plot(weights, rates, "s--", color="#b3261e")
    alarms.set_ylim(0, max(10.0, 1.1 * max(rates)))
    alarms.set_ylabel("written of 1,000 that nobody said", color="#b3261e")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a manifest whose rows have keywords")
    parser.add_argument("--split", help="which rows")
    parser.add_argument("--distractors", type=int, default=20, help="keywords of others in the list of each row")
    parser.add_argument("--weights", nargs="+", type=float, default=list(WEIGHTS), help="above 0, up to 10")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="PNG of the table")
    given = parser.parse_args()
    rows = [row for row in read_manifest(given.data, split=given.split) if row.text and row.keywords]
    model, scores, errors = load_model(given.model), dict[float, WeightScore](), dict[float, list[Errors]]()
    for row, (own, others) in zip(rows, lists_of(rows, given.distractors, given.seed), strict=True):
        wave, language = clip(audio.load(row.audio), row), row.language or "en"
        said, unsaid = ({normalised_keyword(each, language) for each in some} for some in (own, others))
        for weight in (0.0, *sorted(given.weights)):
            keywords = [f"{each} :{weight:g}" for each in (*own, *others)] if weight else []
            text = model.transcribe(wave, keywords=keywords).text
            scores.setdefault(weight, WeightScore()).add(said, unsaid, text, language)
            pairs = align_words(normalised(row.text, language), normalised(text, language))
            errors.setdefault(weight, []).append(count_errors(pairs))
    print(f"{len(rows)} utterances, {given.distractors} others named in each")
    print("weight  recall  not said, written   WER")
    for weight, score in scores.items():
        false = f"{score.false_alarms} of {score.unsaid}"
        print(f"{weight:6g}  {100 * score.recall:5.1f} %  {false:>17s}  {100 * total(errors[weight]).rate:5.1f} %")
    if given.picture is not None:
        picture(scores, given.picture)


if __name__ == "__main__":
    main()
