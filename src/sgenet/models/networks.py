"""Networks with and without attention, by name, and the description from which one can be built again."""

from __future__ import annotations

import fnmatch
from typing import Any

from torch import nn

from sgenet.attention import list_attention
from sgenet.errors import CheckpointError, ConfigError, UnknownNameError, did_you_mean
from sgenet.models.hosts import HOSTS, create_host, zoo_names
from sgenet.surgery import AttentionReport, attach_recorded, attention_report, insert_attention

__all__ = ["build", "create_model", "describe", "list_models"]

_HOST_ATTRIBUTE = "host_description"


def create_model(name: str, num_classes: int = 1000, pretrained: bool = False, **options: Any) -> nn.Module:  # noqa: ANN401
    """Build a network by name.

    `se_` or `sge_` before one of our names puts that attention into every residual branch, after the last BN and
    before the sum. ResNet-18 and -34 keep SGE's 64 groups in stages of 64 channels, as the paper's code does; in other
    networks `groups` and SE's `reduction` are adapted to each place, and `sgenet.surgery.attention_report(model)` tells
    how.

    Args:
        name: A name from `list_models()`, or `timm:NAME`, or `torchvision:NAME`.
        num_classes: Outputs of the classifier.
        pretrained: Load the host's weights from torchvision or timm, and start attention so that the output is kept.
            An error where there are none. The classifier is random where `num_classes` is not the weights'.
        **options: `attention` and `attention_options` put attention into a name without prefix; `stem` ("imagenet", or
            "small": 3x3 with stride 1 and no max-pool) for `resnet*`; `stem_stride` (1 or 2) for `*_cifar`; anything
            else goes to the host's own constructor.

    Returns:
        The network, in training mode.

    Raises:
        UnknownNameError: If the name is unknown; the message suggests a near one.
        ConfigError: If an option is wrong, or there are no pretrained weights.
        CheckpointError: If the weights cannot be downloaded.

    Source:
        Hosts: arXiv 1512.03385. Places: arXiv 1905.09646, section 3; arXiv 1709.01507, figure 3.

    Examples:
        >>> model = create_model("sge_resnet50")
        >>> sum(p.numel() for p in model.parameters())
        25559080
    """
    attention = options.pop("attention", None)
    attention_options = dict(options.pop("attention_options", None) or {})
    host, prefix = _split(name)
    if attention == "none":
        attention = None
    if prefix is not None and attention not in (None, prefix):
        raise ConfigError(f"'{name}' has '{prefix}' already; ask for '{host}' with attention='{attention}'")
    attention = prefix or attention
    if attention is None and attention_options:
        raise ConfigError(f"attention_options={attention_options} need attention; give one of {list_attention()}")
    model = create_host(host, num_classes, pretrained=pretrained, options=options)
    setattr(model, _HOST_ATTRIBUTE, {"name": host, "num_classes": num_classes, "options": options})
    if attention is not None:
        fit = host not in ("resnet18", "resnet34")  # the paper's code has groups of one channel there
        insert_attention(model, attention, attention_options, keep_output=pretrained, fit=fit)
    return model


def list_models(pattern: str = "*") -> list[str]:
    """Names for `create_model`.

    Args:
        pattern: Glob pattern. `timm:PATTERN` and `torchvision:PATTERN` list those zoos.

    Returns:
        Sorted names.

    Examples:
        >>> list_models("*resnet50")
        ['resnet50', 'se_resnet50', 'sge_resnet50']
    """
    zoo, _, rest = pattern.rpartition(":")
    if zoo in ("timm", "torchvision"):
        return zoo_names(zoo, rest)
    return sorted(n for n in _names() if fnmatch.fnmatchcase(n, pattern))


def describe(model: nn.Module) -> dict[str, Any]:
    """What is needed to build the same network again, as JSON-able values.

    Args:
        model: A network from `create_model`, or any network; of another one only the attention is described.

    Returns:
        `host` (name, num_classes, options; or None) and `attention` (the surgery's report; or None).

    Examples:
        >>> describe(create_model("resnet18", num_classes=10))
        {'host': {'name': 'resnet18', 'num_classes': 10, 'options': {}}, 'attention': None}
    """
    report = attention_report(model)
    return {
        "host": getattr(model, _HOST_ATTRIBUTE, None),
        "attention": None if report is None else report.to_dict(),
    }


def build(description: dict[str, Any], host: nn.Module | None = None) -> nn.Module:
    """Build a network from its description, with random weights.

    Args:
        description: From `describe`.
        host: The host network, where the description does not know how to build it; changed in place.

    Returns:
        The network, in training mode.

    Raises:
        CheckpointError: If the host is not described and not given.

    Examples:
        >>> type(build(describe(create_model("sge_resnet20_cifar", num_classes=10)))).__name__
        'CifarResNet'
    """
    if host is None:
        known = description.get("host")
        if known is None:
            raise CheckpointError("the checkpoint does not say how its network is built; give it as model=...")
        host = create_host(known["name"], known["num_classes"], pretrained=False, options=known["options"])
        setattr(host, _HOST_ATTRIBUTE, known)
    if description.get("attention") is not None:
        attach_recorded(host, AttentionReport.from_dict(description["attention"]))
    return host


def _names() -> list[str]:
    return [*HOSTS, *(f"{attention}_{host}" for attention in ("se", "sge") for host in HOSTS)]


def _split(name: str) -> tuple[str, str | None]:
    """`sge_resnet50` into host and attention."""
    if ":" in name or name in HOSTS:
        return name, None
    if name not in _names():
        hint = (
            did_you_mean(name, _names()) or " `sgenet models` lists the names; timm:NAME and torchvision:NAME work too."
        )
        raise UnknownNameError(f"there is no network '{name}'.{hint}")
    attention, _, host = name.partition("_")
    return host, attention
