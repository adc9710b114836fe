"""What a benchmark measures, checked before any work starts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from sgenet.errors import ConfigError, did_you_mean

__all__ = ["DTYPES", "LAYOUTS", "MODES", "MODULES", "BenchSettings"]

MODES = ("infer", "train")
DTYPES = ("float32", "bfloat16", "float16")
LAYOUTS = ("channels_last", "contiguous")
MODULES = ("sge", "se")  # those that are one operator, and so have a fused and an unfused form

_OF_NETWORKS = ("model", "attention", "mode", "size", "compile", "optimize", "freeze")


@dataclass(frozen=True)
class BenchSettings:
    """What is measured, and how.

    Attributes:
        model: A network by name, as `sgenet.create_model` takes it.
        attention: Modules to put into it. None for the one in the network's name, or else SGE and SE.
        module: Measure this module by itself instead of a network.
        mode: "infer": a forward pass; "train": forward and backward.
        dtype: For inference the network is cast to it; in training its parameters stay in float32, and the forward pass
            runs under autocast.
        batch: Images.
        size: Their side, pixels.
        layout: Memory format of network and input.
        compile: Compare what torch.compile makes of the networks.
        optimize: Send each network, the plain one too, through `sgenet.optimize` before.
        freeze: Let inductor treat the weights as constants.
        device: "auto" for a CUDA device where there is one.
        pairs: Rounds, each of which measures every network once.
        seconds: Rounds stop after this time; at least five are measured.

    Raises:
        ConfigError: If a value is not possible, alone or with another.

    Examples:
        >>> BenchSettings(mode="train", dtype="bfloat16").batch
        8
    """

    model: str = "resnet50"
    attention: tuple[str, ...] | None = None
    module: str | None = None
    mode: Literal["infer", "train"] = "infer"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch: int = 8
    size: int = 224
    layout: Literal["channels_last", "contiguous"] = "channels_last"
    compile: bool = False
    optimize: bool = False
    freeze: bool = False
    device: str = "auto"
    pairs: int = 30
    seconds: float = 150.0

    def __post_init__(self) -> None:
        for name, known in (("mode", MODES), ("dtype", DTYPES), ("layout", LAYOUTS)):
            _check_known(name, getattr(self, name), known)
        for name, least in (("batch", 1), ("size", 1), ("pairs", 5)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least {least}")
        if not self.seconds > 0:
            raise ConfigError(f"time={self.seconds:g} must be above 0 seconds")
        if self.attention is not None and not self.attention:
            raise ConfigError("no attention is named; give some, e.g. sge,se")
        if self.module is not None:
            self._check_module(self.module)
        if self.freeze and not self.compile:
            raise ConfigError("freeze is a setting of the compiler; give --compile too")
        if self.mode == "train" and (self.optimize or self.freeze):
            taken = "optimize" if self.optimize else "freeze"
            raise ConfigError(f"{taken} makes constants of what a training changes; leave it out, or take mode infer")

    def _check_module(self, module: str) -> None:
        _check_known("module", module, MODULES)
        usual = {field.name: field.default for field in fields(self)}
        changed = [name for name in _OF_NETWORKS if getattr(self, name) != usual[name]]
        if changed:
            raise ConfigError(
                f"module={module} is measured by itself, in both passes and at sizes of its own, which leaves nothing "
                f"for {', '.join(changed)}; leave out one or the other"
            )


def _check_known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(
            f"{name}='{value}' is not known.{did_you_mean(value, known)} Choose one of {', '.join(known)}"
        )
