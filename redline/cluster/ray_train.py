"""Training on Ray: processes on whichever machines are free, and all of them again when one ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from redline.cluster.ray_start import RayOptions, ray_package, start_ray
from redline.errors import RedlineError, packages_of

RESTARTS = 3
"""After so many a run is given up; each goes on from the last state that was saved."""


def train_on_ray(train: Callable[[], None], out: Path, options: RayOptions) -> None:
    """Run a function in `options.workers` processes that are one process group of PyTorch (nccl, gloo on CPUs).

    Each has a GPU, or `worker_cpus` CPUs where there is none; without a number of workers there are as many as GPUs, or
    machines. `out` is a folder that all machines see. Raises what the function raises, and `RedlineError`.
    """
    start_ray(options, shows_output=True)
    with packages_of("cluster", "redline train --ray"):
        from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
        from ray.train.torch import TorchTrainer
    ray = ray_package()
    gpus = int(ray.cluster_resources().get("GPU", 0))
    on_gpus = bool(gpus) if options.on_gpus is None else options.on_gpus
    workers = options.workers or (gpus if on_gpus else sum(bool(node["Alive"]) for node in ray.nodes()))
    cpus = options.worker_cpus or 1
    trainer = TorchTrainer(
        partial(_train, train, cpus, on_gpus),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=on_gpus, resources_per_worker={"CPU": cpus}),
        run_config=RunConfig(storage_path=str(out / "ray"), failure_config=FailureConfig(max_failures=RESTARTS)),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        raise _first_cause(error.worker_failures.values()) or RedlineError(f"training on Ray: {error}") from error


def _train(train: Callable[[], None], cpus: int, on_gpus: bool) -> None:
    """In each process: accelerate takes what Ray has set up."""
    if not on_gpus:
        os.environ["ACCELERATE_USE_CPU"] = "true"
        import torch

        torch.set_num_threads(cpus)
    train()


def _first_cause(failures: Iterable[Exception]) -> RedlineError | None:
    """The error of ours among what the processes raised, which Ray has wrapped."""
    causes = (getattr(failure, "_base_exc", failure) for failure in failures)
    return next((cause for cause in causes if isinstance(cause, RedlineError)), None)
