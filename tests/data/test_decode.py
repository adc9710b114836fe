import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from sgenet.data import UnreadableImage, decode_image
from sgenet.data.decode import header_problem


def rgb(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.fixture
def colours():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))


@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "tiff", "ppm", "webp"])
def test_lossless_formats_give_the_pixels_back(tmp_path, colours, extension):
    path = tmp_path / f"image.{extension}"
    colours.save(path, **({"lossless": True} if extension == "webp" else {}))
    image = decode_image(path)
    assert image.dtype == torch.uint8
    assert torch.equal(image, rgb(colours))
    assert header_problem(path) is None


@pytest.mark.parametrize("extension", ["jpg", "gif"])
def test_lossy_formats_decode_to_what_pillow_shows(tmp_path, colours, extension):
    path = tmp_path / f"image.{extension}"
    colours.save(path)
    assert torch.equal(decode_image(path), rgb(Image.open(path).convert("RGB")))
    assert header_problem(path) is None


def test_the_content_decides_not_the_name(tmp_path, colours):
    path = tmp_path / "image.jpg"
    colours.save(path, format="png")
    assert torch.equal(decode_image(path), rgb(colours))


def test_grey_becomes_three_equal_channels(tmp_path, colours):
    grey = colours.convert("L")
    grey.save(tmp_path / "grey.png")
    expected = torch.from_numpy(np.array(grey)).expand(3, -1, -1)
    assert torch.equal(decode_image(tmp_path / "grey.png"), expected)


def test_black_and_white_becomes_0_and_255(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert decode_image(tmp_path / "bits.png")[:, 0].tolist() == [[255, 0]] * 3


def test_palette_is_looked_up(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([1, 0])
    image.save(tmp_path / "palette.png")
    assert decode_image(tmp_path / "palette.png")[:, 0].T.tolist() == [[200, 100, 50], [10, 20, 30]]


def test_transparency_lies_over_white(tmp_path):
    Image.fromarray(np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 51]]], dtype=np.uint8), mode="RGBA").save(
        tmp_path / "clear.png"
    )
    # 51 / 255 = 0.2 of black over white.
    assert decode_image(tmp_path / "clear.png")[:, 0].T.tolist() == [[200, 0, 0], [255, 255, 255], [204, 204, 204]]


def test_grey_with_alpha_and_transparent_colour_lie_over_white(tmp_path):
    Image.fromarray(np.array([[[7, 255], [7, 0]]], dtype=np.uint8), mode="LA").save(tmp_path / "la.png")
    assert decode_image(tmp_path / "la.png")[:, 0].T.tolist() == [[7] * 3, [255] * 3]
    image = Image.new("RGB", (1, 1), (1, 2, 3))
    image.save(tmp_path / "keyed.png", transparency=(1, 2, 3))
    assert decode_image(tmp_path / "keyed.png").flatten().tolist() == [255, 255, 255]


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    red, green, blue = decode_image(tmp_path / "cmyk.jpg")[:, 4, 4].tolist()
    assert red < 10
    assert min(green, blue) > 245


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, extension):
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{extension}")
    assert decode_image(tmp_path / f"deep.{extension}")[1, 0].tolist() == [0, 0, 1, 128, 255]


def test_16_bit_big_endian_tiff(tmp_path):
    Image.frombytes("I;16B", (2, 1), b"\xff\xff\x01\x00").save(tmp_path / "motorola.tif")
    assert decode_image(tmp_path / "motorola.tif")[0, 0].tolist() == [255, 1]


@pytest.mark.parametrize(("dtype", "word"), [(np.float32, "floating-point"), (np.int32, "32-bit")])
def test_values_of_unknown_range_are_refused(tmp_path, dtype, word):
    Image.fromarray(np.array([[0, 100000]], dtype=dtype)).save(tmp_path / "wide.tif")
    with pytest.raises(UnreadableImage, match=word):
        decode_image(tmp_path / "wide.tif")


# What a viewer has to do to the stored picture, by the EXIF standard's definition of rows and columns.
_VIEWED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", _VIEWED)
@pytest.mark.parametrize("extension", ["png", "jpg", "tif"])
def test_exif_orientation_is_applied(tmp_path, colours, orientation, extension):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{extension}"
    colours.save(path, exif=exif)
    stored = np.array(Image.open(path).convert("RGB"))
    if extension == "tif":  # Pillow turns TIFF pictures itself
        stored = np.array(colours)
    expected = torch.from_numpy(_VIEWED[orientation](stored).copy()).permute(2, 0, 1)
    assert torch.equal(decode_image(path), expected)


@pytest.mark.parametrize("orientation", sorted(_VIEWED))
def test_pixels_stay_as_they_lie_where_annotations_are_of_them(tmp_path, colours, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    colours.save(path, exif=exif)
    upright, lying = decode_image(path), rgb(colours)
    assert torch.equal(decode_image(path, (5, 7)), lying)
    assert torch.equal(decode_image(path, (7, 5)), upright)
    assert torch.equal(decode_image(path, (50, 70)), upright)
    square = colours.crop((0, 0, 5, 5))
    square.save(path, exif=exif)
    assert torch.equal(decode_image(path, (5, 5)), rgb(square))


def test_broken_exif_does_not_cost_the_picture(tmp_path, colours):
    out = io.BytesIO()
    colours.save(out, "png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    (tmp_path / "odd.png").write_bytes(out.getvalue())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(decode_image(tmp_path / "odd.png"), rgb(colours))


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("L", (2, 2), value) for value in (10, 200)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert decode_image(tmp_path / "moving.gif").unique().tolist() == [10]


def test_one_pixel(tmp_path):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "dot.png")
    assert decode_image(tmp_path / "dot.png").flatten().tolist() == [1, 2, 3]


def test_text_called_jpg(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("shopping list")
    assert "not an image" in header_problem(path)
    with pytest.raises(UnreadableImage, match="not an image") as caught:
        decode_image(path)
    assert caught.value.path == str(path)


def test_postscript_is_not_handed_to_another_program(tmp_path):
    path = tmp_path / "script.jpg"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(UnreadableImage, match="not an image"):
        decode_image(path)


def test_empty_file(tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    assert header_problem(path) == "the file is empty"
    with pytest.raises(UnreadableImage, match="the file is empty"):
        decode_image(path)


def test_missing_file_and_folder(tmp_path):
    assert "No such file" in header_problem(tmp_path / "gone.png")
    for path in (tmp_path / "gone.png", tmp_path):
        with pytest.raises(UnreadableImage, match="cannot be opened"):
            decode_image(path)


@pytest.mark.parametrize("extension", ["jpg", "png", "bmp", "webp", "tif"])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.9])
def test_truncated_file_is_named_on_one_line(tmp_path, extension, share):
    path = tmp_path / f"cut.{extension}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UnreadableImage) as caught:
        decode_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_random_damage_never_raises_anything_else(tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / "damaged"
    for kind in ("png", "jpeg", "gif", "tiff", "webp", "bmp"):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(out, kind)
        for _ in range(25):
            data = bytearray(out.getvalue())
            for place in rng.integers(0, len(data), 4):
                data[place] = rng.integers(0, 256)
            path.write_bytes(data)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    image = decode_image(path)
                except UnreadableImage:
                    continue
            assert image.dtype == torch.uint8
            assert image.shape[0] == 3
