"""Pictures of what a detector found, made to be read: boxes, names, scores and masks on the image."""

from __future__ import annotations

import bisect
import colorsys
import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor
from torch.nn import functional as F

from sgenet.errors import ConfigError

__all__ = ["Objects", "class_colour", "draw_objects", "truth_and_prediction"]

_Colour: TypeAlias = tuple[int, int, int]
_Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont

# Okabe and Ito, "Color universal design", 2008: colour-blind readers tell them apart too. Black is left out.
_TOLD_APART: tuple[_Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
_GOLDEN = (math.sqrt(5) - 1) / 2
_LIGHTNESS = (0.42, 0.66, 0.54)
_INK: _Colour = (0, 0, 0)
_PAPER: _Colour = (255, 255, 255)

_WIDER_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "Arial Unicode.ttf",
    "Arial.ttf",
    "msyh.ttc",
)
_SMALLEST = 600  # pixels: images with a shorter longer side are enlarged
_LETTERS = 42  # letter heights in the side of a square as large as the picture
_OPACITY = 0.35  # of masks


@dataclass(frozen=True, eq=False)
class Objects:
    """Objects in an image, true ones or found ones: N of them.

    Attributes:
        boxes: float (N, 4): left, top, right, bottom in pixels of the image.
        labels: int (N,): positions in the names of the classes.
        scores: float (N,); None for true objects.
        masks: bool (N, H, W); None where there are none.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor | None = None
    masks: Tensor | None = None

    @classmethod
    def of_detector(
        cls, found: Mapping[str, Tensor], *, threshold: float = 0.5, mask_threshold: float = 0.5
    ) -> Objects:
        """What a detector found, or should find, by torchvision's convention.

        Args:
            found: boxes float (N, 4); labels int (N,), counted from 1; perhaps scores float (N,); perhaps masks:
                probabilities (N, 1, H, W), or pixels (N, H, W). On any device.
            threshold: Objects with lower scores are left out.
            mask_threshold: A pixel belongs to an object if its probability is above this.

        Returns:
            The objects on the CPU, the best first where there are scores.

        Examples:
            >>> found = {"boxes": torch.zeros(2, 4), "labels": torch.tensor([1, 3]), "scores": torch.tensor([0.3, 0.9])}
            >>> Objects.of_detector(found).labels
            tensor([2])
        """
        own = {name: found[name].detach().cpu() for name in ("boxes", "labels", "scores", "masks") if name in found}
        if "scores" in own:
            order = own["scores"].argsort(descending=True, stable=True)
            order = order[own["scores"][order] >= threshold]
            own = {name: values[order] for name, values in own.items()}
        if "masks" in own and own["masks"].dim() == 4:
            own["masks"] = own["masks"][:, 0] > mask_threshold
        return cls(own["boxes"].float(), own["labels"] - 1, own.get("scores"), own.get("masks"))


def class_colour(label: int) -> _Colour:
    """The colour of a class, the same in every picture.

    Args:
        label: Position of the class, from 0 on.

    Returns:
        Red, green, blue; 0 to 255. The first seven are told apart by colour-blind readers too.

    Examples:
        >>> class_colour(0)
        (230, 159, 0)
    """
    if label < len(_TOLD_APART):
        return _TOLD_APART[label]
    place = label - len(_TOLD_APART)
    parts = colorsys.hls_to_rgb((0.78 + place * _GOLDEN) % 1, _LIGHTNESS[place % 3], 0.75)
    red, green, blue = (round(255 * part) for part in parts)
    return red, green, blue


def draw_objects(image: Tensor, objects: Objects, classes: Sequence[str]) -> Tensor:
    """Draw boxes, names, scores and masks on an image.

    Lines and letters grow with the image, and an image of less than 600 pixels is enlarged by a whole number. Every
    line has a dark seam and every name a plate, so that they can be seen on any ground; plates keep out of each other's
    way and stay inside the image.

    Args:
        image: uint8 (3, H, W), RGB; it stays as it is.
        objects: What to draw; where they overlap, the first are on top.
        classes: Names of the classes.

    Returns:
        uint8 (3, k * H, k * W), k = 1 for images that are not enlarged.

    Raises:
        ConfigError: If the image has another form, or an object a label without a name.

    Examples:
        >>> image = torch.zeros(3, 100, 160, dtype=torch.uint8)
        >>> dog = Objects(torch.tensor([[10.0, 10, 80, 90]]), torch.tensor([0]), torch.tensor([0.93]))
        >>> draw_objects(image, dog, ["dog"]).shape
        torch.Size([3, 400, 640])
    """
    return _to_tensor(_draw(image, objects, classes))


def truth_and_prediction(image: Tensor, truth: Objects, found: Objects, classes: Sequence[str]) -> Tensor:
    """The true objects and those found, beside each other (below each other for wide images), each with a heading.

    Args:
        image: uint8 (3, H, W), RGB; it stays as it is.
        truth: True objects.
        found: Objects that a detector found.
        classes: Names of the classes.

    Returns:
        uint8 (3, H', W'): one picture, for TensorBoard say.

    Raises:
        ConfigError: As `draw_objects`.

    Examples:
        >>> image = torch.zeros(3, 480, 320, dtype=torch.uint8)
        >>> nothing = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        >>> truth_and_prediction(image, nothing, nothing, ["dog"]).shape[0]
        3
    """
    halves = [
        _headed(_draw(image, objects, classes), f"{title}: {_number(objects)}")
        for title, objects in (("truth", truth), ("prediction", found))
    ]
    width, height = halves[0].size
    gap = max(4, width // 100)
    place = (width + gap, 0) if width < 1.6 * height else (0, height + gap)
    both = Image.new("RGB", (width + place[0], height + place[1]), _PAPER)
    both.paste(halves[0], (0, 0))
    both.paste(halves[1], place)
    return _to_tensor(both)


def _number(objects: Objects) -> str:
    number = len(objects.boxes)
    return "nothing" if not number else f"{number} object{'s' if number > 1 else ''}"


def _headed(picture: Image.Image, heading: str) -> Image.Image:
    font = _font(picture.size, [heading], 1.15)
    height = _line_height(font)
    headed = Image.new("RGB", (picture.width, picture.height + height + height // 2), _PAPER)
    headed.paste(picture, (0, headed.height - picture.height))
    ImageDraw.Draw(headed).text((height // 4, height // 4), heading, fill=_INK, font=font)
    return headed


def _to_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


# ----------------------------------------------------------------------------------------------------------- drawing


class _Box(NamedTuple):
    """A rectangle in pixels of the picture."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def shared(self, other: _Box) -> float:
        """The area that both cover."""
        return _Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        ).area


class _Plate(NamedTuple):
    """A name beside the box of its object."""

    text: str
    colour: _Colour
    box: _Box
    owner: _Box


def _draw(image: Tensor, objects: Objects, classes: Sequence[str]) -> Image.Image:
    _check(image, objects, classes)
    picture, times = _enlarged(image)
    line = max(2, round(_side(picture.size) / 270))
    boxes = [_inside(_Box(*(times * edge for edge in box)), picture.size) for box in objects.boxes.tolist()]
    colours = [class_colour(label) for label in objects.labels.tolist()]
    back_to_front = range(len(boxes) - 1, -1, -1)
    for i in back_to_front:
        if objects.masks is not None:
            _paint_mask(picture, objects.masks[i], colours[i], line)
    pen = ImageDraw.Draw(picture)
    for i in back_to_front:
        _outline(pen, boxes[i], colours[i], line)
    texts = _texts(objects, classes)
    font = _font(picture.size, texts)
    plates = _place_plates(texts, colours, boxes, picture.size, font, line)
    for plate in plates:
        _paint_leader(pen, plate, line)
    for plate in reversed(plates):
        _paint_plate(pen, plate, font, line)
    return picture


def _check(image: Tensor, objects: Objects, classes: Sequence[str]) -> None:
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
        raise ConfigError(f"an image to draw on must be uint8 (3, H, W), not {image.dtype} {tuple(image.shape)}")
    for label in objects.labels.tolist():
        if not 0 <= label < len(classes):
            raise ConfigError(
                f"label {label} has no name: there are {len(classes)} classes, so labels are 0 to {len(classes) - 1}"
            )


def _enlarged(image: Tensor) -> tuple[Image.Image, int]:
    picture = Image.fromarray(image.cpu().permute(1, 2, 0).contiguous().numpy())
    times = math.ceil(_SMALLEST / max(picture.size))
    if times > 1:
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.BICUBIC)
    return picture, max(1, times)


def _side(size: tuple[int, int]) -> float:
    """The side of a square of the same area."""
    return math.sqrt(size[0] * size[1])


def _font(size: tuple[int, int], texts: Sequence[str], times: float = 1.0) -> _Font:
    """Pillow's own font, or one of the machine's where that lacks letters of the texts."""
    height = max(11, round(times * _side(size) / _LETTERS))
    letters = set("".join(texts))
    own = ImageFont.load_default(height)
    if _lacking(own, letters):
        for name in _WIDER_FONTS:
            with contextlib.suppress(OSError):
                other = ImageFont.truetype(name, height)
                if not _lacking(other, letters):
                    return other
    return own


def _lacking(font: _Font, letters: set[str]) -> bool:
    missing = bytes(font.getmask("\uffff"))
    return any(bytes(font.getmask(letter)) == missing for letter in letters)


def _line_height(font: _Font) -> int:
    return math.ceil(font.getbbox("Ápg")[3])


def _inside(box: _Box, size: tuple[int, int]) -> _Box:
    """The part of a box that lies in the picture, at least one pixel."""
    left, right = sorted(min(max(edge, 0.0), size[0] - 1.0) for edge in (box.left, box.right))
    top, bottom = sorted(min(max(edge, 0.0), size[1] - 1.0) for edge in (box.top, box.bottom))
    return _Box(left, top, right, bottom)


def _outline(pen: ImageDraw.ImageDraw, box: _Box, colour: _Colour, line: int) -> None:
    seam = max(1, line // 2)
    outer = (box.left - seam, box.top - seam, box.right + seam, box.bottom + seam)
    pen.rectangle(outer, outline=_INK, width=line + 2 * seam)
    pen.rectangle(box, outline=colour, width=line)


def _paint_mask(picture: Image.Image, mask: Tensor, colour: _Colour, line: int) -> None:
    cover = _mask_in(picture.size, mask)
    around = cover.getbbox()
    if around is None:
        return
    margin = 4 * line
    left, top = max(0, around[0] - margin), max(0, around[1] - margin)
    right, bottom = min(picture.width, around[2] + margin), min(picture.height, around[3] + margin)
    # Blurred, a mask falls from 255 to 0 across its edge, and lines along it are not made of stairs.
    soft = cover.crop((left, top, right, bottom)).filter(ImageFilter.GaussianBlur(line))
    picture.paste(colour, (left, top), soft.point([round(_OPACITY * _ramp(v - 88, 80)) for v in range(256)]))
    for paint, reach in ((_INK, 118), (colour, 72)):
        picture.paste(paint, (left, top), soft.point([round(_ramp(reach - abs(v - 128), 40)) for v in range(256)]))


def _ramp(value: float, width: float) -> float:
    """0 below 0, 255 above `width`."""
    return 255 * min(max(value / width, 0.0), 1.0)


def _mask_in(size: tuple[int, int], mask: Tensor) -> Image.Image:
    """A mask in the size of the picture, 0 or 255 a pixel."""
    if mask.shape != (size[1], size[0]):
        smooth = F.interpolate(mask.float()[None, None], size=(size[1], size[0]), mode="bilinear")[0, 0]
        mask = smooth > 0.5
    return Image.fromarray(mask.cpu().numpy().astype(np.uint8) * 255)


# ------------------------------------------------------------------------------------------------------------- names


def _texts(objects: Objects, classes: Sequence[str]) -> list[str]:
    names = [" ".join(classes[label].split()) for label in objects.labels.tolist()]
    if objects.scores is None:
        return names
    return [f"{name} {score:.2f}" for name, score in zip(names, objects.scores.tolist(), strict=True)]


def _place_plates(
    texts: Sequence[str],
    colours: Sequence[_Colour],
    boxes: Sequence[_Box],
    size: tuple[int, int],
    font: _Font,
    line: int,
) -> list[_Plate]:
    """A place for each name, one after the other: where it hides least of the names and of the objects."""
    placed: list[_Plate] = []
    for text, colour, box in zip(texts, colours, boxes, strict=True):
        text = _shortened(text, font, size[0] - 4 * line)
        width = math.ceil(font.getlength(text)) + 4 * line
        height = _line_height(font) + line
        options = [_pushed_in(option, size) for option in _beside(box, width, height, line)]
        costs = [_hidden(option, placed, boxes) + 0.02 * i for i, option in enumerate(options)]
        placed.append(_Plate(text, colour, options[int(np.argmin(costs))], box))
    return placed


def _beside(box: _Box, width: int, height: int, line: int) -> Iterator[_Box]:
    """Places for a plate at the edges of a box, the usual one first."""
    left, right = box.left - line, box.right + line
    above, below = box.top - line - height, box.bottom + line
    middle = (left + right - width) / 2
    for x, y in (
        (left, above),
        (left, box.top - line),
        (right - width, above),
        (left, below),
        (right - width, below),
        (right - width, box.top - line),
        (left, below - height),
        (right - width, below - height),
        (middle, above),
        (middle, below),
        (right, box.top - line),
        (left - width, box.top - line),
        (right, below - height),
        (left - width, below - height),
        # Apart, with a line to the box.
        *((x, above - away * height) for away in (1.3, 2.6) for x in (left, right - width, middle)),
        *((x, below + away * height) for away in (1.3, 2.6) for x in (left, right - width, middle)),
    ):
        yield _Box(x, y, x + width, y + height)


def _pushed_in(box: _Box, size: tuple[int, int]) -> _Box:
    across = max(0.0, -box.left) - max(0.0, box.right - size[0])
    down = max(0.0, -box.top) - max(0.0, box.bottom - size[1])
    return _Box(box.left + across, box.top + down, box.right + across, box.bottom + down)


def _hidden(plate: _Box, placed: Sequence[_Plate], boxes: Sequence[_Box]) -> float:
    """How much a plate would hide: shares of other plates, which weigh more, and of objects."""
    names = sum(plate.shared(other.box) / plate.area for other in placed)
    return 4 * names + sum(plate.shared(box) / max(box.area, 1.0) for box in boxes)


def _shortened(text: str, font: _Font, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    fitting = bisect.bisect_left(range(1, len(text)), True, key=lambda n: font.getlength(f"{text[:n]}...") > width)
    return f"{text[: max(fitting, 1)]}..."


def _paint_leader(pen: ImageDraw.ImageDraw, plate: _Plate, line: int) -> None:
    """A line from a plate to its box, where they do not touch."""
    box, owner = plate.box, plate.owner
    if box.bottom < owner.top - 2 * line:
        ends = box.bottom, owner.top
    elif box.top > owner.bottom + 2 * line:
        ends = box.top, owner.bottom
    else:
        return
    x = min(max((owner.left + owner.right) / 2, box.left + line), box.right - line)
    for width, colour in ((line + 2, _INK), (line, plate.colour)):
        pen.line((x, ends[0], x, ends[1]), fill=colour, width=width)


def _paint_plate(pen: ImageDraw.ImageDraw, plate: _Plate, font: _Font, line: int) -> None:
    box = plate.box
    pen.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), fill=plate.colour, outline=_INK, width=1)
    pen.text((box.left + 2 * line, box.top + line // 2), plate.text, fill=_readable_on(plate.colour), font=font)


def _readable_on(colour: _Colour) -> _Colour:
    """Black or white, whichever stands out more (relative luminance of WCAG 2)."""
    linear = [(c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4) for c in (part / 255 for part in colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _INK if luminance > 0.179 else _PAPER
