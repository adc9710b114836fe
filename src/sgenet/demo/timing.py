"""Time the networks of a demonstration beside each other, once; the folder's record keeps the result."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from sgenet.demo.plan import PLAIN, read_record, write_record
from sgenet.timing import Ratio, latency_ratio

if TYPE_CHECKING:
    from sgenet.classification.config import TrainConfig

__all__ = ["Times", "timed"]

_IMAGES = 64
_MODES: tuple[Literal["infer", "train"], ...] = ("infer", "train")


@dataclasses.dataclass(frozen=True)
class Times:
    """How long the networks take.

    Attributes:
        infer: Forward pass, by network.
        train: Forward and backward pass, by network.
        method: How they were measured, in words.
    """

    infer: dict[str, Ratio]
    train: dict[str, Ratio]
    method: str


def timed(output: Path, models: Mapping[str, nn.Module], config: TrainConfig, rounds: int) -> Times:
    """The times from the folder's record, measured first where it holds none.

    Args:
        output: Folder of the demonstration.
        models: Trained networks by name.
        config: Settings of one of the runs, for the size and layout of the images.
        rounds: Rounds of the measurement.

    Returns:
        Ratios to the plain network.
    """
    record = read_record(output) or {}
    if "latency" not in record:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        size = (_IMAGES, 3, config.image_size, config.image_size)
        x = torch.randn(size, device=device).to(memory_format=layout)
        placed = {name: _placed(model, device, layout) for name, model in models.items()}
        times = {m: latency_ratio(placed, x, baseline=PLAIN, pairs=rounds, mode=m) for m in _MODES}
        record["latency"] = {m: {name: dataclasses.asdict(r) for name, r in times[m].items()} for m in _MODES}
        record["timing"] = (
            f"Batches of {_IMAGES} images in float32{', channels last,' if config.channels_last else ''} on "
            f"{'the CPU' if device.type == 'cpu' else 'a GPU'}; each of {rounds} rounds times every network, in "
            f"rotating order, all in one process. The plain network took {1e3 * times['infer'][PLAIN].seconds:.3g} ms "
            f"forward, {1e3 * times['train'][PLAIN].seconds:.3g} ms forward and backward."
        )
        write_record(output, record)
    infer, train = ({name: Ratio(**r) for name, r in record["latency"][mode].items()} for mode in _MODES)
    return Times(infer, train, record["timing"])


def _placed(model: nn.Module, device: torch.device, layout: torch.memory_format) -> nn.Module:
    placed = copy.deepcopy(model).to(device)
    return placed.to(memory_format=layout)
