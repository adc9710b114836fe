"""Whole networks beside each other: plain, with attention, and with attention in unfused form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import FunctionType

import torch
from torch import Tensor, nn

from sgenet.attention import SpatialGroupEnhance
from sgenet.bench.failure import explained
from sgenet.bench.result import BenchRow
from sgenet.bench.settings import MODULES, BenchSettings
from sgenet.errors import ConfigError, UnknownNameError
from sgenet.models import create_model
from sgenet.models.networks import split_name
from sgenet.ops.backends import use_backend
from sgenet.timing import compare_latency, inference_step, peak_memory, training_step

__all__ = ["draw_weights", "network_rows"]

_USUAL = ("sge", "se")
_AGAIN = "plain again"
_WARMUP = 3


def network_rows(settings: BenchSettings, progress: Callable[[str, float], object]) -> list[BenchRow]:
    """Compare the forms of a network.

    Args:
        settings: What to measure, with a device.
        progress: Called with what is being done and the share that is done.

    Returns:
        A row for each form, each compared with the plain network.
    """
    host, steps = _steps(settings)
    for number, (name, step) in enumerate(steps.items()):
        progress(f"{'compiling' if settings.compile else 'preparing'} {name}", number / len(steps))
        with explained(f"{host} ({name})", settings):
            step()
    with explained(host, settings):
        ratios = compare_latency(
            steps["plain"],
            {name: step for name, step in steps.items() if name != "plain"},
            pairs=settings.pairs,
            warmup=_WARMUP,
            budget_seconds=settings.seconds,
            device=settings.device,
            progress=partial(progress, "measuring"),
        )
        peaks = _peaks(steps, settings)
    shape = (settings.batch, 3, settings.size, settings.size)
    most = max(peaks.get("plain", 1), 1)
    return [
        BenchRow(name, "plain", shape, ratio, peaks.get(name), peaks[name] / most if name in peaks else None)
        for name, ratio in ratios.items()
    ]


def draw_weights(module: nn.Module) -> None:
    """Draw the weights of every SGE in a network, so that its gates differ from place to place, as trained ones do."""
    for enhance in module.modules():
        if isinstance(enhance, SpatialGroupEnhance):
            nn.init.normal_(enhance.weight, std=0.5)
            nn.init.normal_(enhance.bias, mean=1.0, std=0.5)


def _steps(settings: BenchSettings) -> tuple[str, dict[str, Callable[[], object]]]:
    """The host's name, and what is timed by form: the plain network first, then a second one, then the others."""
    host, own = split_name(settings.model)
    names = settings.attention or ((own,) if own else _USUAL)
    if own not in (None, *names):
        raise ConfigError(f"'{settings.model}' has '{own}' already; ask for '{host}', or leave attention out")
    layout = torch.channels_last if settings.layout == "channels_last" else torch.contiguous_format
    dtype: torch.dtype = getattr(torch, settings.dtype)
    x = torch.randn(settings.batch, 3, settings.size, settings.size).to(settings.device).to(memory_format=layout)
    x = x if settings.mode == "train" else x.to(dtype)

    def network(attention: str | None) -> nn.Module:
        torch.manual_seed(0)
        with explained(f"{host}", settings):
            model = _created(host, attention)
            draw_weights(model)
            model = model.to(settings.device).to(memory_format=layout).train(settings.mode == "train")
            return model if settings.mode == "train" else model.to(dtype)

    def step(model: nn.Module, form: Callable[[], AbstractContextManager[None]] = nullcontext) -> Callable[[], object]:
        with form():
            return _step(_optimized(model) if settings.optimize else model, x, settings, form)

    steps = {"plain": step(network(None)), _AGAIN: step(network(None))}
    for name in dict.fromkeys(names):
        steps[name] = step(network(name))
        if name in MODULES:
            steps[f"{name} unfused"] = step(network(name), partial(use_backend, "reference"))
    return host, steps


def _created(host: str, attention: str | None) -> nn.Module:
    """The network, where it has the places that the attention is usually put into."""
    try:
        model: nn.Module = create_model(host, attention=attention)
    except UnknownNameError:
        raise
    except ConfigError as error:
        if attention is None:
            raise
        reason = str(error).partition(";")[0]  # behind it, the ways out that a program has
        raise ConfigError(
            f"'{attention}' cannot be put into {host}: {reason}; choose another network, or time a module by itself"
        ) from error
    return model


def _step(
    model: nn.Module, x: Tensor, settings: BenchSettings, form: Callable[[], AbstractContextManager[None]]
) -> Callable[[], object]:
    run: Callable[[Tensor], Tensor] = _compiled(model, freeze=settings.freeze) if settings.compile else model
    autocast = None if settings.dtype == "float32" else getattr(torch, settings.dtype)

    def infer() -> None:
        with form():
            inference_step(run, x)

    def train() -> None:
        with form():
            training_step(model, x, run=run, autocast=autocast)

    return train if settings.mode == "train" else infer


def _optimized(model: nn.Module) -> nn.Module:
    from sgenet.inference import optimize

    optimized: nn.Module = optimize(model)
    return optimized


def _compiled(model: nn.Module, *, freeze: bool) -> Callable[[Tensor], Tensor]:
    """A compiled network that shares nothing with others.

    torch keeps what it compiled by code object and looks through all of it at a call, up to a limit beyond which it
    runs uncompiled; networks of one class have the same code. So each gets a function with a code object of its own.
    """

    def call(x: Tensor) -> Tensor:
        return model(x)  # type: ignore[no-any-return]

    own = FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)
    return torch.compile(own, options={"freezing": True} if freeze else None, dynamic=False)


def _peaks(steps: Mapping[str, Callable[[], object]], settings: BenchSettings) -> dict[str, int]:
    """The memory of a training step, by form; nothing where it is not measured."""
    if settings.mode != "train" or torch.device(settings.device).type not in ("cpu", "cuda"):
        return {}
    return {name: peak_memory(step, settings.device) for name, step in steps.items()}
