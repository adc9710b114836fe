"""Which parameters decay, and the optimiser over them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from sgenet.attention import Attention
from sgenet.classification.config import TrainConfig

__all__ = ["create_optimizer", "create_plateau", "decay_groups"]

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []),
)


def decay_groups(
    network: nn.Module, rule: Literal["all", "no-bias", "no-norm", "no-norm-bias"]
) -> tuple[list[str], list[str]]:
    """Sort the parameters that are trained by whether weight decay applies to them.

    - `all`: every parameter decays.
    - `no-bias`: all but those whose own name is `bias` or ends in `_bias` or `.bias`. SGE's β is one of them, its γ is
      not: so does the fast variant of the SGE authors' code.
    - `no-norm`: all but the parameters of normalisation layers, weights and biases, and those that an attention module
      holds itself, like SGE's γ and β, which scale and shift a normalised map. Convolutions and linear layers inside
      an attention module, like SE's, decay.
    - `no-norm-bias`: all but those that either of the two leaves out.

    Args:
        network: The network.
        rule: One of the above.

    Returns:
        Names of the parameters that decay, and of those that do not, each in the network's order.

    Examples:
        >>> from sgenet.models import create_model
        >>> network = create_model("sge_resnet8_cifar", num_classes=10)
        >>> decay, keep = decay_groups(network, "no-norm")
        >>> "layer1.0.bn2.weight" in keep, "fc.bias" in keep, sum("conv" in name for name in decay)
        (True, False, 7)
    """
    decay: list[str] = []
    keep: list[str] = []
    spares_bias, spares_norm = rule.endswith("bias"), rule.startswith("no-norm")
    for name, parameter, owner in _owned_parameters(network):
        if not parameter.requires_grad:
            continue
        left_out = (spares_bias and _is_bias(name)) or (spares_norm and _is_norm(owner))
        (keep if left_out else decay).append(name)
    return decay, keep


def create_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of a training.

    Args:
        network: The network.
        config: `optimizer`, `lr`, `momentum`, `nesterov`, `weight_decay` and `decay`.

    Returns:
        SGD or AdamW, with one group of parameters that decay and, where the rule leaves some out, one of the others.

    Examples:
        >>> optimizer = create_optimizer(nn.Linear(2, 2), TrainConfig(weight_decay=0.1, decay="no-bias"))
        >>> [group["weight_decay"] for group in optimizer.param_groups]
        [0.1, 0.0]
    """
    parameters = dict(network.named_parameters())
    decay, keep = decay_groups(network, config.decay)
    groups = [
        {"params": [parameters[name] for name in names], "weight_decay": amount}
        for names, amount in ((decay, config.weight_decay), (keep, 0.0))
        if names
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def create_plateau(
    optimizer: torch.optim.Optimizer, config: TrainConfig
) -> torch.optim.lr_scheduler.ReduceLROnPlateau | None:
    """The plateau schedule, stepped with each epoch's validation loss; None for the other schedules."""
    if config.schedule != "plateau":
        return None
    return torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        factor=config.gamma,
        patience=config.patience,
        min_lr=config.lr * config.gamma**config.drops,
        eps=0.0,  # torch's 1e-8 would swallow the last drop of a small rate
    )


def _owned_parameters(network: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """Each parameter once, with the module that holds it."""
    seen: set[int] = set()
    for prefix, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{prefix}.{name}" if prefix else name, parameter, module


def _is_bias(name: str) -> bool:
    own = name.rpartition(".")[2]
    return own == "bias" or own.endswith("_bias")


def _is_norm(owner: nn.Module) -> bool:
    return isinstance(owner, (*_NORMS, Attention))
