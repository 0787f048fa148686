from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, laplace

from pipeline.reveal.image_properties import (
    brightness,
    color_cast,
    contrast,
    dark_border,
    dark_corners,
    high_frequencies,
    measure,
    property_names,
    saturation,
    sharpness,
    spread,
)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape)


def flat(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue])[None, :, None, None] * np.ones((1, 3, 8, 8))


@pytest.mark.parametrize("shape", [(1, 20, 20), (3, 20, 30), (2, 9, 9), (12, 100), (1, 1, 1)])
def test_there_is_a_name_for_each_figure_and_all_are_finite(shape):
    for x in (noise(4, *shape), np.zeros((4, *shape)), np.ones((4, *shape))):
        found = measure(x)
        assert found.shape == (4, len(property_names(shape))) and np.isfinite(found).all()


def test_the_figures_stand_in_the_order_of_their_names():
    images, signals = noise(2, 3, 20, 20) * [[[[0.5]], [[0.9]], [[0.2]]]], noise(2, 3, 50)
    found = dict(zip(property_names((3, 20, 20)), measure(images).T, strict=True))
    assert found["brightness"] == pytest.approx(brightness(images))
    assert found["contrast"] == pytest.approx(contrast(images))
    assert found["sharpness"] == pytest.approx(sharpness(images))
    assert found["dark border"] == pytest.approx(dark_border(images))
    assert found["dark corners"] == pytest.approx(dark_corners(images))
    assert found["green cast"] == pytest.approx(color_cast(images)[:, 1])
    assert found["blue cast"] == pytest.approx(color_cast(images)[:, 2])
    assert found["saturation"] == pytest.approx(saturation(images))
    found = dict(zip(property_names((3, 50)), measure(signals).T, strict=True))
    assert found["mean"] == pytest.approx(signals.mean((1, 2)))
    assert found["spread"] == pytest.approx(spread(signals))
    assert found["high frequencies"] == pytest.approx(high_frequencies(signals))


def test_only_three_channels_have_colors():
    assert "saturation" in property_names((3, 8, 8))
    assert all("cast" not in name for name in property_names((1, 8, 8)) + property_names((4, 8, 8)))


def test_brightness_is_the_mean_and_contrast_the_deviation_of_grey():
    half = np.zeros((1, 1, 8, 8))
    half[..., :4] = 1
    assert brightness(half) == pytest.approx(0.5) and contrast(half) == pytest.approx(0.5)
    assert contrast(flat(0.1, 0.5, 0.9)) == pytest.approx(0)


def test_the_color_cast_is_each_channel_minus_grey():
    np.testing.assert_allclose(color_cast(flat(0.9, 0.3, 0.3)), [[0.4, -0.2, -0.2]])
    np.testing.assert_allclose(color_cast(noise(1, 1, 8, 8).repeat(3, 1)), np.zeros((1, 3)), atol=1e-12)


def test_saturation_is_the_distance_of_channels_at_each_pixel():
    assert saturation(flat(0.9, 0.2, 0.5)) == pytest.approx(0.7)
    # Opposite colors cancel in the channels' means, not in the saturation.
    both = np.concatenate([flat(1, 0, 0), flat(0, 1, 1)], axis=3)
    assert color_cast(both) == pytest.approx(0) and saturation(both) == pytest.approx(1)


def test_sharpness_is_the_logarithm_of_the_variance_of_the_laplacian():
    images = noise(3, 1, 16, 20)
    expected = [np.log10(laplace(image[0])[1:-1, 1:-1].var()) for image in images]
    np.testing.assert_allclose(sharpness(images), expected, rtol=1e-6)


def test_blur_lowers_sharpness_and_a_ramp_has_none():
    image = noise(1, 1, 32, 32)
    soft = gaussian_filter(image, (0, 0, 1, 1))
    softer = gaussian_filter(image, (0, 0, 2, 2))
    assert sharpness(image) > sharpness(soft) > sharpness(softer)
    assert sharpness(np.tile(np.linspace(0, 1, 9), (1, 1, 9, 1))) == pytest.approx(-8)


def test_a_dark_frame_darkens_border_and_corners_and_a_vignette_the_corners_more():
    framed = np.full((1, 1, 20, 20), 0.8)
    framed[..., :2, :] = framed[..., -2:, :] = framed[..., :, :2] = framed[..., :, -2:] = 0.1
    assert dark_border(framed) == pytest.approx(0.7) and dark_corners(framed) == pytest.approx(0.7)
    cornered = np.full((1, 1, 20, 20), 0.8)
    for rows in (slice(0, 2), slice(18, 20)):
        for columns in (slice(0, 2), slice(18, 20)):
            cornered[0, 0, rows, columns] = 0
    assert dark_corners(cornered) == pytest.approx(0.8)
    assert dark_border(cornered) == pytest.approx(0.8 * 16 / (400 - 256))
    assert dark_border(1 - framed) == pytest.approx(-0.7)


@pytest.mark.parametrize("turns", range(4))
def test_each_corner_counts_as_a_quarter(turns):
    image = np.full((20, 20), 0.8)
    image[:2, :2] = 0
    assert dark_corners(np.rot90(image, turns)[None, None]) == pytest.approx(0.2)


def test_spread_is_the_mean_deviation_of_the_leads():
    signals = np.stack([np.tile([0.0, 1.0], 50), np.full(100, 0.7)])[None]
    assert spread(signals) == pytest.approx(0.25)


def test_high_frequencies_are_1_for_noise_2_for_alternation_and_near_0_for_slow_waves():
    time = np.linspace(0, 2 * np.pi, 4001)
    assert high_frequencies(noise(1, 4, 5000)) == pytest.approx(1, abs=0.05)
    assert high_frequencies(np.tile([0.0, 1.0], 500)[None, None]) == pytest.approx(2)
    assert high_frequencies(np.sin(time)[None, None]) < 1e-4
    # Independent of the amplitude, and of leads that say nothing.
    signal = noise(1, 1, 400)
    np.testing.assert_allclose(high_frequencies(0.01 * signal + 0.3), high_frequencies(signal), rtol=1e-6)
    both = np.concatenate([signal, np.full_like(signal, 0.5)], axis=1)
    np.testing.assert_allclose(high_frequencies(both), high_frequencies(signal) / 2)
