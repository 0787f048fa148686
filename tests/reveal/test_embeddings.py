from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from pipeline.errors import DataError
from pipeline.reveal.embeddings import embedding_figure, spread_rows, tsne_points, umap_points


def two_groups(count: int = 60) -> np.ndarray:
    """First half of the rows near one unit vector, second half near another."""
    points = np.repeat(np.eye(2, 4), count // 2, axis=0)
    return points + 0.05 * np.random.default_rng(0).standard_normal(points.shape)


@pytest.mark.parametrize("place", [umap_points, tsne_points])
def test_groups_stay_together_the_same_way_every_time_also_where_only_a_part_is_fitted(place):
    embedding = two_groups()
    first, second = (place(embedding, 3, fitted=40) for _ in range(2))
    assert first.shape == (60, 2) and np.isfinite(first).all()
    assert np.array_equal(first, second)
    nearest = NearestNeighbors(n_neighbors=1).fit(first).kneighbors(return_distance=False)[:, 0]
    assert ((nearest < 30) == (np.arange(60) < 30)).mean() > 0.95


def test_beyond_the_fitted_samples_t_sne_places_each_at_the_nearest_fitted():
    embedding = two_groups()
    points = tsne_points(embedding, 0, fitted=20)
    places, where = np.unique(points, axis=0, return_inverse=True)
    assert len(places) == 20
    side = np.arange(60) < 30
    assert all(len(set(side[where.ravel() == place])) == 1 for place in range(20))


@pytest.mark.parametrize("place", [umap_points, tsne_points])
def test_few_samples_are_enough_and_fewer_are_refused(place):
    points = place(two_groups(6), 0)
    assert points.shape == (6, 2) and np.isfinite(points).all() and len(np.unique(points, axis=0)) == 6
    with pytest.raises(DataError, match="at least 5 samples, there are 4"):
        place(two_groups(4), 0)


def test_shown_rows_are_far_apart_and_of_both_sides():
    points = np.array([[0.0, 0], [0.1, 0], [10, 0], [10.1, 0], [0, 10], [0, 10.1], [5, 5]])
    members = np.array([True, True, False, False, True, False, False])
    chosen = spread_rows(points, members, 4)
    assert members[chosen].tolist() == [True, False, True, False]
    gaps = np.linalg.norm(points[chosen][:, None] - points[chosen][None], axis=2)[np.triu_indices(4, 1)]
    assert gaps.min() > 4
    assert sorted(spread_rows(points, members, 50)) == list(range(7))
    assert sorted(spread_rows(points, np.zeros(7, bool), 7)) == list(range(7))


def draw(thumbnails) -> np.ndarray:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    return np.asarray(embedding_figure(points, np.arange(4) < 2, thumbnails, "a title")).astype(int)


def pixels_of(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((np.abs(picture - color).max(2) < 12).sum())


def test_thumbnails_stand_in_the_figure_framed_by_the_color_of_their_side():
    green = np.zeros((8, 8, 3), dtype=np.uint8)
    green[..., 1] = 255
    plain = draw({})
    member, other = draw({0: green}), draw({3: green / 255.0})
    assert pixels_of(plain, (0, 255, 0)) == 0
    assert pixels_of(member, (0, 255, 0)) > 1000 and pixels_of(other, (0, 255, 0)) > 1000
    group, rest = (213, 94, 0), (86, 160, 200)
    assert pixels_of(member, group) > pixels_of(plain, group) + 100
    assert pixels_of(other, rest) > pixels_of(plain, rest) + 100
    rows = np.nonzero((np.abs(member - (0, 255, 0)).max(2) < 12).any(1))[0]
    assert rows.min() > member.shape[0] / 2  # row 0 is at the bottom
