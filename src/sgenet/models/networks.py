"""Networks with and without attention, by name, and the description from which one can be built again."""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Collection
from typing import Any

from torch import nn

from sgenet.attention import list_attention
from sgenet.errors import CheckpointError, ConfigError, UnknownNameError, did_you_mean
from sgenet.models.hosts import HOSTS, create_host, zoo_names
from sgenet.models.selective_kernel import selective_kernel_options
from sgenet.surgery import AttentionReport, attach_recorded, attention_report, insert_attention
from sgenet.surgery.sites import Position

__all__ = [
    "add_named",
    "build",
    "create_model",
    "describe",
    "list_models",
    "set_host_description",
    "split_name",
    "unwrapped",
]

_ASKED = ("attention", "attention_options", "attention_position", "attention_stages")
_HOST_ATTRIBUTE = "host_description"

# Who builds the hosts that are no classifiers: a function `build_host` there, which takes the description. The module
# is of a higher floor, so it is imported only where a description asks for it.
_FAMILIES = {"detector": "sgenet.detection.detectors"}
_PREFIXES = ("bam", "cbam", "eca", "gc", "ge", "se", "sge", "simam", "sk", "srm")
_POSITIONS: dict[str, Position] = {"bam": "stage"}  # where the module's paper puts it, if not at the branch's end


def create_model(name: str, num_classes: int = 1000, pretrained: bool = False, **options: Any) -> nn.Module:  # noqa: ANN401
    """Build a network by name.

    The name of an attention module before one of our names, as in `sge_resnet50`, puts it into every residual branch,
    after the last BN and before the sum; `bam_` goes behind every stage but the last, and `ge_` is the variant without
    parameters over the whole map. ResNet-18 and -34 keep SGE's 64 groups in stages of 64 channels, as the paper's code
    does; in other networks `groups` and `reduction` are adapted to each place, and
    `sgenet.surgery.attention_report(model)` tells how. `sk_` replaces a 3x3 convolution in every block, so it is a part
    of the host and in no report.

    Args:
        name: A name from `list_models()`, or `timm:NAME`, or `torchvision:NAME`.
        num_classes: Outputs of the classifier.
        pretrained: Load the host's weights from torchvision or timm, and start attention so that the output is kept.
            An error where there are none. The classifier is random where `num_classes` is not the weights'.
        **options: `attention` puts attention into a name without prefix, `attention_options` are the module's own, and
            `attention_position` is another place than the module's usual one, `attention_stages` only some stages, see
            `sgenet.add_attention`; `stem`
            ("imagenet", or "small": 3x3 with stride 1 and no max-pool) for `resnet*` and `resnext*`; `stem_stride` (1
            or 2) for `*_cifar`; anything else goes to the host's own constructor.

    Returns:
        The network, in training mode.

    Raises:
        UnknownNameError: If the name is unknown; the message suggests a near one.
        ConfigError: If an option is wrong, or there are no pretrained weights, or they do not fit the options.
        CheckpointError: If the weights cannot be downloaded.

    Source:
        Hosts: arXiv 1512.03385, arXiv 1611.05431. Places: arXiv 1905.09646, section 3; arXiv 1709.01507, figure 3;
        BAM's: arXiv 1807.06514, figure 1.

    Examples:
        >>> model = create_model("sge_resnet50")
        >>> sum(p.numel() for p in model.parameters())
        25559080
    """
    asked = {key: options.pop(key, None) for key in _ASKED}
    host, attention = split_name(name, asked["attention"])
    _check_needs(attention, asked)
    module_options = dict(asked["attention_options"] or {})
    if attention == "sk":
        options["selective_kernel"] = selective_kernel_options(module_options)
    model, options = create_host(host, num_classes, pretrained=pretrained, options=options)
    set_host_description(model, {"name": host, "num_classes": num_classes, "options": options})
    if attention not in (None, "sk"):
        place = {"position": asked["attention_position"], "stages": asked["attention_stages"]}
        add_named(model, host, attention, module_options, **place, keep_output=pretrained)
    return model


def list_models(pattern: str = "*") -> list[str]:
    """Names for `create_model`.

    Args:
        pattern: Glob pattern. `timm:PATTERN` and `torchvision:PATTERN` list those zoos.

    Returns:
        Sorted names.

    Examples:
        >>> list_models("s*_resnet50")
        ['se_resnet50', 'sge_resnet50', 'simam_resnet50', 'sk_resnet50', 'srm_resnet50']
    """
    zoo, _, rest = pattern.rpartition(":")
    if zoo in ("timm", "torchvision"):
        return zoo_names(zoo, rest)
    return sorted(n for n in _names() if fnmatch.fnmatchcase(n, pattern))


def describe(model: nn.Module) -> dict[str, Any]:
    """What is needed to build the same network again: JSON-able values, if the options given to it are.

    Args:
        model: A network from `create_model`, or any network; of another one only the attention is described. Compiled,
            or in `DataParallel` or `DistributedDataParallel`, it is the network within.

    Returns:
        `host` (name, num_classes, options; or None; where it is no classifier, its family too) and `attention` (the
        surgery's report; or None).

    Examples:
        >>> describe(create_model("resnet18", num_classes=10))
        {'host': {'name': 'resnet18', 'num_classes': 10, 'options': {}}, 'attention': None}
    """
    model = unwrapped(model)
    report = attention_report(model)
    return {
        "host": getattr(model, _HOST_ATTRIBUTE, None),
        "attention": None if report is None else report.to_dict(),
    }


def unwrapped(model: nn.Module) -> nn.Module:
    """The network within what `torch.compile`, `DataParallel` and `DistributedDataParallel` return.

    Examples:
        >>> network = create_model("resnet8_cifar", 10)
        >>> unwrapped(nn.DataParallel(network)) is network
        True
    """
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    compiled = dict(model.named_children()).get("_orig_mod")
    return model if compiled is None else unwrapped(compiled)


def set_host_description(model: nn.Module, description: dict[str, Any]) -> None:
    """Keep with a network what it can be built from without attention; `describe` calls it `host`.

    Args:
        model: The network.
        description: JSON-able: `name`, `num_classes`, `options` and, where it is no classifier, `family`.
    """
    setattr(model, _HOST_ATTRIBUTE, description)


def build(description: dict[str, Any], host: nn.Module | None = None) -> nn.Module:
    """Build a network from its description, with random weights.

    Args:
        description: From `describe`.
        host: The host network, where the description does not know how to build it; changed in place.

    Returns:
        The network, in training mode.

    Raises:
        CheckpointError: If the host is not described and not given, or is of a family that nobody here knows.
        ConfigError: If it is no description, but a name for example.

    Examples:
        >>> type(build(describe(create_model("sge_resnet20_cifar", num_classes=10)))).__name__
        'CifarResNet'
    """
    if not isinstance(description, dict):
        raise ConfigError(
            f"build takes a description, as describe(model) returns it, not {description!r}; "
            "a network of a name is made by create_model(name)"
        )
    if host is None:
        known = description.get("host")
        if known is None:
            raise CheckpointError("the checkpoint does not say how its network is built; give it as model=...")
        host = _build_host(known)
    if description.get("attention") is not None:
        attach_recorded(host, AttentionReport.from_dict(description["attention"]))
    return host


def _build_host(description: dict[str, Any]) -> nn.Module:
    family = description.get("family")
    if family is None:
        options = description["options"]
        host, _ = create_host(description["name"], description["num_classes"], pretrained=False, options=options)
    elif family in _FAMILIES:
        host = importlib.import_module(_FAMILIES[family]).build_host(description)
    else:
        raise CheckpointError(f"the checkpoint is of a '{family}', which this version cannot build; update sgenet")
    set_host_description(host, description)
    return host


def add_named(
    model: nn.Module,
    host: str,
    attention: str,
    options: dict[str, Any],
    position: Position | None = None,
    stages: int | Collection[int] | None = None,
    *,
    keep_output: bool = False,
) -> nn.Module:
    """Put attention into a host as its name promises.

    Args:
        model: The host; changed in place.
        host: Its name.
        attention: Name of the module, not "sk".
        options: The module's.
        position: None for where the module's paper puts it.
        stages: Only these; None for all.
        keep_output: Start as the identity.

    Returns:
        `model`.

    Raises:
        UnknownNameError, ConfigError: As `sgenet.add_attention`.
    """
    fit = host not in ("resnet18", "resnet34")  # the paper's code has groups of one channel there
    position = position or _POSITIONS.get(attention, "residual")
    return insert_attention(
        model, attention, options, keep_output=keep_output, fit=fit, position=position, stages=stages
    )


def split_name(name: str, asked: str | None = None) -> tuple[str, str | None]:
    """The host and the attention that a name means.

    Args:
        name: As `create_model`.
        asked: Attention that was asked for beside the name.

    Returns:
        The host's name, and the attention's or None.

    Raises:
        UnknownNameError: If there is no such network.
        ConfigError: If the name has other attention than what was asked for.

    Examples:
        >>> split_name("sge_resnet50"), split_name("timm:resnet50", "se")
        (('resnet50', 'sge'), ('timm:resnet50', 'se'))
    """
    asked = None if asked == "none" else asked
    if name.startswith("timm:") and name.removeprefix("timm:") in _names() and name.removeprefix("timm:") not in HOSTS:
        raise ConfigError(f"'{name}' is a network of sgenet itself; ask for '{name.removeprefix('timm:')}'")
    if ":" in name or name in HOSTS:
        return name, asked
    if name not in _names():
        hint = (
            did_you_mean(name, _names()) or " `sgenet models` lists the names; timm:NAME and torchvision:NAME work too."
        )
        raise UnknownNameError(f"there is no network '{name}'.{hint}")
    attention, _, host = name.partition("_")
    if asked not in (None, attention):
        raise ConfigError(f"'{name}' has '{attention}' already; ask for '{host}' with attention='{asked}'")
    return host, attention


def _names() -> list[str]:
    return [*HOSTS, *(f"{attention}_{host}" for attention in _PREFIXES for host in HOSTS)]


def _check_needs(attention: str | None, asked: dict[str, Any]) -> None:
    """What is said of attention needs some, and what is said of its place needs one that is put into a place."""
    for option in _ASKED[1:]:
        if attention is None and asked[option]:
            raise ConfigError(f"{option}={asked[option]} need attention; give one of {[*list_attention(), 'sk']}")
    for option in ("attention_position", "attention_stages"):
        if attention == "sk" and asked[option]:
            raise ConfigError(
                f"{option}={asked[option]!r} is not possible with 'sk', which replaces convolutions; leave it out"
            )
