"""Several processes that learn together, as a launcher starts them.

They are forked from a server that has imported everything and computed nothing: what the process that tests has done
before, with threads that a fork would not have, is none of their business.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState

PATIENCE_S = 300.0


def run_processes(count: int, function: Callable[..., None], *arguments: Any, **variables: str) -> None:
    """Call a function in so many processes of one group, as a launcher starts them; raises what one of them raised.

    `variables` are further environment variables of the processes.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["redline.train.finetune", "lhotse", "accelerate"])
    errors = context.SimpleQueue()
    group = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    processes = [
        context.Process(
            target=_in_process,
            args=(function, arguments, group | variables | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, errors),
        )
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
        process.kill()  # it waits for one that ended
        process.join()
    assert not any(process.exitcode for process in processes), errors.get() if not errors.empty() else "killed"


def _in_process(function: Callable[..., None], arguments: Any, variables: Mapping[str, str], errors: Any) -> None:
    faulthandler.dump_traceback_later(0.8 * PATIENCE_S)
    os.environ.update(variables)
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    try:
        function(*arguments)
        torch.distributed.destroy_process_group()
    except BaseException:
        errors.put(traceback.format_exc())
        raise
