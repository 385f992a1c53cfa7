"""FSDP2: under `accelerate launch --use_fsdp` each process holds its share of every parameter.

Shards are made here and not by accelerate, whose own way leaves out CPUs and cannot place the buffers of a batch norm.
A shard is a DTensor; whatever makes it whole is a collective, so every process has to come to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from redline.errors import ConfigError
from redline.models.conformer import ConformerBlock
from redline.models.granite import Block
from redline.train.loop.distributed import accelerator, is_first_process
from redline.train.loop.optim import TrainingOptions

SHARDED_LAYERS = (Block, ConformerBlock)
"""Layers that are whole one at a time; everything else is whole from a forward pass to the end of the backward pass."""


def sharding(options: TrainingOptions) -> bool:
    """Whether the processes of this run were started with `--use_fsdp`; raises `ConfigError` for what does not work."""
    from accelerate.utils import FullyShardedDataParallelPlugin, parse_flag_from_env
    from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule

    if not parse_flag_from_env("ACCELERATE_USE_FSDP") or not torch.distributed.is_initialized():
        return False
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise ConfigError(f"FSDP needs a newer PyTorch than {torch.__version__}; 2.13 is known to do")
    plugin = FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise ConfigError(f"FSDP version is {plugin.fsdp_version}; only 2 is supported: add --fsdp_version 2")
    if plugin.activation_checkpointing:
        raise ConfigError("FSDP asks for activation checkpointing, which would draw other dropout; leave it out")
    if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
        raise ConfigError("FSDP asks to keep parameters on the CPU, which is not supported; leave offloading out")
    if options.optimizer == "muon":
        raise ConfigError(
            "optimizer is 'muon', which needs whole matrices, and FSDP splits them; "
            'set optimizer = "adamw" and an lr to go with it, or start without --use_fsdp'
        )
    return True


def shard(module: nn.Module) -> None:
    """Split the parameters of a module, which begins as the first process has it, over all processes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for tensor in module.state_dict().values():
        torch.distributed.broadcast(tensor, 0)
    runner = accelerator()
    mesh = init_device_mesh(runner.device.type, (runner.num_processes,))
    for part in module.modules():
        if isinstance(part, SHARDED_LAYERS):
            fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)
    # A batch of drafts alone leaves the projector without a gradient, in one process and not in another.
    cast(Any, module).set_reduce_scatter_unused_params(True)


@contextmanager
def unsharded(module: Any) -> Iterator[None]:
    """Lets parts of a module be called by themselves, as they are in evaluation; changes nothing without shards."""
    is_sharded = hasattr(module, "unshard")
    if is_sharded:
        module.unshard()
    yield
    if is_sharded:
        module.reshard()


def full_tensors(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors put together from their shards, one after the other; only the first process keeps them."""
    first, full = is_first_process(), {}
    for name, tensor in tensors.items():
        gathered = tensor.full_tensor().cpu() if hasattr(tensor, "full_tensor") else tensor
        if first:
            full[name] = gathered
    return full


def placed_like(full: Tensor, target: Any) -> Tensor:
    """A whole tensor that every process has -> the same beside the target, or the shard of it where that is one."""
    full = full.to(target.device)
    if not hasattr(target, "placements"):
        return full
    from torch.distributed.tensor import distribute_tensor

    placed = distribute_tensor(full, target.device_mesh, target.placements, src_data_rank=None)
    return placed.clone()  # not a view, which would keep the whole tensor alive
