"""A training run under Ray Train: it starts the processes, and starts them again where one of them or its node ends.

Each process is the one that `accelerate launch` would start: Ray Train makes the process group, accelerate finds it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redline.errors import RedlineError, packages_of
from redline.train.loop.distributed import Say
from redline.train.recipe import Recipe
from redline.train.run import Materials, build

_STARTS = 3
"""Of the processes: what was learned before one ended is in the folder of the run."""


@dataclass(frozen=True)
class RayTrainOptions:
    """How many processes learn, and what each takes of its machine."""

    workers: int = 1
    cpus: int = 1
    on_gpus: bool = False
    """Whether each has a GPU."""


def train_on_ray(
    recipe: Recipe, materials: Materials, stages: Sequence[str], options: RayTrainOptions, say: Say
) -> None:
    """`build` in so many processes of the Ray cluster that this one has joined.

    OUT and the data must be on a disk that all of its machines see. Raises what `build` raises in one of them, and
    `RedlineError` where processes end again and again.
    """
    with packages_of("cluster", "redline train --ray"):
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError
    places = {name: value.absolute() for name, value in vars(materials).items() if hasattr(value, "absolute")}
    given = {"recipe": recipe, "materials": replace(materials, **places), "stages": list(stages), "options": options}
    resources = {"CPU": options.cpus, **({"GPU": 1} if options.on_gpus else {})}
    _tell_what_is_missing(resources, options.workers, say)
    scaling = ScalingConfig(num_workers=options.workers, use_gpu=options.on_gpus, resources_per_worker=resources)
    config = RunConfig(name="ray", storage_path=str(materials.out.absolute()))
    for left in reversed(range(_STARTS)):
        try:
            TorchTrainer(_process, train_loop_config=given, scaling_config=scaling, run_config=config).fit()
            return
        except TrainingFailedError as error:
            failures = list(getattr(error, "worker_failures", {}).values())
            for failure in failures:
                cause = getattr(failure, "cause", failure)
                if isinstance(cause, RedlineError):
                    raise cause from error
            reason = (str(failures[0] if failures else error).strip() or "no reason").splitlines()[-1]
            if not left:
                raise RedlineError(f"processes of the training have ended {_STARTS} times: {reason:.300}") from error
            say(f"a process of the training has ended ({reason:.300}); all begin again from the state saved last")


def _tell_what_is_missing(resources: Mapping[str, int], workers: int, say: Say) -> None:
    """Ray waits without a word for what a cluster does not have: it may be growing."""
    import ray

    there = ray.cluster_resources() if ray.is_initialized() else {}
    for name, each in resources.items() if there else ():
        if (room := int(there.get(name, 0))) < workers * each:
            needs = f"{workers} processes need {workers * each} {name}, and the cluster has {room}"
            say(f"{needs}: training begins when it has them (or --workers {max(1, room // each)})")


def _process(given: dict[str, Any]) -> None:
    """One process of the run, where Ray has started it."""
    from redline.threads import use

    options: RayTrainOptions = given["options"]
    use(options.cpus)
    if not options.on_gpus:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    build(given["recipe"], given["materials"], given["stages"], lambda line: print(line, flush=True))
