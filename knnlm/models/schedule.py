"""How a model is trained: the published optimiser and the learning-rate schedule (paper, Section 4.2)."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from knnlm.settings import TrainingSettings


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
