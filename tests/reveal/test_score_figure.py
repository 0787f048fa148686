from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.stats import rankdata

from pipeline.errors import DataError
from pipeline.reveal.score_figure import QUANTILES, caption, nearest_to_quantiles, score_figure

SCORES = np.random.default_rng(0).permutation(np.concatenate([np.linspace(-2, 1, 101), np.linspace(0, 3, 41)]))
MEMBERS = SCORES > 0.8


@pytest.fixture
def shown():
    return []


@pytest.fixture
def picture(shown):
    """Return a function that draws a tile of the sample's own colour and remembers whom it drew."""

    def draw(position: int) -> Image.Image:
        shown.append(position)
        return Image.new("RGB", (16, 16), (0, 255, 0))

    return draw


@pytest.mark.parametrize("size", [1, 2, 10, 501])
def test_examples_stand_at_their_quantiles(size):
    scores = np.random.default_rng(size).normal(size=size)
    share = (rankdata(scores) - 1) / max(size - 1, 1)
    found = nearest_to_quantiles(scores, QUANTILES)
    best = [np.abs(share - quantile).min() for quantile in QUANTILES]
    np.testing.assert_allclose(np.abs(share[found] - QUANTILES), best, atol=1e-9)
    assert found[-1] == scores.argmax()


def test_examples_come_from_both_groups_each_at_its_own_quantiles(shown, picture):
    score_figure(SCORES, MEMBERS, picture)
    of_members, of_rest = shown[: len(QUANTILES)], shown[len(QUANTILES) :]
    assert MEMBERS[of_members].all()
    assert not MEMBERS[of_rest].any()
    assert SCORES[of_members[2]] == np.median(SCORES[MEMBERS])
    assert of_rest[-1] == np.flatnonzero(~MEMBERS)[SCORES[~MEMBERS].argmax()]


def test_figure_shows_the_pictures_and_both_histograms(picture):
    pixels = np.asarray(score_figure(SCORES, MEMBERS, picture)).astype(int)
    green = (pixels == (0, 255, 0)).all(-1)
    assert green.mean() > 0.2
    upper = pixels[: pixels.shape[0] // 3]
    reddish = (upper[..., 0] - upper[..., 1] > 80).mean()
    greyish = ((abs(upper[..., 0] - 184) < 20) & (abs(upper[..., 2] - 200) < 20)).mean()
    assert reddish > 0.02
    assert greyish > 0.02


def test_scores_of_one_value_still_make_a_figure(picture):
    assert score_figure(np.zeros(6), np.arange(6) < 2, picture).size[0] > 300


@pytest.mark.parametrize(
    ("scores", "members", "expected"),
    [
        ([0.0, np.nan, 1.0], [True, False, False], "1 of 3 scores are not finite"),
        ([0.0, 1.0], [True, True], "2 of 2 samples are members"),
        ([0.0, 1.0], [False, False], "0 of 2 samples are members"),
    ],
)
def test_what_cannot_be_shown_is_refused(picture, scores, members, expected):
    with pytest.raises(DataError, match=expected):
        score_figure(np.array(scores), np.array(members), picture)


def test_the_top_has_a_name():
    assert [caption(quantile) for quantile in (0.05, 0.5, 1.0)] == ["5%", "50%", "top"]
