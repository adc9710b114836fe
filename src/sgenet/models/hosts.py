"""Networks without attention, by name: ours, timm's and torchvision's."""

from __future__ import annotations

import fnmatch
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from sgenet.errors import CheckpointError, ConfigError, UnknownNameError, did_you_mean
from sgenet.models.resnet_cifar import CifarResNet
from sgenet.models.selective_kernel import use_selective_kernels

__all__ = ["HOSTS", "create_host", "zoo_names"]

_IMAGENET_DEPTHS = (18, 34, 50, 101, 152)
_CIFAR_DEPTHS = (8, 11, 20, 32, 56)
_RESNEXTS = {"resnext50_32x4d": (3, 4, 6, 3), "resnext101_32x4d": (3, 4, 23, 3)}

HOSTS = (
    *(f"resnet{d}" for d in _IMAGENET_DEPTHS),
    *(f"resnet{d}_cifar" for d in _CIFAR_DEPTHS),
    *_RESNEXTS,
)
"""Names of our own hosts."""


def create_host(
    name: str, num_classes: int, *, pretrained: bool, options: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """Build a network without attention.

    Args:
        name: One of `HOSTS`, `timm:NAME` or `torchvision:NAME`.
        num_classes: Outputs of the classifier.
        pretrained: Load the zoo's weights; the classifier is left random where its size differs.
        options: Keyword arguments: `stem` ("imagenet" or "small") and torchvision's own for `resnet*` and `resnext*`,
            `stem_stride` for `*_cifar`, the zoo's own otherwise. For all of them `selective_kernel`: a mapping of
            options of the convolutions that it replaces.

    Returns:
        The network, and the options that build it without pretrained weights: `options`, and what the weights ask for,
        e.g. `transform_input` of torchvision's Inception.

    Raises:
        UnknownNameError: If the name is unknown.
        ConfigError: If an option is wrong, or there are no such pretrained weights, or they do not fit the options.
        CheckpointError: If the weights cannot be downloaded.
    """
    if num_classes < 1:
        raise ConfigError(f"num_classes={num_classes} must be 1 or more")
    if options.get("selective_kernel") is not None:
        if pretrained:
            raise ConfigError(f"there are no pretrained weights for '{name}' with 'sk'; leave out pretrained")
        rest = {k: v for k, v in options.items() if k != "selective_kernel"}
        host, _ = _host(name, num_classes, False, rest)
        return use_selective_kernels(host, options["selective_kernel"]), options
    return _host(name, num_classes, pretrained, options)


def _host(name: str, num_classes: int, pretrained: bool, options: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    zoo, _, rest = name.rpartition(":")
    if zoo == "timm":
        return _timm(rest, num_classes, pretrained, options), options
    if zoo == "torchvision":
        return _torchvision(rest, num_classes, pretrained, options)
    if name not in HOSTS:
        raise UnknownNameError(f"there is no network '{name}'.{did_you_mean(name, HOSTS)}")
    if name.endswith("_cifar"):
        return _cifar(name, num_classes, pretrained, options), options
    return _resnet(name, num_classes, pretrained, options), options


def zoo_names(zoo: str, pattern: str) -> list[str]:
    """Names of a zoo's networks that match a glob pattern, with the zoo's prefix.

    Args:
        zoo: "timm" or "torchvision".
        pattern: Glob pattern without the prefix.

    Returns:
        Sorted names, e.g. "timm:resnet50".
    """
    known = _import_timm().list_models() if zoo == "timm" else torchvision.models.list_models(torchvision.models)
    return sorted(f"{zoo}:{n}" for n in known if fnmatch.fnmatchcase(n, pattern))


def _cifar(name: str, num_classes: int, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    if pretrained:
        raise ConfigError(f"there are no pretrained weights for '{name}'; leave out pretrained and train it")
    _check_options(name, options, ["stem_stride"])
    return CifarResNet(int(re.sub(r"\D", "", name)), num_classes, **options)


def _resnet(name: str, num_classes: int, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    own = ["zero_init_residual", "replace_stride_with_dilation", "norm_layer"]
    _check_options(name, options, ["stem", *own, *([] if name in _RESNEXTS else ["groups", "width_per_group"])])
    stem = options.get("stem", "imagenet")
    if stem not in ("imagenet", "small"):
        raise ConfigError(f"stem='{stem}' is not possible; use 'imagenet' (7x7, stride 2, max-pool) or 'small'")
    if pretrained and stem == "small":
        raise ConfigError("there are no pretrained weights for stem='small'; leave out one of the two")
    rest = {k: v for k, v in options.items() if k != "stem"}
    if name == "resnext101_32x4d":  # torchvision has the class, but neither the name nor weights
        model = _resnext(name, num_classes, pretrained, rest)
    else:
        model, _ = _torchvision(name, num_classes, pretrained, rest)
    if stem == "small":
        conv = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        model.conv1 = conv
        model.maxpool = nn.Identity()
    return model


def _resnext(name: str, num_classes: int, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    if pretrained:
        raise ConfigError(f"torchvision has no pretrained weights for '{name}'; timm has: use 'timm:{name}'")
    layers = list(_RESNEXTS[name])
    model: nn.Module = ResNet(Bottleneck, layers, num_classes=num_classes, groups=32, width_per_group=4, **options)
    return model


def _check_options(name: str, options: dict[str, Any], known: list[str]) -> None:
    for option in options:
        if option not in known:
            raise ConfigError(
                f"network '{name}' has no option '{option}'.{did_you_mean(option, known)} Known: {', '.join(known)}"
            )


def _torchvision(
    name: str, num_classes: int, pretrained: bool, options: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    known = torchvision.models.list_models(torchvision.models)
    if name not in known:
        raise UnknownNameError(f"torchvision has no classification network '{name}'.{did_you_mean(name, known)}")
    if not pretrained:
        return _without_weights(name, num_classes, options), options
    weights = torchvision.models.get_model_weights(name).DEFAULT
    with _one_line(f"torchvision's {name}", options, f"torchvision's {weights}"):
        # By torchvision's own builder, which knows old names of tensors and what else the weights ask for.
        model: nn.Module = torchvision.models.get_model_builder(name)(weights=weights, **options)
    classes = len(weights.meta["categories"])
    options = options | _asked_by_weights(model, name, classes, options)
    if num_classes == classes:
        return model, options
    return _but_classifier(_without_weights(name, num_classes, options), model.state_dict()), options


def _without_weights(name: str, num_classes: int, options: dict[str, Any]) -> nn.Module:
    builder = torchvision.models.get_model_builder(name)
    if any(p in inspect.signature(builder).parameters for p in ("aux_logits", "transform_input")):
        options = {"init_weights": True, **options}  # silences a warning about a default that will change
    with _one_line(f"torchvision's {name}", options):
        model: nn.Module = builder(weights=None, num_classes=num_classes, **options)
    return model


def _asked_by_weights(model: nn.Module, name: str, num_classes: int, options: dict[str, Any]) -> dict[str, Any]:
    """The constructor's options that torchvision set for the weights' sake, e.g. an image size."""
    with torch.device("meta"):
        plain = vars(_without_weights(name, num_classes, options))
    values = {option: vars(model).get(option) for option in inspect.signature(type(model)).parameters}
    return {
        option: value
        for option, value in values.items()
        if isinstance(value, bool | int | float | str) and value != plain.get(option)
    }


def _but_classifier(model: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    """The network with these weights, but for tensors whose shape the number of classes changed."""
    own = model.state_dict()
    model.load_state_dict({key: v if v.shape == own[key].shape else own[key] for key, v in state.items()})
    return model


@contextmanager
def _one_line(network: str, options: dict[str, Any], weights: str | None = None) -> Iterator[None]:
    """One line instead of the many that a zoo raises for wrong options, or for weights that it cannot get or use."""
    try:
        yield
    except TypeError as error:
        raise ConfigError(f"{network} does not take {options}: {error}") from error
    except (AttributeError, KeyError, OSError, RuntimeError, ValueError) as error:
        if weights is None or isinstance(error, ConfigError):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if isinstance(error, OSError) or (isinstance(error, RuntimeError) and "loading state_dict" not in reason):
            # no network, no such address, no space; or a wrong checksum
            raise CheckpointError(
                f"{weights} cannot be had: {reason}; try again where the network reaches them, or leave out pretrained"
            ) from error
        raise ConfigError(f"{weights} do not fit {options}: {reason}; leave out the options, or pretrained") from error


def _import_timm() -> Any:  # noqa: ANN401  # a module without types
    try:
        import timm
    except ImportError as error:
        raise ConfigError("timm's networks need timm; install sgenet[train]") from error
    return timm


def _timm(name: str, num_classes: int, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    timm = _import_timm()
    if not timm.is_model(name):
        raise UnknownNameError(f"timm has no network '{name}'.{did_you_mean(name, timm.list_models())}")
    if pretrained and not timm.is_model_pretrained(name):
        raise ConfigError(f"timm has no pretrained weights for '{name}'; leave out pretrained")
    with _one_line(f"timm's {name}", options, f"timm's weights of {name}" if pretrained else None):
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **options)
    return model
