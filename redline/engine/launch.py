"""A launch: a function of tensors whose shapes never change, with a stream of its own where the device has streams.

One shape means one compilation, one captured CUDA graph, no shape buckets, memory that is known when a model is
loaded, and the same kernels for a row whoever its neighbours are. A CPU runs the same code, but for the graph and the
stream.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor

_log = logging.getLogger(__name__)
Inputs = Mapping[str, Tensor]
Results = tuple[Tensor, ...]
_Function = TypeVar("_Function", bound=Callable[..., Results])
WARM_UPS = 3  # calls before a capture, in which libraries choose their kernels and take their workspaces


class Compiler(Protocol):
    """Makes a faster function of one."""

    def __call__(self, function: _Function, /) -> _Function: ...


@dataclass(frozen=True)
class LaunchOptions:
    """The fixed shapes of an accelerator, and how they are run."""

    encoder_rows: int = 4096
    """Frames of an encoder launch, those between clips included: 82 s at 50 frames a second."""
    editor_rows: int = 4096
    """Audio embeddings and slots of an editor launch."""
    attention: Literal["biased", "flex"] = "biased"
    """Block attention with its Shaw bias as a tensor, or by flex attention, which reads it where it is added."""
    compiler: Compiler | None = None
    """Compiles the functions of a layer, once for all layers; None runs them as they are."""
    is_captured: bool = True
    """Whether a launch is captured in a CUDA graph, where there is CUDA."""
    in_fp8: bool = False
    """Whether products are in fp8 with a scale for each row of both sides; what that costs in words is not measured."""


DEFAULTS = LaunchOptions()


def compiled(function: _Function) -> _Function:
    """The `Compiler` of PyTorch: one shape, no graph breaks."""
    return cast(_Function, torch.compile(function, fullgraph=True, dynamic=False))


class Launch:
    """A function with its static inputs; callers of several threads take turns."""

    def __init__(
        self, function: Callable[[Inputs], Results], inputs: dict[str, Tensor], is_captured: bool = True
    ) -> None:
        self.inputs = inputs
        self._function = function
        self._lock = threading.Lock()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: Results = ()
        device = next(iter(inputs.values())).device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._stream is not None and is_captured:
            self._capture(self._stream)

    def _capture(self, stream: torch.cuda.Stream) -> None:
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._function(self.inputs)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, stream=stream):
                    self._outputs = self._function(self.inputs)
                self._graph = graph
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                _log.warning("a launch runs without a CUDA graph, which is slower: %s", error)
        torch.cuda.current_stream(stream.device).wait_stream(stream)

    @torch.inference_mode()
    def __call__(self, values: Inputs) -> Results:
        """Write values, pinned where that pays, into the inputs of the same names -> the outputs, the caller's own."""
        stream = self._stream
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(stream.device))
        with self._lock, nullcontext() if stream is None else torch.cuda.stream(stream):
            for name, value in values.items():
                self.inputs[name].copy_(value, non_blocking=True)
            if self._graph is not None:
                self._graph.replay()
                outputs = self._outputs
            else:
                outputs = self._function(self.inputs)
            own = tuple(output.clone() for output in outputs)
        if stream is not None:
            current = torch.cuda.current_stream(stream.device)
            current.wait_stream(stream)
            for output in own:  # its memory may be given to others only when the caller is through with it
                output.record_stream(current)
        return own


@contextmanager
def own_stream() -> Iterator[None]:
    """A CUDA stream for what one thread asks for, so that it does not wait for what others have asked for."""
    if not torch.cuda.is_initialized():
        yield
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


def in_pinned_memory(value: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU from which a CUDA device copies by itself."""
    return value.pin_memory() if device.type == "cuda" and value.device.type == "cpu" else value
