from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.workspace.masks import MaskEntry, MaskSet

ENTRIES = [
    MaskEntry("s1", "train", "finding", 0.125, 0.25, "ok"),
    MaskEntry('a "quoted", id', "test", "retrieved", -1e-17, 0.0, "no evidence"),
    MaskEntry("ünï", "val", "finding", 3.0, 0.1, "ok"),
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
