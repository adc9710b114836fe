"""Exact drawing: random numbers and antialiased figures that come out bit for bit the same on every machine.

Only operations that IEEE 754 rounds in one way (+ - * / sqrt, comparisons) and integer arithmetic are used, one array
operation at a time: no sine, no exponential, no sum over an axis, no random numbers whose stream a release of NumPy may
change. Python numbers, not NumPy scalars, meet the float32 arrays, because releases of NumPy disagree on the dtype
that the latter give.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "Bits",
    "Canvas",
    "Colour",
    "Draws",
    "Floats",
    "Frame",
    "Patch",
    "hash_key",
    "hash_words",
    "hue",
    "mix_colours",
    "pixel_noise",
    "smooth_noise",
]

Floats: TypeAlias = npt.NDArray[np.float32]
Bits: TypeAlias = npt.NDArray[np.uint64]
Colour: TypeAlias = tuple[float, float, float]

# SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"): its step and its finaliser.
_STEP = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = (1 << 64) - 1
_FACTORS = (np.uint64(_FIRST), np.uint64(_SECOND))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_BLOCK = 128

# As arrays: NumPy takes longer to convert a number than to paint with it.
_ZERO, _ONE = np.zeros((), dtype=np.float32), np.ones((), dtype=np.float32)


def hash_key(key: int, number: int) -> int:
    """Derive a key from a key: word `number` of the SplitMix64 stream that starts at `key`.

    Different numbers below 2^64 give different keys, so that nothing derived from them coincides.

    Args:
        key: From 0 to 2^64 - 1.
        number: Which of its keys.

    Returns:
        From 0 to 2^64 - 1.

    Examples:
        >>> hash_key(0, 0) == int(hash_words(0, 1)[0]) == 0xE220A8397B1DCDAF
        True
    """
    word = (key + (number + 1) * _STEP) & _WORD
    word = ((word ^ (word >> 30)) * _FIRST) & _WORD
    word = ((word ^ (word >> 27)) * _SECOND) & _WORD
    return word ^ (word >> 31)


def hash_words(key: int, count: int, start: int = 0) -> Bits:
    """Words `start` to ``start + count - 1`` of the SplitMix64 stream that starts at `key`.

    Args:
        key: From 0 to 2^64 - 1.
        count: How many.
        start: The first.

    Returns:
        uint64 (count,).

    Examples:
        >>> bool((hash_words(7, 5)[2:] == hash_words(7, 3, start=2)).all())
        True
    """
    words = _steps(count) + np.uint64((key + start * _STEP) & _WORD)
    words ^= words >> _SHIFTS[0]
    words *= _FACTORS[0]
    words ^= words >> _SHIFTS[1]
    words *= _FACTORS[1]
    words ^= words >> _SHIFTS[2]
    return words


@functools.lru_cache(maxsize=16)
def _steps(count: int) -> Bits:
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_STEP)
    steps.flags.writeable = False
    return steps


class Draws:
    """Random numbers, one after the other, from a key.

    Args:
        key: From 0 to 2^64 - 1.

    Examples:
        >>> draws = Draws(3)
        >>> 2 <= draws.between(2, 5) < 5, draws.below(4) in range(4)
        (True, True)
    """

    def __init__(self, key: int) -> None:
        self._units = _units(key)

    def between(self, low: float, high: float) -> float:
        """A number spread evenly over [low, high)."""
        return low + (high - low) * next(self._units)

    def below(self, count: int) -> int:
        """A whole number from 0 to ``count - 1``."""
        return int(next(self._units) * count)


def _units(key: int) -> Iterator[float]:
    start = 0
    while True:
        # 53 bits: as many as a float holds, so that the product is exact.
        yield from ((hash_words(key, _BLOCK, start) >> np.uint64(11)) * 2.0**-53).tolist()
        start += _BLOCK


def hue(position: float, saturation: float, value: float) -> Colour:
    """A colour by its place on the colour wheel.

    Args:
        position: 0 to 6: red 0, yellow 1, green 2, cyan 3, blue 4, magenta 5.
        saturation: 0 (grey) to 1.
        value: 0 (black) to 1: the largest of the three parts.

    Returns:
        Red, green, blue; 0 to 255.

    Examples:
        >>> hue(0.0, 1.0, 1.0), hue(3.0, 0.5, 1.0)
        ((255.0, 0.0, 0.0), (127.5, 255.0, 255.0))
    """
    pure = (abs(position - 3) - 1, 2 - abs(position - 2), 2 - abs(position - 4))
    red, green, blue = (255 * value * (1 - saturation * (1 - min(max(part, 0.0), 1.0))) for part in pure)
    return red, green, blue


def mix_colours(first: Colour, second: Colour, share: float) -> Colour:
    """`share` of `second`, the rest of `first`.

    Examples:
        >>> mix_colours((0.0, 0.0, 0.0), (100.0, 200.0, 0.0), 0.25)
        (25.0, 50.0, 0.0)
    """
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


class Frame(NamedTuple):
    """Where a figure with coordinates of its own stands in a picture.

    The figure's origin is at (`x`, `y`), its unit is `scale` long, and it is turned by the angle whose half has the
    tangent `turn`: a rotation without sine and cosine.

    Attributes:
        x: To the right, pixels.
        y: Down, pixels.
        scale: Pixels.
        turn: -1 (a quarter turn) to 1 (a quarter turn the other way).

    Examples:
        >>> Frame(10.0, 10.0, 2.0, 1.0).at(3.0, 0.0)
        Frame(x=10.0, y=16.0, scale=2.0, turn=1.0)
    """

    x: float
    y: float
    scale: float
    turn: float = 0.0

    @property
    def rotation(self) -> tuple[float, float]:
        """Cosine and sine of the angle."""
        square = self.turn * self.turn
        return (1 - square) / (1 + square), 2 * self.turn / (1 + square)

    def at(self, u: float, v: float) -> Frame:
        """The same frame with its origin moved to the point (u, v) of its own coordinates."""
        cosine, sine = self.rotation
        x = self.x + (cosine * u - sine * v) * self.scale
        y = self.y + (sine * u + cosine * v) * self.scale
        return Frame(x, y, self.scale, self.turn)


class Canvas:
    """A square picture to paint on.

    Args:
        size: Pixels a side.
        labels: uint8 (size, size), where to note which part of which figure each pixel shows; None notes nothing.

    Attributes:
        pixels: float32 (3, size, size), 0 to 255; black at first.

    Examples:
        >>> labels = np.zeros((8, 8), dtype=np.uint8)
        >>> canvas = Canvas(8, labels)
        >>> patch = canvas.patch(Frame(4.0, 4.0, 3.0), reach=1.2)
        >>> patch.fill(patch.disc(1.0), (255.0, 0.0, 0.0), label=1)
        >>> canvas.pixels[:, 4, 4].tolist(), int(labels.sum())
        ([255.0, 0.0, 0.0], 32)
    """

    def __init__(self, size: int, labels: npt.NDArray[np.uint8] | None = None) -> None:
        self.size = size
        self.labels = labels
        self.pixels: Floats = np.zeros((3, size, size), dtype=np.float32)

    def patch(self, frame: Frame, reach: float) -> Patch:
        """The part of the picture within `reach` units of a frame's origin."""
        return Patch(self, frame, reach)


class Patch:
    """The neighbourhood of a figure in a picture, with the figure's coordinates at every pixel.

    Arguments are in units of the frame, arrays in pixels, so that a distance tells how much of a pixel is covered.

    Args:
        canvas: The picture.
        frame: Where the figure stands.
        reach: Half the side of the neighbourhood.

    Attributes:
        u: float32 (h, w), the first coordinate of the pixels' middles in the frame, pixels.
        v: float32 (h, w), the second.
        scale: Pixels a unit.
    """

    def __init__(self, canvas: Canvas, frame: Frame, reach: float) -> None:
        x, y, self.scale, _ = frame
        half = reach * self.scale
        left, right = max(int(x - half), 0), min(int(x + half) + 1, canvas.size)
        top, bottom = max(int(y - half), 0), min(int(y + half) + 1, canvas.size)
        self._pixels = canvas.pixels[:, top:bottom, left:right]
        self._labels = None if canvas.labels is None else canvas.labels[top:bottom, left:right]
        middles = _middles(canvas.size)
        across = middles[left:right] - x
        down = middles[top:bottom, None] - y
        cosine, sine = frame.rotation
        self.u: Floats = across * cosine + down * sine
        self.v: Floats = down * cosine - across * sine

    def disc(
        self, radius: float, at: tuple[float, float] = (0.0, 0.0), *, height: float = 1.0, mirrored: bool = False
    ) -> Floats:
        """Distance to the edge of a disc.

        Args:
            radius: Along u.
            at: The middle.
            height: Radius along v, as a multiple of `radius`. Away from 1 the distances along v are not exact, which
                only makes the edge there harder or softer.
            mirrored: Whether there is a second disc, at -u.

        Returns:
            float32 (h, w), pixels, negative inside.

        Examples:
            >>> patch = Canvas(9).patch(Frame(4.5, 4.5, 2.0), reach=2.0)
            >>> patch.disc(1.0)[4].tolist()
            [2.0, 1.0, 0.0, -1.0, -2.0, -1.0, 0.0, 1.0, 2.0]
        """
        u = np.abs(self.u) if mirrored else self.u
        if at[0]:
            u = u - at[0] * self.scale
        v = self.v - at[1] * self.scale if at[1] else self.v
        square: Floats = v * v
        if height != 1:
            square *= 1 / (height * height)
        square += u * u
        np.sqrt(square, out=square)
        square -= radius * self.scale
        return square

    def arc(self, radius: float, width: float, at: tuple[float, float] = (0.0, 0.0)) -> Floats:
        """Distance to the edge of a stroke along the lower part of a circle.

        Args:
            radius: Of the circle.
            width: Of the stroke.
            at: The circle's middle.

        Returns:
            float32 (h, w), pixels, negative inside.
        """
        distance: Floats = np.abs(self.disc(radius, at))
        distance -= width / 2 * self.scale
        np.maximum(distance, (0.25 * radius + at[1]) * self.scale - self.v, out=distance)
        return distance

    def fill(
        self, distance: Floats, colour: Colour, *, grow: float = 0.0, opacity: float = 1.0, label: int | None = None
    ) -> None:
        """Paint a figure, with an edge one pixel soft.

        Args:
            distance: float32 (h, w): to the figure's edge, pixels, negative inside.
            colour: Red, green, blue; 0 to 255.
            grow: Moves the edge outwards.
            opacity: 0 to 1.
            label: Noted for the pixels that the figure covers at least by half; None notes nothing.
        """
        edge = grow * self.scale
        if label is not None and self._labels is not None:
            self._labels[distance <= edge] = label
        cover = (edge + 0.5) - distance
        np.maximum(cover, _ZERO, out=cover)
        np.minimum(cover, _ONE if opacity == 1 else opacity, out=cover)
        change = np.array(colour, dtype=np.float32)[:, None, None] - self._pixels
        change *= cover
        self._pixels += change


@functools.lru_cache(maxsize=16)
def _middles(size: int) -> Floats:
    middles = np.arange(size, dtype=np.float32) + np.float32(0.5)
    middles.flags.writeable = False
    return middles


def smooth_noise(key: int, size: int, cells: int) -> Floats:
    """Random values on a grid, blended in between: soft spots, about `cells` of them a side.

    Args:
        key: From 0 to 2^64 - 1.
        size: Pixels a side.
        cells: Grid cells a side.

    Returns:
        float32 (size, size), -1 to 1.

    Examples:
        >>> smooth_noise(1, 16, 4).shape
        (16, 16)
    """
    corners = (hash_words(key, (cells + 1) ** 2) >> np.uint64(40)).astype(np.float32)
    grid = corners.reshape(cells + 1, cells + 1) * 2.0**-23 - 1
    low, share = _grid_places(size, cells)
    columns = grid[:, low]
    columns += (grid[:, low + 1] - columns) * share
    rows: Floats = columns[low]
    rows += (columns[low + 1] - rows) * share[:, None]
    return rows


@functools.lru_cache(maxsize=32)
def _grid_places(size: int, cells: int) -> tuple[npt.NDArray[np.intp], Floats]:
    place = _middles(size) * (cells / size)
    low = place.astype(np.intp)
    share = place - low.astype(np.float32)
    # 3 s^2 - 2 s^3 has no slope at the corners, so that the grid cannot be seen.
    return low, share * share * (3 - 2 * share)


def pixel_noise(key: int, size: int) -> Floats:
    """Independent noise for every pixel: a triangular distribution, mean 0, standard deviation 1.

    Args:
        key: From 0 to 2^64 - 1.
        size: Pixels a side.

    Returns:
        float32 (size, size), -2.44 to 2.44.

    Examples:
        >>> noise = pixel_noise(1, 64)
        >>> noise.shape, abs(float(noise.mean())) < 0.05, abs(float(noise.std()) - 1) < 0.05
        ((64, 64), True, True)
    """
    values = size * size
    # "<u8": the bytes of a word in one order on every machine.
    octets = hash_words(key, -(-2 * values // 8)).astype("<u8", copy=False).view(np.uint8)
    noise = octets[:values].astype(np.float32)
    noise += octets[values : 2 * values]
    noise -= 255
    noise *= 1 / 104.5  # the standard deviation of the sum of two bytes
    return noise.reshape(size, size)
