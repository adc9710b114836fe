"""Exact random numbers and antialiased figures, against arithmetic done another way."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgenet.data.drawing import Canvas, Draws, Frame, hash_key, hash_words, hue, pixel_noise, smooth_noise

KEYS = st.integers(0, 2**64 - 1)


def test_words_are_those_of_splitmix64():
    # The first outputs of the generator's reference implementation for the seed 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert hash_words(1234567, 4).tolist() == published


@given(KEYS, st.integers(0, 200))
def test_keys_and_words_are_one_stream(key, start):
    assert hash_words(key, 3, start).tolist() == [hash_key(key, start + i) for i in range(3)]


@given(KEYS)
def test_draws_stay_in_their_range_and_go_on(key):
    draws, again = Draws(key), Draws(key)
    values = [draws.between(-2.0, 3.0) for _ in range(300)]
    assert all(-2 <= value < 3 for value in values)
    assert len(set(values)) == 300
    assert [again.between(-2.0, 3.0) for _ in range(300)] == values


def test_draws_are_even():
    draws = Draws(5)
    counts = np.bincount([draws.below(4) for _ in range(8000)], minlength=4)
    assert counts.tolist() == pytest.approx([2000] * 4, abs=150)


def test_hues_are_those_of_the_colour_wheel():
    import colorsys

    for step in range(60):
        red, green, blue = colorsys.hsv_to_rgb(step / 60, 0.7, 0.9)
        assert hue(step / 10, 0.7, 0.9) == pytest.approx((255 * red, 255 * green, 255 * blue))


@given(st.floats(-1, 1), st.floats(-3, 3), st.floats(-3, 3))
def test_frames_turn_by_twice_the_angle_whose_tangent_is_given(turn, u, v):
    angle = 2 * math.atan(turn)
    moved = Frame(5.0, 7.0, 2.0, turn).at(u, v)
    assert moved.x == pytest.approx(5 + 2 * (math.cos(angle) * u - math.sin(angle) * v))
    assert moved.y == pytest.approx(7 + 2 * (math.sin(angle) * u + math.cos(angle) * v))


@given(st.floats(-0.9, 0.9), st.floats(4, 20))
def test_a_painted_disc_has_the_area_of_a_disc(turn, radius):
    canvas = Canvas(48)
    patch = canvas.patch(Frame(24.3, 23.8, radius, turn), reach=1.2)
    patch.fill(patch.disc(1.0), (255.0, 255.0, 255.0))
    assert float(canvas.pixels[0].sum()) / 255 == pytest.approx(math.pi * radius * radius, rel=0.01)


def test_patches_know_where_they_are():
    patch = Canvas(32).patch(Frame(10.0, 12.0, 4.0, 0.25), reach=1.5)
    angle = 2 * math.atan(0.25)
    # The patch begins at the pixel that holds its corner.
    x, y = 4.5 - 10, 6.5 - 12
    assert patch.u[0, 0] == pytest.approx(math.cos(angle) * x + math.sin(angle) * y, abs=1e-5)
    assert patch.v[0, 0] == pytest.approx(-math.sin(angle) * x + math.cos(angle) * y, abs=1e-5)


def test_a_figure_beyond_the_edge_is_cut_off():
    canvas = Canvas(16)
    patch = canvas.patch(Frame(0.0, 0.0, 6.0), reach=1.2)
    patch.fill(patch.disc(1.0), (255.0, 0.0, 0.0))
    assert float(canvas.pixels[0].sum()) / 255 == pytest.approx(math.pi * 36 / 4, rel=0.03)
    assert not canvas.pixels[1:].any()


def test_opacity_mixes_with_what_was_there():
    canvas = Canvas(8)
    canvas.pixels += 100
    patch = canvas.patch(Frame(4.0, 4.0, 8.0), reach=1.0)
    patch.fill(patch.disc(1.0), (200.0, 0.0, 100.0), opacity=0.25)
    assert canvas.pixels[:, 4, 4].tolist() == [125, 75, 100]


def test_mirrored_discs_are_two():
    canvas = Canvas(32)
    patch = canvas.patch(Frame(16.0, 16.0, 10.0), reach=1.5)
    patch.fill(patch.disc(0.3, (0.8, 0.0), mirrored=True), (255.0, 255.0, 255.0))
    painted = canvas.pixels[0]
    assert painted[16, 8] == painted[16, 24] == 255
    assert painted[16, 16] == 0
    assert (painted == painted[:, ::-1]).all()


def test_pixel_noise_is_white():
    noise = pixel_noise(3, 128).astype(np.float64)
    assert abs(noise.mean()) < 0.03
    assert noise.std() == pytest.approx(1, abs=0.03)
    for neighbour in (noise[1:] * noise[:-1], noise[:, 1:] * noise[:, :-1]):
        assert abs(neighbour.mean()) < 0.05


@pytest.mark.parametrize("size", [16, 33, 64])
def test_smooth_noise_is_smooth_and_in_its_range(size):
    noise = smooth_noise(9, size, 4)
    assert noise.shape == (size, size)
    assert -1 <= noise.min() < -0.3 < 0.3 < noise.max() <= 1
    # 1.5 is the steepest slope of the blend, 2 the largest step between two corners.
    assert np.abs(np.diff(noise, axis=0)).max() <= 1.5 * 2 * 4 / size + 1e-5
    assert np.abs(np.diff(noise, axis=1)).max() <= 1.5 * 2 * 4 / size + 1e-5
