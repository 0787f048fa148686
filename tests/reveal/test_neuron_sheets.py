from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import write_store
from torch import nn

from pipeline.attribution import Explainer
from pipeline.concepts.conditional import conditional_heatmaps
from pipeline.concepts.receptive_field import Box, ReceptiveFields, output_until
from pipeline.errors import DataError
from pipeline.reveal.neuron_sheets import PADDING, cut, most_active_positions, neuron_sheets
from pipeline.reveal.view import DataView
from pipeline.workspace.pictures import GAP, LABEL_WIDTH, TILE, faded, heatmap_image, to_image

COUNT, SIDE, WIDTH, SILENT = 18, 12, 4, 3


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.middle = nn.ReLU()
        self.second = nn.Conv2d(4, WIDTH, 3, padding=1)
        self.relu = nn.ReLU()
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x):
        return self.head(self.relu(self.second(self.middle(self.first(x)))).mean((2, 3)))


class Images(SimpleNamespace):
    """Images with a bright spot each."""

    def __getitem__(self, row: int) -> SimpleNamespace:
        return SimpleNamespace(x=self.pixels[row], y=int(row % 2), id=f"s{row}")


@pytest.fixture(scope="module")
def view(tmp_path_factory) -> DataView:
    torch.manual_seed(0)
    model = Network().eval()
    with torch.no_grad():
        model.second.bias[SILENT] = -100
        model.second.weight[:3].abs_()
        model.head.weight[0].abs_()
        model.head.weight[1] = -model.head.weight[0]
    pixels = torch.rand(COUNT, 1, SIDE, SIDE) * 0.3
    for row in range(COUNT):
        pixels[row, 0, row % 7 + 2, (5 * row) % 9 + 1] = 1
    with torch.no_grad():
        values = output_until(model, "relu", pixels).amax((2, 3)).numpy()
    store = write_store(tmp_path_factory.mktemp("store"), {"relu": values})
    store.labels = np.arange(COUNT) % 2
    dataset = Images(pixels=pixels, shape=(1, SIDE, SIDE), classes=("even", "a name that is far too long"))
    return DataView(store, dataset, model, np.arange(2, COUNT))


@pytest.fixture(scope="module")
def explainer(view) -> Explainer:
    return Explainer(view.model, view.dataset.pixels[:2], "epsilon_plus")


def tile(page: Image.Image, row: int, column: int) -> np.ndarray:
    left, top = LABEL_WIDTH + GAP + column * (TILE + GAP), GAP + row * (TILE + GAP)
    return np.array(page.crop((left, top, left + TILE, top + TILE)))


def assert_tiles(page: Image.Image, row: int, expected: list[Image.Image]) -> None:
    for column, image in enumerate(expected):
        assert np.array_equal(tile(page, row, column), np.array(image)), f"column {column}"


@pytest.fixture(scope="module")
def page(view, explainer) -> Image.Image:
    return neuron_sheets(view, explainer, 0, "relu", [1], count=4)[0]


def strongest(values: np.ndarray, rows: np.ndarray, count: int = 4) -> np.ndarray:
    return rows[np.argsort(-values[rows], kind="stable")[:count]]


def test_the_first_row_shows_the_most_active_samples_of_all_classes(view, page):
    assert page.size == (LABEL_WIDTH + 4 * (TILE + GAP) + GAP, 5 * (TILE + GAP) + GAP)
    rows = strongest(view.store.activations("relu")[:, 1], view.rows)
    assert set(rows % 2) == {0, 1}
    assert_tiles(page, 0, [to_image(view.dataset.pixels[row].numpy()) for row in rows])


def test_the_second_row_shows_what_the_neuron_sees_where_it_is_most_active(view, page):
    rows = strongest(view.store.activations("relu")[:, 1], view.rows)
    maps = output_until(view.model, "relu", view.dataset.pixels[rows])[:, 1].detach().numpy()
    positions = [np.unravel_index(each.argmax(), each.shape) for each in maps]
    boxes = ReceptiveFields(view.model, (1, SIDE, SIDE), share=0.9).boxes("relu", positions)
    assert all(box.bottom - box.top <= 5 and box.right - box.left <= 5 for box in boxes)
    images = view.dataset.pixels[rows]
    assert_tiles(page, 1, [to_image(cut(x, box).numpy()) for x, box in zip(images, boxes, strict=True)])


def test_the_other_rows_show_where_the_class_owes_most_relevance_to_the_neuron(view, explainer, page):
    values = view.store.relevances("relu")
    shares = values / np.abs(values).sum(1, keepdims=True)
    rows = strongest(shares[:, 1], view.rows[view.rows % 2 == 0])
    images = view.dataset.pixels[rows]
    heatmaps = conditional_heatmaps(explainer, images, 0, "relu", 1)
    assert_tiles(page, 2, [to_image(x.numpy()) for x in images])
    assert_tiles(page, 3, [heatmap_image(heatmap) for heatmap in heatmaps])
    assert_tiles(page, 4, [faded(x.numpy(), heatmap) for x, heatmap in zip(images, heatmaps, strict=True)])


def test_rows_bear_their_names(page):
    for row in range(5):
        label = np.array(page)[GAP + row * (TILE + GAP) :][:TILE, :LABEL_WIDTH]
        assert (label.min(2) < 100).sum() > 50
        assert (label[:, -3:] > 200).all(), "the name does not run into the tiles"


def test_a_long_class_name_does_not_run_into_the_tiles(view, explainer):
    label = np.array(neuron_sheets(view, explainer, 1, "relu", [1], count=2)[0])[:, LABEL_WIDTH - 3 : LABEL_WIDTH]
    assert (label > 200).all()


def test_sheets_of_several_neurons_are_those_of_each(view, explainer, page):
    sheets = neuron_sheets(view, explainer, 0, "relu", [2, 1], count=4)
    assert np.array_equal(np.array(sheets[1]), np.array(page))
    assert not np.array_equal(np.array(sheets[0]), np.array(page))


def test_a_silent_neuron_has_an_empty_sheet(view, explainer):
    page = neuron_sheets(view, explainer, 0, "relu", [SILENT])[0]
    assert page.height == 5 * (TILE + GAP) + GAP
    assert (np.array(page)[:, LABEL_WIDTH:] == 255).all()


def test_the_model_is_left_as_it_was(view, explainer, page):
    assert not view.model.training and not view.model.relu._forward_hooks


def test_known_receptive_fields_are_used(view, explainer):
    fields = ReceptiveFields(view.model, (1, SIDE, SIDE), share=1.0)
    fields.boxes = lambda layer, positions: [Box(0, 0, SIDE, SIDE)] * len(positions)
    page = neuron_sheet_with(view, explainer, fields)
    assert np.array_equal(tile(page, 0, 0), tile(page, 1, 0))


def neuron_sheet_with(view: DataView, explainer: Explainer, fields: ReceptiveFields) -> Image.Image:
    return neuron_sheets(view, explainer, 0, "relu", [1], 2, fields=fields)[0]


def test_positions_are_those_of_the_largest_activation_the_first_of_equals():
    activation = torch.zeros(3, 2, 4, 5)
    activation[0, 1, 2, 3], activation[1, 1, 3, 0], activation[1, 0, 1, 1] = 1, 2, 9
    expected = [(2, 3), (3, 0), (0, 0)]
    assert most_active_positions(activation, 1, 1) == expected
    assert most_active_positions(activation.movedim(1, -1), 1, -1) == expected
    assert most_active_positions(activation.flatten(2), 1, 1) == [(13,), (15,), (0,)]
    assert most_active_positions(activation[..., 0, 0], 1, 1) == [(), (), ()]


@pytest.mark.parametrize(
    ("box", "shape"),
    [(Box(0, 0, 6, 9), (6, 9)), (Box(1, 1, 3, 4), (2, 3)), (Box(0, 0, 2, 1), (2, 3)), (Box(0, 0, 2, 6), (4, 6))],
    ids=["whole", "in proportion", "narrow", "flat"],
)
def test_crops_keep_the_proportions_of_the_image(box, shape):
    x = torch.zeros(1, 6, 9)
    part = cut(x, box)
    assert part.shape == (1, *shape)
    assert int((part == 0).sum()) == (box.bottom - box.top) * (box.right - box.left)
    assert ((part == 0) | (part == PADDING)).all()


def test_what_cannot_be_shown_is_refused(view, explainer):
    with pytest.raises(ValueError, match="channels 0 to 3; 4 is asked for"):
        neuron_sheets(view, explainer, 0, "relu", [4])[0]
    signals = DataView(view.store, SimpleNamespace(shape=(2, 30), classes=("x",)), view.model, view.rows)
    with pytest.raises(DataError, match="show images"):
        neuron_sheets(signals, explainer, 0, "relu", [0])[0]
