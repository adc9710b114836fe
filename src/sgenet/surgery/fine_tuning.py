"""Fine-tuning a network with attention: which parameters are trained, how fast, and which of them decay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from torch import nn

from sgenet.attention import Attention
from sgenet.errors import ConfigError, did_you_mean

__all__ = ["Decay", "classifier_names", "decay_groups", "freeze_host", "hold_statistics", "parameter_groups"]

Decay = Literal["all", "no-bias", "no-norm", "no-norm-bias"]

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []),
)


def parameter_groups(
    model: nn.Module,
    lr: float,
    *,
    attention_lr: float = 1.0,
    weight_decay: float = 0.0,
    decay: Decay = "no-norm-bias",
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimiser: the host's, then attention's, each with and without weight decay.

    Parameters that need no gradient are in none, and groups that would be empty are left out. Where attention has the
    host's learning rate, the two share their groups.

    Args:
        model: The network.
        lr: Learning rate of the host.
        attention_lr: What it is multiplied by for the parameters of attention modules.
        weight_decay: Of the parameters that decay.
        decay: Which ones do, as `decay_groups`.

    Returns:
        Dictionaries with `params`, `lr` and `weight_decay`.

    Raises:
        ConfigError: If a number is out of range, the rule is unknown, or no parameter needs a gradient.

    Examples:
        >>> import torch
        >>> from sgenet.surgery import add_attention
        >>> model = add_attention(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), "se", modules="1")
        >>> groups = parameter_groups(model, 0.01, attention_lr=10, weight_decay=0.1)
        >>> [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups]
        [(0.01, 0.1, 1), (0.01, 0.0, 1), (0.1, 0.1, 2), (0.1, 0.0, 2)]
        >>> optimizer = torch.optim.SGD(groups, momentum=0.9)
    """
    for name, value in {"lr": lr, "attention_lr": attention_lr}.items():
        if not value > 0:
            raise ConfigError(f"{name}={value} must be above 0; use freeze_host or requires_grad to train less")
    if weight_decay < 0:
        raise ConfigError(f"weight_decay={weight_decay} must be 0 or more")
    decaying, others = decay_groups(model, decay)
    parameters = dict(model.named_parameters())
    attention = set() if attention_lr == 1 else _attention_parameters(model)
    groups = [
        {"params": [parameters[name] for name in names], "lr": rate, "weight_decay": amount}
        for rate, of_attention in ((lr, False), (lr * attention_lr, True))
        for all_names, amount in ((decaying, weight_decay), (others, 0.0))
        if (names := [name for name in all_names if (name in attention) is of_attention])
    ]
    if not groups:
        raise ConfigError(f"no parameter of this {type(model).__name__} needs a gradient, so there is nothing to train")
    return groups


def decay_groups(network: nn.Module, rule: Decay) -> tuple[list[str], list[str]]:
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

    Raises:
        ConfigError: If there is no such rule.

    Examples:
        >>> from sgenet.attention import create_attention
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), create_attention("sge", 8, groups=2))
        >>> decay_groups(network, "no-norm")
        (['0.weight', '0.bias'], ['1.weight', '1.bias', '2.weight', '2.bias'])
    """
    if rule not in get_args(Decay):
        raise ConfigError(
            f"decay='{rule}' is not possible.{did_you_mean(rule, get_args(Decay))} Known: {', '.join(get_args(Decay))}"
        )
    decay: list[str] = []
    keep: list[str] = []
    spares_bias, spares_norm = rule.endswith("bias"), rule.startswith("no-norm")
    for name, parameter, owner in _owned_parameters(network):
        if not parameter.requires_grad:
            continue
        left_out = (spares_bias and _is_bias(name)) or (spares_norm and _is_norm(owner))
        (keep if left_out else decay).append(name)
    return decay, keep


def freeze_host(model: nn.Module, *, keep: str | Sequence[str] = ()) -> nn.Module:
    """Let only attention learn: every other parameter needs no gradient any more.

    The batch norms of the host still count statistics in train mode; call `hold_statistics` after `model.train()` to
    leave these alone too.

    Args:
        model: A network with attention; changed in place.
        keep: Parts of the host that learn too, as glob patterns of modules or parameters: `classifier_names(model)` for
            a new classifier, or "layer4".

    Returns:
        `model`.

    Raises:
        ConfigError: If the network has no attention of ours, or a pattern names nothing in it.

    Examples:
        >>> from sgenet.surgery import add_attention
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> model = freeze_host(add_attention(model, "sge", modules="1"), keep="4")
        >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        ['1.attention.weight', '1.attention.bias', '4.weight', '4.bias']
    """
    if not any(isinstance(module, Attention) for module in model.modules()):
        raise ConfigError(
            f"this {type(model).__name__} has no attention that could learn; add it before freezing the host"
        )
    learning = _attention_parameters(model)
    names = [name for name, _ in model.named_parameters()]
    for pattern in [keep] if isinstance(keep, str) else keep:
        kept = [name for name in names if _is_within(name, pattern)]
        if not kept:
            raise ConfigError(f"keep='{pattern}' names no parameter and no module with parameters of the network")
        learning.update(kept)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learning)
    return model


def hold_statistics(model: nn.Module) -> nn.Module:
    """Put the batch norms of a frozen host in eval mode, so that their running statistics stay.

    Batch norms inside attention modules and those with a parameter that learns are left in the mode that they have.
    `model.train()` undoes it.

    Args:
        model: A network that `freeze_host` was called on; changed in place.

    Returns:
        `model`.

    Examples:
        >>> model = nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(8))
        >>> _ = model[0].requires_grad_(False)
        >>> [norm.training for norm in hold_statistics(model)]
        [False, True]
    """
    inside = {inner for module in model.modules() if isinstance(module, Attention) for inner in module.modules()}
    for module in model.modules():
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm) and module not in inside
        if is_norm and not any(parameter.requires_grad for parameter in module.parameters()):
            module.eval()
    return model


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the layers that give the classes' scores.

    Args:
        model: A classifier.

    Returns:
        What timm's description of the network says; else the last linear layer or convolution outside of attention, and
        the one of `classifier` before that of an `aux_classifier`, as torchvision's segmenters have them.

    Raises:
        ConfigError: If the network has neither.

    Examples:
        >>> import torchvision
        >>> classifier_names(torchvision.models.resnet18())
        ('fc',)
    """
    said = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    names = (said,) if isinstance(said, str) else tuple(said)
    modules = dict(model.named_modules())
    if names and all(name in modules and any(True for _ in modules[name].parameters()) for name in names):
        return names
    attention = [f"{name}." for name, module in modules.items() if isinstance(module, Attention)]
    layers = [
        name
        for name, module in modules.items()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and not name.startswith(tuple(attention))
    ]
    if not layers:
        raise ConfigError(f"{type(model).__name__} has no linear layer and no convolution that could be its classifier")
    main = [name for name in layers if name.partition(".")[0] == "classifier"]
    auxiliary = layers[-1].partition(".")[0] == "aux_classifier"
    return (*(main[-1:] if auxiliary else ()), layers[-1])


def _attention_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters inside attention modules."""
    inside = {id(p) for module in model.modules() if isinstance(module, Attention) for p in module.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in inside}


def _is_within(name: str, pattern: str) -> bool:
    """Whether a pattern matches a parameter or one of the modules that hold it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


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
