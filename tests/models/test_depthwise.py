"""Depthwise convolutions of any width: none hangs, and each is the plain sum."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from redline.models.conformer import depthwise

CODE = """
import torch
from redline.models.conformer import depthwise
torch.set_num_threads(2)
for channels in (8, 16, 24, 32, 48, 72, 80, 136, 144, 208, 272, 512, 528):
    for length in (20, 46, 64, 100, 398):
        x, weight = torch.randn(1, length, channels), torch.randn(channels, 1, 15)
        with torch.inference_mode():
            depthwise(x.bfloat16(), weight.bfloat16(), torch.zeros(channels).bfloat16())
print("done")
"""


def test_no_number_of_channels_hangs_in_bfloat16() -> None:
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and run.stdout == "done\n", run.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [8, 72, 128])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_depthwise_convolution_is_the_plain_one(channels: int, stride: int, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(channels)
    x, weight = torch.randn(2, 30, channels, generator=draw), torch.randn(channels, 1, 15, generator=draw)
    bias = torch.randn(channels, generator=draw)
    x, weight, bias = (each.to(dtype) for each in (x, weight, bias))
    wanted = torch.nn.functional.conv1d(
        x.double().mT, weight.double(), bias.double(), stride=stride, padding=7, groups=channels
    ).mT
    with torch.inference_mode():
        ours = depthwise(x, weight, bias, stride=stride, padding=7)
    assert ours.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(ours.double(), wanted, atol=tolerance, rtol=tolerance)
