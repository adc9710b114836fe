"""From an image file to uint8 RGB.

Pillow is the only decoder: it names what is wrong with a damaged file, and the decoders of torchvision.io are
deprecated since torchvision 0.29.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from sgenet.data.source import UnreadableImage

__all__ = ["IMAGE_EXTENSIONS", "decode_image", "header_problem", "stored_size"]

IMAGE_EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

# Only these: some of Pillow's other formats start outside programs, whatever the file's name says.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_NOT_AN_IMAGE = "not an image (no JPEG, PNG, WebP, BMP, GIF, TIFF or PPM data)"
_EMPTY = "the file is empty"
_SIGNATURES = (
    b"\xff\xd8\xff",  # JPEG, and the several JPEGs of an MPO, of which the first is shown
    b"\x89PNG\r\n\x1a\n",
    b"BM",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF and BigTIFF in both byte orders
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    *(b"P%d" % kind for kind in range(1, 7)),
)

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def header_problem(path: str | Path) -> str | None:
    """What the first bytes of a file say against its being an image; cheap, reads 16 bytes.

    Args:
        path: The file.

    Returns:
        A reason for the user, or None where the file begins like an image. Damage further on is only found by
        `decode_image`.

    Examples:
        >>> header_problem("nowhere.jpg")
        'cannot be opened (No such file or directory)'
    """
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # Path.open takes twice as long
            head = file.read(16)
    except OSError as error:
        return _cannot_open(error)
    if not head:
        return _EMPTY
    if head.startswith(_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return None
    return _NOT_AN_IMAGE


def decode_image(path: str | Path, size: tuple[int, int] | None = None) -> Tensor:
    """Decode an image file to 8-bit RGB.

    Grey and palette images become RGB; CMYK is converted; transparent images are laid over white, as most programs
    show them; of 16-bit images the high byte of each value is kept; the EXIF orientation is applied; of several
    frames or pages the first is taken. The format is known by the content, not by the name.

    Args:
        path: The file.
        size: Height and width that annotations say of the image. Where they are those of the pixels as they lie, the
            EXIF orientation is not applied, by COCO's convention: boxes are of the stored pixels. None applies it.

    Returns:
        uint8 (3, H, W), with the strides of (H, W, 3), which resizing is fastest on.

    Raises:
        UnreadableImage: If the file is missing, empty, truncated, damaged or no image, or holds floating-point or
            32-bit values, whose range nobody knows.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (5, 4), 7).save(f"{folder}/grey.png")
        ...     image = decode_image(f"{folder}/grey.png")
        >>> image.shape, image[:, 0, 0].tolist()
        (torch.Size([3, 4, 5]), [7, 7, 7])
    """
    pixels, orientation = _decoded(path)
    lies_so = size is not None and pixels.size == size[::-1]
    return _to_tensor(pixels if lies_so else _upright(pixels, orientation))


def stored_size(path: str | Path) -> tuple[int, int]:
    """Height and width of an image's pixels as they lie, for annotations that do not say them.

    Args:
        path: The file.

    Raises:
        UnreadableImage: As `decode_image` does.
    """
    pixels, _ = _decoded(path)
    return pixels.height, pixels.width


def _decoded(path: str | Path) -> tuple[Image.Image, int]:
    """RGB pixels as they lie, and their EXIF orientation."""
    try:
        # Read in one go: Pillow reads a JPEG in small pieces otherwise.
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            data = file.read()
    except OSError as error:
        raise UnreadableImage(str(path), _cannot_open(error)) from None
    if not data:
        raise UnreadableImage(str(path), _EMPTY)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            pixels = _to_rgb(image)
            # After the pixels: PNG may store the orientation behind them, and Pillow turns TIFF images on its own.
            return pixels, _orientation(image)
    except UnidentifiedImageError:
        raise UnreadableImage(str(path), _NOT_AN_IMAGE) from None
    except _UnknownRangeError as error:
        raise UnreadableImage(str(path), str(error)) from None
    # Damaged files make Pillow raise OSError, SyntaxError, ValueError, struct.error, zlib.error and more.
    except Exception as error:
        raise UnreadableImage(str(path), _one_line(error)) from None


class _UnknownRangeError(Exception):
    """The pixels are numbers of which nobody knows which is white."""


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _high_byte(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    """A grey image of up to 16 bits in 8 bits; Pillow's own conversion clips at 255 instead."""
    if image.mode == "F":
        raise _UnknownRangeError("floating-point pixels, whose range is unknown; save it with 8 or 16 bits")
    values = np.asarray(image).astype(np.int64)
    # Pillow before 12 opens 16-bit PNG files in its 32-bit mode.
    if values.min() < 0 or values.max() > 0xFFFF:
        raise _UnknownRangeError("32-bit pixels, whose range is unknown; save it with 8 or 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")


def _orientation(image: Image.Image) -> int:
    # Cameras write broken EXIF blocks around good pixels: the pixels are kept as they lie.
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _cannot_open(error: OSError) -> str:
    return f"cannot be opened ({error.strerror or _one_line(error)})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
