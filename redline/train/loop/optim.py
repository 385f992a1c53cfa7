"""Optimizers and learning-rate schedule of a training run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from redline.errors import ConfigError
from redline.threads import multiplies_bf16

NOT_HIDDEN = ("embed", "emb.", "input_linear", "out.", "out_mid", "out_bpe", "query", "positions")
"""Parts of the names of matrices at the ends of a model, which Muon does not suit."""

HEADS = frozenset(("out", "out_mid", "out_bpe", "language_head", "punctuation_head"))
"""Parts of the names of output heads."""

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def check_ranges(options: object, names: str, least: float, most: float = math.inf, *, above: bool = False) -> None:
    """Raise `ConfigError` for a field that is not finite, or not from `least` (or above it) to `most`; None is fine."""
    for name in names.split():
        value = getattr(options, name)
        if value is not None and (not math.isfinite(value) or not least <= value <= most or (above and value == least)):
            allowed = f"above {least:g}" if above else f"{least:g} and above"
            upper = f" up to {most:g}" if math.isfinite(most) else ""
            raise ConfigError(f"{name} is {value}; allowed are finite numbers, {allowed}{upper}")


@dataclass(frozen=True)
class TrainingOptions:
    """How long and how fast to train; the learning rate rises, stays, then falls to a floor."""

    steps: int = 10_000  # 0 leaves the stage out, where a recipe can do without it
    lr: float = 1e-3
    head_lr: float = 0.0  # that of the output heads, new ones beside a trained body; it rises and falls with lr; 0: lr
    warmup_steps: int = 300
    decay_share: float = 0.35  # share of the steps, the last ones, over which the learning rate falls
    decay: Literal["linear", "cosine"] = "linear"  # in a straight line, or along half a cosine, slowly at both ends
    floor: float = 0.01  # last learning rate as a share of the peak
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon for hidden matrices; every other tensor stays with AdamW
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0  # largest norm of the gradient
    accumulate: int = 1  # batches of each process that make one update
    precision: Literal["no", "bf16"] = "bf16"  # mixed precision; float32 on a CPU that has no instructions for it
    average_decay: float = 0.998  # of the moving average (EMA) of the weights, which is evaluated and exported
    log_every: int = 25
    evaluate_every: int = 500
    save_every_s: float = 240.0
    keep_best: str = ""  # name of a score: the weights with the lowest are kept, and left in the objective at the end
    patience: int = 0  # stop after so many evaluations without a lower keep_best; 0 goes on to the last step
    seed: int = 0
    tensorboard: bool = False  # whether the log is also written for TensorBoard, beside it

    def __post_init__(self) -> None:
        choices = {"optimizer": ("adamw", "muon"), "decay": ("linear", "cosine"), "precision": ("no", "bf16")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; allowed are {allowed[0]!r} and {allowed[1]!r}")
        check_ranges(self, "steps lr head_lr warmup_steps patience weight_decay floor", 0)
        check_ranges(self, "accumulate log_every evaluate_every", 1)
        check_ranges(self, "decay_share average_decay", 0, 1)
        check_ranges(self, "clip", 0, above=True)
        if self.patience and not self.keep_best:
            raise ConfigError("patience needs keep_best, the name of the score that should fall")

    def uses_bf16(self, device: torch.device) -> bool:
        """Whether a device computes in bfloat16."""
        return self.precision == "bf16" and (device.type != "cpu" or multiplies_bf16())


def learning_rate(step: int, options: TrainingOptions) -> float:
    """The learning rate of one step: linear warm-up, a plateau, a fall to the floor over the last `decay_share`."""
    rise = min(1.0, (step + 1) / max(1, options.warmup_steps))
    decay_steps = max(1.0, options.decay_share * options.steps)
    fall = min(1.0, max(0.0, (options.steps - step) / decay_steps))
    if options.decay == "cosine":
        fall = 0.5 * (1.0 - math.cos(math.pi * fall))
    return options.lr * rise * (options.floor + (1.0 - options.floor) * fall)


def optimizers(module: nn.Module, options: TrainingOptions) -> list[torch.optim.Optimizer]:
    """AdamW over everything that learns, or Muon over the hidden matrices and AdamW over the rest."""
    hidden: list[Tensor] = []
    decayed: dict[float, list[Tensor]] = {1.0: []}  # by their share of the learning rate
    vectors: dict[float, list[Tensor]] = {1.0: []}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        is_head = options.head_lr > 0 and not HEADS.isdisjoint(name.split("."))
        share = options.head_lr / options.lr if is_head else 1.0
        if parameter.ndim < 2:
            vectors.setdefault(share, []).append(parameter)
        elif parameter.ndim == 2 and options.optimizer == "muon" and not any(part in name for part in NOT_HIDDEN):
            hidden.append(parameter)
        else:
            decayed.setdefault(share, []).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": decay, "lr_share": share}
        for kind, decay in ((decayed, options.weight_decay), (vectors, 0.0))
        for share, parameters in kind.items()
    ]
    adamw = torch.optim.AdamW(groups, lr=options.lr, betas=options.betas, fused=True)
    return [adamw, Muon(hidden, options.lr, options.weight_decay)] if hidden else [adamw]


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix [M, N] with its singular values brought near one, by a quintic Newton-Schulz iteration."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.float() if matrix.device.type == "cpu" else matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Muon: momentum whose updates of matrices are made orthogonal (Jordan et al. 2024; scale of arXiv 2502.16982).

    Steps are as large as AdamW's, so that both share a learning rate. PyTorch's own computes in bfloat16 everywhere,
    which processors without instructions for it emulate many times slower than float32; this one takes bfloat16 on
    accelerators alone. State and update are otherwise the same.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.01, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                momentum = state["momentum_buffer"].lerp_(parameter.grad, 1.0 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(momentum, group["momentum"]))
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                scale = 0.2 * math.sqrt(max(parameter.shape))
                parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * scale)
