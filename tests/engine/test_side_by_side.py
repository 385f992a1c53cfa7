"""Decoders side by side, each with threads of its own: every text as alone, and all of a model's requests with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from redline import load_model
from redline.audio import load
from redline.engine.decoder import ContinuousDecoder, SideBySide
from redline.engine.scheduler import BatchOptions
from redline.transcriber import Transcriber
from redline.types import Waveform
from tests.engine.test_decoder import GREEDY, SMALL, asked, model, result, run

JFK = Path(__file__).parents[1] / "data" / "jfk.flac"


@pytest.mark.parametrize("threads", [1, 3])
def test_texts_are_shared_out_and_each_is_as_alone(threads: int) -> None:
    texts = asked(GREEDY, range(3, 11))
    wanted = run(texts, SMALL, None)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        both = SideBySide([ContinuousDecoder(model(), GREEDY, None, SMALL) for _ in range(2)])
        writing, left = [one.text() for one in texts], []
        both.join(writing)
        assert [decoder.count for decoder in both.decoders] == [4, 4] and not both.wants(0) and both.wants(1)
        both.leave(writing[5])
        while both.busy:
            left += both.run(3)
    finally:
        torch.set_num_threads(before)
    assert len(left) == 7 and not any(text is writing[5] for text in left)
    for at, (text, other) in enumerate(zip(writing, wanted, strict=True)):
        assert at == 5 or result(text) == other


def test_a_running_decode_changes_no_text_of_a_model() -> None:
    plus: Any = load_model("tiny-plus", drafts="exact")
    speech = load(JFK).samples
    clips = [Waveform(speech[: 16000 * seconds]) for seconds in (2, 4, 3)]
    texts = []
    for workers in (1, 2):
        transcriber = Transcriber(plus.recognizer, plus.options, BatchOptions(workers=workers))
        texts.append([transcript.to_dict() for transcript in transcriber.transcribe(clips, words=True)])
    assert texts[0] == texts[1]
