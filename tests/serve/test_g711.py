"""G.711 is decoded as FFmpeg decodes it."""

from __future__ import annotations

import io
from typing import Literal

import av
import numpy as np
import pytest

from redline.serve.g711 import decode_g711


@pytest.mark.parametrize(("format", "law"), [("mulaw", "mu"), ("alaw", "a")])
def test_every_code_is_the_sample_of_the_standard(format: str, law: Literal["mu", "a"]) -> None:
    codes = bytes(range(256)) * 32
    with av.open(io.BytesIO(codes), format=format, options={"sample_rate": "8000"}) as container:
        frames = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
    assert np.array_equal(np.concatenate(frames), decode_g711(codes, law))
