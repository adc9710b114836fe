"""Pictures for the report: samples of the data, and what the groups of SGE look at."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgenet.attention import SpatialGroupEnhance

if TYPE_CHECKING:
    from sgenet.data.source import ImageSource

__all__ = ["Gallery", "MaskColumn", "MaskRow", "Sample", "data_samples", "group_masks", "mask_gallery"]

_OVERLAY = 0.6  # share of the mask's colour in the blend; the rest is the image in grey


@dataclass(frozen=True)
class Sample:
    """A few images of one class.

    Attributes:
        name: The class.
        images: Data URIs.
    """

    name: str
    images: tuple[str, ...]


@dataclass(frozen=True)
class MaskColumn:
    """A group of channels whose mask the gallery shows.

    Attributes:
        site: Name of the block that the SGE module is in.
        group: Number of the group, from 0.
        size: Height and width of the mask before it is enlarged.
        weight: The group's γ.
        lower: Least gate over the images shown.
        upper: Greatest gate over the images shown.
    """

    site: str
    group: int
    size: tuple[int, int]
    weight: float
    lower: float
    upper: float


@dataclass(frozen=True)
class MaskRow:
    """One validation image with the masks over it.

    Attributes:
        index: Number of the image in the validation set.
        label: Its class.
        predicted: What the network says.
        probability: How sure the network is of that, 0 to 1.
        original: Data URI of the image.
        masks: Data URIs, one a column.
    """

    index: int
    label: str
    predicted: str
    probability: float
    original: str
    masks: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """Validation images with the masks of a few groups.

    Attributes:
        run: Name of the run the network comes from.
        columns: The groups.
        rows: The images.
        bar: Data URI of the colour scale, least value left.
    """

    run: str
    columns: tuple[MaskColumn, ...]
    rows: tuple[MaskRow, ...]
    bar: str


def data_samples(source: ImageSource, each: int = 4) -> tuple[Sample, ...]:
    """The first images of every class.

    Args:
        source: Images.
        each: How many of each class.

    Returns:
        One entry a class, in the order of the classes.
    """
    return tuple(
        Sample(name, tuple(_png(source.load(i)) for i in _of_class(source, label, each)))
        for label, name in enumerate(source.classes)
    )


def _of_class(source: ImageSource, label: int, number: int) -> list[int]:
    return [int(i) for i in (source.labels == label).nonzero().flatten()[:number]]


@torch.no_grad()
def group_masks(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The masks of every SGE module for a batch of images.

    Args:
        model: A network with `SpatialGroupEnhance` modules; its mode is kept.
        images: Its input, (B, 3, H, W).

    Returns:
        By the module's name, masks of shape (B, G, H', W').

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), SpatialGroupEnhance(8, groups=2))
        >>> {name: tuple(masks.shape) for name, masks in group_masks(net, torch.randn(1, 3, 6, 6)).items()}
        {'1': (1, 2, 4, 4)}
    """
    masks: dict[str, Tensor] = {}

    def keep_into(name: str, module: SpatialGroupEnhance) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            masks[name] = module.masks(inputs[0]).float()

        return keep

    handles = [module.register_forward_pre_hook(keep_into(name, module)) for name, module in _sites(model).items()]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return masks


def _sites(model: nn.Module) -> dict[str, SpatialGroupEnhance]:
    return {n: m for n, m in model.named_modules() if isinstance(m, SpatialGroupEnhance)}


def mask_gallery(
    model: nn.Module,
    source: ImageSource,
    to_input: Callable[[Tensor], Tensor],
    *,
    run: str,
    images: int = 5,
    groups_each: int = 2,
) -> Gallery:
    """Lay the masks of the most selective groups over validation images.

    Each image is the first of its class, so that nobody chose it; of every module those groups are shown whose masks
    vary most over the positions of these images.

    Args:
        model: A network with `SpatialGroupEnhance` modules, in eval mode.
        source: Validation images.
        to_input: Makes the network's input of a uint8 batch.
        run: Name of the run the network comes from.
        images: Rows, at most one a class; of more classes some are left out, evenly.
        groups_each: Columns of each module.

    Returns:
        The gallery.
    """
    firsts = [i for label in range(len(source.classes)) for i in _of_class(source, label, 1)]
    rows_shown = min(images, len(firsts))
    chosen = [firsts[row * len(firsts) // rows_shown] for row in range(rows_shown)]
    batch = torch.stack([source.load(i) for i in chosen])
    inputs = to_input(batch)
    masks = group_masks(model, inputs)
    with torch.no_grad():
        probabilities, predicted = model(inputs).float().softmax(1).max(1)
    columns, shown, sites = [], [], _sites(model)
    for site, values in masks.items():
        varying = values.flatten(2).std(2).mean(0)
        for group in varying.topk(min(groups_each, values.shape[1])).indices.sort().values.tolist():
            one = values[:, group]
            columns.append(_column(sites[site], site, group, one))
            shown.append(one)
    rows = tuple(
        MaskRow(
            index=index,
            label=source.classes[int(source.labels[index])],
            predicted=source.classes[int(predicted[row])],
            probability=float(probabilities[row]),
            original=_png(batch[row]),
            masks=tuple(_overlay(batch[row], m[row], c) for m, c in zip(shown, columns, strict=True)),
        )
        for row, index in enumerate(chosen)
    )
    return Gallery(run, tuple(columns), rows, _png(_colours(torch.linspace(0, 1, 256)[None].expand(12, -1))))


def _column(module: SpatialGroupEnhance, site: str, group: int, masks: Tensor) -> MaskColumn:
    height, width = masks.shape[-2:]
    weight = float(module.weight.detach().flatten()[group])
    name = site.removesuffix(".attention")  # the block says enough where its attribute has the usual name
    return MaskColumn(name, group, (height, width), weight, float(masks.min()), float(masks.max()))


def _overlay(image: Tensor, mask: Tensor, column: MaskColumn) -> str:
    """The mask in colour over the image in grey; the column's range takes the whole colour scale."""
    share = (mask - column.lower) / max(column.upper - column.lower, 1e-6)
    fitted = F.interpolate(share[None, None], size=image.shape[-2:], mode="bilinear", align_corners=False)
    grey = (image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
    blend = _OVERLAY * _colours(fitted[0, 0]).float() + (1 - _OVERLAY) * grey
    return _png(blend.round().clamp(0, 255).to(torch.uint8))


def _colours(values: Tensor) -> Tensor:
    """Viridis: equal steps of the value are equal steps for the eye, in grey and for the colour-blind too."""
    from matplotlib import colormaps

    table = torch.tensor(colormaps["viridis"].colors)  # type: ignore[attr-defined]
    picked = table[(values.clamp(0, 1) * (len(table) - 1)).round().long()]
    return (picked * 255).round().to(torch.uint8).movedim(-1, 0)


def _png(image: Tensor) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.movedim(0, -1).cpu().contiguous().numpy()).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
