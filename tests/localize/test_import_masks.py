from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.mask_import import ImportedMasks
from pipeline.data.memory import ArrayDataset, make_table
from pipeline.errors import ConfigError, DataError
from pipeline.localize.import_masks import carried_over, imported, imported_and_merged, match_files, read_mask
from pipeline.localize.training_masks import resize_mask
from pipeline.workspace.masks import MaskEntry, MaskSet, save_mask
from pipeline.workspace.progress import SilentReporter

SIZE = (8, 10)
IDS = ["scan", "b", "photo.jpg", "12", "v1.5"]


class Listener(SilentReporter):
    def __init__(self):
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "masks"


@pytest.fixture
def dataset() -> ArrayDataset:
    return dataset_of(IDS)


def dataset_of(ids: list[str]) -> ArrayDataset:
    pixels = np.zeros((len(ids), 1, *SIZE), dtype=np.uint8)
    return ArrayDataset(pixels, make_table(ids, [0] * len(ids), ["train"] * len(ids)), ("one", "two"))


def corner(height: int = 3, width: int = 4, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[:height, :width] = True
    return mask


def save(folder: Path, name: str, values: np.ndarray, mode: str | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(folder / name, format="PNG")
    return folder / name


def section(folder: Path, **changes) -> ImportedMasks:
    return ImportedMasks(bias="tape", folder=str(folder), **changes)


def binary_file(mask: np.ndarray) -> np.ndarray:
    return (mask * 255).astype(np.uint8)


# Which file shows which sample


@pytest.mark.parametrize(
    ("name", "row"),
    [("scan.png", 0), ("photo.jpg.png", 2), ("photo.png", 2), ("12.png", 3), ("v1.5.png", 4), ("b.PNG", 1)],
)
def test_files_are_named_by_id(folder, name, row):
    save(folder, name, binary_file(corner()))
    assert match_files(section(folder), IDS).files == {row: folder / name}


@pytest.mark.parametrize("name", ["0.png", "Scan.png", "scan_mask.png", "v1.png", "v1.6.png", "photo.tar.png"])
def test_similar_names_are_no_match(folder, name):
    save(folder, "scan.png", binary_file(corner()))
    save(folder, name, binary_file(corner()))
    found = match_files(section(folder), IDS)
    assert (list(found.files), found.unmatched) == ([0], [name])


def test_the_id_that_is_written_out_goes_before_the_one_that_is_shortened(folder):
    save(folder, "a.png", binary_file(corner()))
    assert list(match_files(section(folder), ["a.jpg", "a"]).files) == [1]


def test_the_whole_name_of_a_file_tells_ids_apart_that_differ_in_their_suffix(folder):
    save(folder, "a.png", binary_file(corner()))
    assert list(match_files(section(folder), ["a.jpg", "a.png"]).files) == [1]
    assert list(match_files(section(folder), ["a.png", "a"]).files) == [1]


def test_files_are_named_by_row_only_where_it_is_asked_for(folder):
    for name in ("0.png", "0003.png", "5.png", "-1.png", "scan.png", "1.0.png", "²۱.png"):
        save(folder, name, binary_file(corner()))
    by_row = match_files(section(folder, names="row"), IDS)
    assert by_row.files == {0: folder / "0.png", 3: folder / "0003.png"}
    assert by_row.unmatched == sorted(["5.png", "-1.png", "scan.png", "1.0.png", "²۱.png"])
    assert match_files(section(folder), IDS).files == {0: folder / "scan.png"}


def test_row_zero_comes_through(folder, dataset):
    save(folder, "0.png", binary_file(corner()))
    ((row, soft, mask),) = imported(section(folder, names="row"), dataset, SIZE)
    assert row == 0
    assert np.array_equal(mask, corner()) and np.array_equal(soft, corner())


def test_samples_come_in_the_order_of_the_data_set(folder, dataset):
    for name in ("12.png", "b.png", "scan.png"):
        save(folder, name, binary_file(corner()))
    assert list(match_files(section(folder), IDS).files) == [0, 1, 3]
    assert [row for row, _, _ in imported(section(folder), dataset, SIZE)] == [0, 1, 3]
    # as a set, 8 and 1 would come in this order
    many = dataset_of([f"s{row}" for row in range(9)])
    for name in ("s8.png", "s1.png"):
        save(folder, name, binary_file(corner()))
    assert [row for row, _, _ in imported(section(folder), many, SIZE)] == [1, 8]


def test_what_matches_nothing_is_counted_and_ten_are_named(folder, dataset):
    save(folder, "scan.png", binary_file(corner()))
    for number in range(12):
        save(folder, f"x{number:02d}.png", binary_file(corner()))
    listener = Listener()
    list(imported(section(folder), dataset, SIZE, listener))
    (line,) = listener.lines
    assert "tape: 1 of 13 masks" in line and "12 match none" in line
    assert "'x00.png'" in line and "'x09.png'" in line and "x10.png" not in line


def test_where_everything_matches_nobody_is_warned(folder, dataset):
    save(folder, "scan.png", binary_file(corner()))
    listener = Listener()
    list(imported(section(folder), dataset, SIZE, listener))
    assert listener.lines[0].startswith("    tape: 1 of 1 masks") and "WARNING" not in listener.lines[0]


@pytest.mark.parametrize(
    ("names", "file", "hint"),
    [("id", "7.png", "names: row"), ("id", "x.png", "Rename them"), ("row", "scan.png", "Rows are 0 to 4")],
)
def test_where_nothing_matches_the_names_and_a_way_out_are_told(folder, names, file, hint):
    save(folder, file, binary_file(corner()))
    with pytest.raises(ConfigError, match=rf"none of 1 PNG files .*'{file}'.*'scan', 'b'.*{hint}"):
        match_files(section(folder, names=names), IDS)


def test_a_folder_without_masks_is_refused(folder):
    with pytest.raises(ConfigError, match="does not exist"):
        match_files(section(folder), IDS)
    folder.mkdir()
    (folder / "scan.jpg").write_bytes(b"")
    (folder / ".scan.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="holds no PNG files"):
        match_files(section(folder), IDS)
    with pytest.raises(ConfigError, match="is not a folder"):
        match_files(section(folder / "scan.jpg"), IDS)


def test_two_files_of_one_sample_are_refused(folder):
    save(folder, "7.png", binary_file(corner()))
    save(folder, "07.png", binary_file(corner()))
    with pytest.raises(ConfigError, match=r"07\.png and 7\.png both show row 7, sample 's7'"):
        match_files(section(folder, names="row"), [f"s{row}" for row in range(8)])


def test_a_file_that_may_show_two_samples_is_refused(folder):
    save(folder, "a.png", binary_file(corner()))
    with pytest.raises(ConfigError, match=r"any of 'a\.jpg', 'a\.tif'.*'a\.jpg\.png'"):
        match_files(section(folder), ["a.jpg", "a.tif"])


# What is inside


@pytest.mark.parametrize("mode", [None, "1", "RGB", "P", "LA"])
def test_binary_masks_are_recognized_in_every_grey_form(folder, mode):
    path = save(folder, "scan.png", binary_file(corner()), mode)
    soft, mask = read_mask(path, section(folder), SIZE)
    assert np.array_equal(mask, corner())
    assert np.array_equal(soft, corner().astype(float))


def test_zeros_and_ones_are_a_binary_mask(folder):
    path = save(folder, "scan.png", corner().astype(np.uint8))
    for kind in ("auto", "binary"):
        soft, mask = read_mask(path, section(folder, kind=kind), SIZE)
        assert np.array_equal(mask, corner()) and soft.max() == 1
    soft, mask = read_mask(path, section(folder), (5, 7))
    assert np.array_equal(mask, resize_mask(corner(), (5, 7))) and np.array_equal(soft, mask)


def ramp() -> np.ndarray:
    return np.arange(80, dtype=np.uint8).reshape(SIZE) * 2  # the largest value is 158


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5])
def test_heat_maps_are_recognized_and_cut_at_a_share_of_their_maximum(folder, threshold):
    path = save(folder, "scan.png", ramp())
    soft, mask = read_mask(path, section(folder, threshold=threshold), SIZE)
    np.testing.assert_allclose(soft, ramp() / 158)
    assert np.array_equal(mask, ramp() > threshold * 158)


def test_sixteen_bits_are_not_cut_off(folder):
    wide = ramp().astype(np.uint16) * 400
    soft, mask = read_mask(save(folder, "scan.png", wide), section(folder), SIZE)
    np.testing.assert_allclose(soft, wide / wide.max())
    _, mask = read_mask(save(folder, "scan.png", corner() * np.uint16(65535)), section(folder), SIZE)
    assert np.array_equal(mask, corner())
    halves = np.where(corner(), np.uint16(32768), np.uint16(32767))
    _, mask = read_mask(save(folder, "scan.png", halves), section(folder, kind="binary"), SIZE)
    assert np.array_equal(mask, corner())


def test_the_kind_can_be_told(folder):
    path = save(folder, "scan.png", ramp())
    soft, mask = read_mask(path, section(folder, kind="binary"), SIZE)
    assert np.array_equal(mask, ramp() > 127) and np.array_equal(soft, mask)
    path = save(folder, "scan.png", binary_file(corner(size=(16, 20))))
    soft, _ = read_mask(path, section(folder, kind="heat"), (5, 7))
    assert 0 < soft[1, 1] and ((soft > 0) & (soft < 1)).any()


@pytest.mark.parametrize("level", [0, 90])
def test_a_constant_heat_map_shows_nothing(folder, level):
    soft, mask = read_mask(save(folder, "scan.png", np.full(SIZE, level, np.uint8)), section(folder, kind="heat"), SIZE)
    assert not soft.any() and not mask.any()


def test_binary_masks_may_be_empty_or_full(folder):
    for level, inside in ((0, False), (255, True)):
        _, mask = read_mask(save(folder, "scan.png", np.full(SIZE, level, np.uint8)), section(folder), SIZE)
        assert (mask == inside).all()


def test_masks_are_brought_to_the_size_of_the_samples(folder):
    large = np.kron(corner(), np.ones((3, 3))).astype(bool)
    _, mask = read_mask(save(folder, "scan.png", binary_file(large)), section(folder), SIZE)
    assert np.array_equal(mask, corner())
    heat = np.kron(ramp(), np.ones((4, 4))).astype(np.uint8)
    soft, _ = read_mask(save(folder, "scan.png", heat), section(folder), SIZE)
    assert soft.shape == SIZE and soft.max() == 1
    np.testing.assert_allclose(soft, ramp() / 158, atol=0.1)


def test_signals_are_masks_of_one_line(folder):
    mask = np.arange(40) // 10 == 1
    folder.mkdir()
    save_mask(folder / "b.png", mask * 255)
    soft, found = read_mask(folder / "b.png", section(folder), (40,))
    assert np.array_equal(found, mask) and soft.shape == (40,)
    _, half = read_mask(folder / "b.png", section(folder), (20,))
    assert np.array_equal(half, mask[::2])
    _, line = read_mask(folder / "b.png", section(folder), (1, 40))
    assert np.array_equal(line, mask[None])


# What is refused


@pytest.mark.parametrize(("shape", "size"), [((1, 80), SIZE), ((8, 10), (80,))], ids=["line", "image"])
def test_another_number_of_axes_is_refused(folder, shape, size):
    path = save(folder, "scan.png", ramp().reshape(shape))
    with pytest.raises(DataError, match=rf"scan\.png is an image \[{shape[0]}, {shape[1]}\]"):
        read_mask(path, section(folder), size)


def test_unreadable_files_are_named(folder, dataset):
    whole = save(folder, "scan.png", np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).read_bytes()
    for content in (b"", b"no image", whole[: len(whole) // 2], whole[:40]):
        (folder / "scan.png").write_bytes(content)
        with pytest.raises(DataError, match=r"scan\.png cannot be read"):
            list(imported(section(folder), dataset, SIZE))


def test_a_picture_of_another_format_under_the_name_of_a_mask_is_refused(folder):
    folder.mkdir()
    Image.fromarray(binary_file(corner())).save(folder / "scan.png", format="JPEG")
    with pytest.raises(DataError, match=r"scan\.png cannot be read"):
        read_mask(folder / "scan.png", section(folder), SIZE)


def test_colors_and_transparency_are_refused(folder):
    colored = np.zeros((*SIZE, 3), np.uint8)
    colored[..., 0] = binary_file(corner())
    clear = np.full((*SIZE, 4), 255, np.uint8)
    clear[..., 3] = binary_file(corner())
    for values in (colored, clear):
        with pytest.raises(DataError, match=r"scan\.png has colors or transparent pixels"):
            read_mask(save(folder, "scan.png", values), section(folder), SIZE)


# Several artifacts


def test_several_folders_of_a_bias_are_merged_sample_by_sample(tmp_path, dataset):
    one, other = tmp_path / "one", tmp_path / "other"
    save(one, "scan.png", binary_file(corner(2, 5)))
    save(one, "b.png", binary_file(corner()))
    save(other, "0.png", ramp())
    save(other, "4.png", ramp())
    sections = [section(one), section(other, names="row", threshold=0.5)]
    found = {row: (soft, mask) for row, soft, mask in imported_and_merged(sections, dataset, SIZE)}
    assert list(found) == [0, 1, 4]
    assert np.array_equal(found[0][1], corner(2, 5) | (ramp() > 79))
    np.testing.assert_allclose(found[0][0], np.maximum(corner(2, 5), ramp() / 158))
    assert np.array_equal(found[1][1], corner())
    assert np.array_equal(found[4][1], ramp() > 79)


def test_no_mask_is_read_before_every_folder_is_known_to_match(tmp_path, dataset):
    save(tmp_path / "one", "scan.png", binary_file(corner()))
    (tmp_path / "one/scan.png").write_bytes(b"damaged")
    save(tmp_path / "other", "x.png", binary_file(corner()))
    with pytest.raises(ConfigError, match="none of 1 PNG files"):
        list(imported_and_merged([section(tmp_path / "one"), section(tmp_path / "other")], dataset, SIZE))


# What an earlier run localized


@pytest.fixture
def masks(tmp_path) -> MaskSet:
    masks = MaskSet(tmp_path / "earlier")
    soft = corner() * 0.6
    soft[0, 0] = 1
    for name in ("b", "gone"):
        masks.write(name, soft, corner(), ~corner())
    entries = [("b", "train", "finding", 1.0, 0.15, "ok"), ("gone", "train", "finding", 1.0, 0.15, "ok")]
    masks.write_index([MaskEntry(*each) for each in [*entries, ("12", "val", "finding", -1.0, 0.0, "no evidence")]])
    return masks


def test_masks_of_an_earlier_run_come_with_their_entries_and_rows(masks, dataset):
    (first, second) = carried_over(masks, dataset, SIZE)
    assert (first[0], first[1].id, first[1].source) == (1, "b", "finding")
    assert np.array_equal(first[3], corner()) and first[2].max() == 1
    np.testing.assert_allclose(first[2][corner()][1:], 0.6, atol=1e-9)
    assert (second[0], second[1].status, second[3]) == (3, "no evidence", None)


def test_masks_of_an_earlier_run_take_the_size_of_the_samples(masks, dataset):
    ((_, _, soft, mask), _) = carried_over(masks, dataset, (16, 20))
    assert np.array_equal(mask, corner(6, 8, (16, 20))) and soft.shape == (16, 20)


def test_masks_of_images_are_not_those_of_signals(masks, dataset):
    with pytest.raises(DataError, match=r"mask of sample 'b' in .*earlier is \[8, 10\].*\[40\].*reveal\.earlier"):
        list(carried_over(masks, dataset, (40,)))
