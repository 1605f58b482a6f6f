"""How a model is trained: settings, the published optimiser and the learning-rate schedule (paper, Section 4.2)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TrainingSettings:
    """The recipe; the defaults are the paper's for WikiText-103."""

    optimizer: str = "nag"
    """nag, as published, or adamw"""
    lr: float = 1.0
    min_lr: float = 1e-4
    warmup: int = 16000
    """updates of linear warm-up"""
    updates: int = 286000
    tokens_per_update: int = 73728
    """over all devices and accumulation steps"""
    tokens_per_batch: int = 3072
    """in one forward pass on one device"""
    block: int = 3072
    """the token stream is cut every `block` tokens"""
    clip_norm: float = 0.1
    weight_decay: float = 0.0
    precision: str = "float32"
    """of the matrix products: float32, bfloat16, or float16 (on a GPU)"""
    evaluate_every: int = 2000
    """updates between two points of the learning curve"""
    save_every: float = 600.0
    """seconds between two saves of the resume state"""
    train_tokens: int | None = None
    """train on the first so many tokens only; all of them by default"""
    stop_loss: float = 0.0
    """stop once the training loss (nats per token) is below this"""
    keep: str = "best"
    """best: the weights with the lowest dev loss; last: the final ones"""
    deterministic: bool = False
    """a training resumed on GPUs ends with the very same weights, as it always does on a CPU; slower"""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("optimizer", ("nag", "adamw")),
            ("precision", ("float32", "bfloat16", "float16")),
            ("keep", ("best", "last")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r}: use {' or '.join(allowed)}")
        if self.tokens_per_update % self.tokens_per_batch or self.tokens_per_batch % self.block:
            raise ValueError(
                f"tokens_per_update {self.tokens_per_update}, tokens_per_batch {self.tokens_per_batch} and block "
                f"{self.block}: each must be a multiple of the next"
            )


def cosine(update: int, warmup: int, updates: int, lr: float, min_lr: float, warmup_init_lr: float = 1e-7) -> float:
    """Learning rate after `update` updates: linear warm-up, then one cosine from lr down to min_lr."""
    if update < warmup:
        return warmup_init_lr + (lr - warmup_init_lr) * update / warmup
    progress = min((update - warmup) / max(updates - warmup, 1), 1.0)
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * progress))


class NAG(torch.optim.Optimizer):
    """Nesterov momentum as published: the velocity is rescaled whenever the learning rate changes.

    With momentum m, gradient g and c = lr / lr_previous: p += m²·c·buf − (1 + m)·lr·g, then buf = m·c·buf − lr·g.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.99) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "lr_previous": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            correction = lr / group["lr_previous"] if group["lr_previous"] > 0 else lr
            group["lr_previous"] = lr
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            gradients = [p.grad for p in params]
            for p in params:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum_buffer"] for p in params]
            torch._foreach_mul_(buffers, momentum * correction)
            torch._foreach_add_(params, buffers, alpha=momentum)
            torch._foreach_add_(params, gradients, alpha=-(1 + momentum) * lr)
            torch._foreach_add_(buffers, gradients, alpha=-lr)


def optimizer(parameters: Iterable[Tensor], recipe: TrainingSettings) -> torch.optim.Optimizer:
    if recipe.optimizer == "nag":
        return NAG(parameters, cosine(0, recipe.warmup, recipe.updates, recipe.lr, recipe.min_lr))
    return torch.optim.AdamW(parameters, recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True)
