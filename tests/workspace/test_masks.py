from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import StoreError
from pipeline.workspace.masks import MaskEntry, MaskSet, save_mask

ENTRIES = [
    MaskEntry("s1", "train", "finding", 0.125, 0.25, "ok"),
    MaskEntry('a "quoted", id', "test", "retrieved", -1e-17, 0.0, "no evidence"),
    MaskEntry("ünï", "val", "imported", 3.0, 0.1, "ok"),
]


@pytest.fixture
def masks(tmp_path):
    return MaskSet(tmp_path / "bias")


@pytest.fixture
def written(masks):
    generator = np.random.default_rng(0)
    soft = generator.random((12, 9))
    mask = soft > 0.7
    masks.write("s1", soft, mask, ~mask)
    return soft, mask


def test_masks_come_back_as_they_were_written(masks, written):
    soft, mask = written
    assert np.array_equal(masks.read("s1"), mask)
    assert np.array_equal(masks.read("s1", "foreground"), ~mask)
    np.testing.assert_allclose(masks.read("s1", "soft"), soft, atol=0.5 / 255 + 1e-9)


def test_masks_of_signals_come_back_with_one_axis(masks):
    soft = np.random.default_rng(1).random(500)
    mask = soft > 0.9
    masks.write("lead", soft, mask, ~mask)
    assert masks.read("lead").shape == (500,)
    assert np.array_equal(masks.read("lead"), mask)
    assert np.array_equal(masks.read("lead", "foreground"), ~mask)
    np.testing.assert_allclose(masks.read("lead", "soft"), soft, atol=0.5 / 255 + 1e-9)


def test_an_image_of_one_line_is_no_signal(masks):
    mask = np.array([[True, False, True]])
    masks.write("line", mask.astype(float), mask, ~mask)
    assert masks.read("line").shape == (1, 3)


def test_a_signal_is_stored_as_a_picture_that_any_program_reads(masks):
    mask = np.arange(6) % 2 == 0
    masks.write("lead", mask.astype(float), mask, ~mask)
    with Image.open(masks.folder / "masks/lead.png") as image:
        assert (image.size, image.mode) == ((6, 1), "L")
        assert np.asarray(image).tolist() == [[255, 0, 255, 0, 255, 0]]


def test_equal_masks_are_equal_bytes(masks, tmp_path):
    for shape in ((7,), (3, 4)):
        values = np.arange(np.prod(shape)).reshape(shape)
        save_mask(tmp_path / "one.png", values)
        save_mask(tmp_path / "other.png", values)
        assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()


@pytest.mark.parametrize("sample_id", ["", "../s1", "/etc/s1", "a/b", "a\\b", "a\0b"])
def test_an_id_that_leads_out_of_the_folder_is_refused(masks, written, sample_id):
    mask = np.ones((2, 2), dtype=bool)
    with pytest.raises(StoreError, match="cannot be the name of a mask"):
        masks.write(sample_id, mask.astype(float), mask, ~mask)
    with pytest.raises(StoreError, match="cannot be the name of a mask"):
        masks.read(sample_id)
    assert sorted(path.name for path in masks.folder.rglob("*.png")) == ["s1.png"] * 3


@pytest.mark.parametrize("sample_id", ["a b", "x..y", "..", "50%", 'ünï,"q"', "s1.png", "-r", "C:x"])
def test_odd_ids_are_names_of_masks(masks, sample_id):
    mask = np.array([[True, False]])
    masks.write(sample_id, mask.astype(float), mask, ~mask)
    assert np.array_equal(masks.read(sample_id), mask)
    assert (masks.folder / "masks" / f"{sample_id}.png").parent.samefile(masks.folder / "masks")


def test_the_index_comes_back_as_it_was_written(masks):
    masks.write_index(ENTRIES)
    assert masks.index() == ENTRIES


def test_an_empty_index_is_not_a_missing_one(masks):
    masks.write_index([])
    assert masks.index() == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"id,split,score\ns1,train,1\n",
        b"id,split,source,score,area,status\ns1,train,fin",
        b"id,split,source,score,area,status\ns1,train,finding,much,0.5,ok\n",
        b"id,split,source,score,area,status\ns1,train,finding,1,0.5,ok,more\n",
        b"id,split,source,score,area,status\n\xff\xfe,train,finding,1,0.5,ok\n",
    ],
    ids=["empty", "other columns", "cut off", "no number", "too long", "no text"],
)
def test_a_damaged_index_names_the_file_and_the_next_step(masks, content):
    masks.folder.mkdir()
    (masks.folder / "index.csv").write_bytes(content)
    with pytest.raises(StoreError, match=r"index\.csv cannot be read .*Start localize again, with --force"):
        masks.index()


def test_a_missing_index_names_the_file_and_the_next_step(masks):
    with pytest.raises(StoreError, match=r"index\.csv cannot be read .*Start localize again, with --force"):
        masks.index()


@pytest.mark.parametrize("kind", ["masks", "soft", "foreground"])
def test_a_missing_mask_names_the_file_and_the_next_step(masks, written, kind):
    with pytest.raises(StoreError, match=rf"{kind}/s2\.png cannot be read .*Start localize again, with --force"):
        masks.read("s2", kind)


def test_a_mask_is_read_whole_or_is_an_error_that_names_the_file_wherever_it_is_cut_off(masks, written):
    path = masks.folder / "masks/s1.png"
    content = path.read_bytes()
    refused = 0
    for length in range(len(content)):
        path.write_bytes(content[:length])
        try:
            # what follows the pixels, such as their checksum, is not needed for reading them
            assert np.array_equal(masks.read("s1"), written[1])
        except StoreError as error:
            assert "masks/s1.png cannot be read" in str(error)
            refused += 1
    assert refused > len(content) / 2


def test_a_mask_with_any_byte_changed_is_read_or_is_an_error_that_names_the_file(masks, written):
    path = masks.folder / "masks/s1.png"
    content = path.read_bytes()
    refused = 0
    for position in range(len(content)):
        for change in np.random.default_rng(position).integers(1, 256, 6):
            path.write_bytes(content[:position] + bytes([content[position] ^ int(change)]) + content[position + 1 :])
            try:
                masks.read("s1")
            except StoreError:
                refused += 1
    assert refused > 3 * len(content)
