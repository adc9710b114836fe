"""The optimiser of a training, and the schedule that watches its losses."""

from __future__ import annotations

import torch
from torch import nn

from sgenet.surgery import parameter_groups
from sgenet.training.settings import TrainingSettings

__all__ = ["create_optimizer", "create_plateau"]


def create_optimizer(network: nn.Module, config: TrainingSettings) -> torch.optim.Optimizer:
    """The optimiser of a training.

    Args:
        network: The network.
        config: `optimizer`, `lr`, `attention_lr`, `momentum`, `nesterov`, `weight_decay` and `decay`.

    Returns:
        SGD or AdamW over the groups of `sgenet.surgery.parameter_groups`, the host's first.

    Examples:
        >>> optimizer = create_optimizer(nn.Linear(2, 2), TrainingSettings(weight_decay=0.1, decay="no-bias"))
        >>> [group["weight_decay"] for group in optimizer.param_groups]
        [0.1, 0.0]
    """
    groups = parameter_groups(
        network,
        config.peak_lr,
        attention_lr=config.attention_lr,
        weight_decay=config.weight_decay,
        decay=config.decay,
    )
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.peak_lr, betas=(config.momentum, 0.999))
    return torch.optim.SGD(groups, lr=config.peak_lr, momentum=config.momentum, nesterov=config.nesterov)


def create_plateau(
    optimizer: torch.optim.Optimizer, config: TrainingSettings
) -> torch.optim.lr_scheduler.ReduceLROnPlateau | None:
    """The plateau schedule, stepped with each epoch's validation loss; None for the other schedules."""
    if config.schedule != "plateau":
        return None
    return torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        factor=config.gamma,
        patience=config.patience,
        min_lr=[group["lr"] * config.gamma**config.drops for group in optimizer.param_groups],
        eps=0.0,  # torch's 1e-8 would swallow the last drop of a small rate
    )
