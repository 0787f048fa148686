from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image

from pipeline.data import images
from pipeline.data.images import MaskFiles, UnusableImage, read_image
from pipeline.data.load import load_dataset
from pipeline.errors import DataError


@pytest.fixture(params=["torchvision", "pillow"])
def jpeg_decoder(request, monkeypatch):
    """Releases of torchvision to come will not decode any more."""
    if request.param == "pillow":
        monkeypatch.setattr(images, "decode_jpeg", None)


def encoded(pixels, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def read(tmp_path, data, channels=3, image_size=None, name="a.png"):
    (tmp_path / name).write_bytes(data)
    return read_image(tmp_path / name, channels, image_size)[0]


def read_array(tmp_path, values, channels=3, image_size=None):
    np.save(tmp_path / "a.npy", values)
    return read_image(tmp_path / "a.npy", channels, image_size)[0]


def test_png_is_read_exactly(tmp_path, picture):
    pixels = read(tmp_path, encoded(picture(0), "PNG"))
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, picture(0).transpose(2, 0, 1))


def test_jpeg_agrees_with_pillow(tmp_path, jpeg_decoder):
    smooth = np.add.outer(np.arange(40), 2 * np.arange(32))[..., None].repeat(3, -1).astype(np.uint8)
    data = encoded(smooth, "JPEG", quality=95)
    for channels, mode in ((3, "RGB"), (1, "L")):
        reference = np.atleast_3d(np.asarray(Image.open(io.BytesIO(data)).convert(mode))).transpose(2, 0, 1)
        assert np.abs(read(tmp_path, data, channels).astype(int) - reference).max() <= 3


def test_file_is_decoded_by_what_it_is_not_by_its_name(tmp_path, picture):
    pixels = read(tmp_path, encoded(picture(0), "PNG"), name="a.jpg")
    assert np.array_equal(pixels, picture(0).transpose(2, 0, 1))


def test_resizing_agrees_with_pillow(tmp_path, picture):
    reference = np.asarray(Image.fromarray(picture(3, 48, 30)).resize((16, 16), Image.Resampling.BILINEAR))
    pixels = read(tmp_path, encoded(picture(3, 48, 30), "PNG"), image_size=16)
    assert np.abs(pixels.astype(int) - reference.transpose(2, 0, 1)).max() <= 1


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_modes_of_images_are_converted(tmp_path, picture, mode):
    image = Image.fromarray(picture(0)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    for channels, target in ((3, "RGB"), (1, "L")):
        expected = np.atleast_3d(np.asarray(image.convert(target))).transpose(2, 0, 1)
        assert np.array_equal(read(tmp_path, buffer.getvalue(), channels), expected)


def test_sixteen_bits_are_reduced_and_not_clipped(tmp_path):
    wide = (np.arange(576).reshape(24, 24) * 100).astype(np.uint16)
    assert np.array_equal(read(tmp_path, encoded(wide, "PNG"), channels=1)[0], wide >> 8)


@pytest.mark.parametrize(
    "kind, options",
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {}), ("BMP", {})],
)
def test_truncation_is_noticed_wherever_it_happens(tmp_path, picture, jpeg_decoder, kind, options):
    data = encoded(picture(0), kind, **options)
    # The very last bytes of a PNG and a GIF say only that the file ends.
    for length in (1, 3, 20, len(data) // 2, len(data) - 20, len(data) - 12):
        with pytest.raises(UnusableImage, match="truncated or undecodable: ."):
            read(tmp_path, data[:length])
    if kind == "JPEG":
        with pytest.raises(UnusableImage, match="truncated"):
            read(tmp_path, data[:-1])


def test_file_filled_up_with_zeros_is_noticed(tmp_path, picture, jpeg_decoder):
    for kind in ("JPEG", "PNG"):
        data = encoded(picture(0), kind)
        for length in (len(data) // 2, len(data) - 100):
            with pytest.raises(UnusableImage, match="truncated or undecodable"):
                read(tmp_path, data[:length] + bytes(len(data) - length))


def test_damaged_byte_in_a_png_is_noticed_and_ends_nothing(tmp_path, picture):
    data = encoded(picture(0), "PNG")
    for place in range(8, len(data) - 16, 97):
        damaged = bytearray(data)
        damaged[place] ^= 0x55
        with pytest.raises(UnusableImage, match="truncated or undecodable"):
            read(tmp_path, bytes(damaged))


def test_what_is_no_image_is_refused(tmp_path):
    with pytest.raises(UnusableImage, match="undecodable"):
        read(tmp_path, b"<html>404 not found</html>", name="a.jpg")
    with pytest.raises(UnusableImage, match="empty file"):
        read(tmp_path, b"")
    with pytest.raises(UnusableImage, match="missing file"):
        read_image(tmp_path / "b.png", 3, None)
    with pytest.raises(UnusableImage, match="unreadable file: Is a directory"):
        read_image(tmp_path, 3, None)
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UnusableImage, match="floating-point"):
        read_image(tmp_path / "a.tif", 1, None)


def test_arrays_of_bytes_and_floats_are_read(tmp_path):
    grey = np.linspace(0, 1, 64).reshape(8, 8)
    expected = np.round(grey * 255).astype(np.uint8)
    assert np.array_equal(read_array(tmp_path, grey, 1), expected[None])
    assert np.array_equal(read_array(tmp_path, expected[None], 3), np.stack([expected] * 3))
    color = np.stack([expected, 0 * expected, 0 * expected])
    assert np.array_equal(read_array(tmp_path, color, 1)[0], np.round(0.299 * expected))
    assert read_array(tmp_path, np.asfortranarray(color), 3, image_size=4).shape == (3, 4, 4)


@pytest.mark.parametrize(
    "values, reason",
    [
        (np.full((8, 8), np.nan), "NaN"),
        (np.full((8, 8), np.inf), "infinite"),
        (np.full((8, 8), 1.5), r"values from 1.5 to 1.5; floats must lie in \[0, 1\]"),
        (np.full((8, 8), -0.1, np.float32), "floats must lie"),
        (np.zeros((8, 8), np.int64), "type int64"),
        (np.zeros((8, 8, 3), np.uint8), r"shape \[8, 8, 3\]"),
        (np.zeros((2, 8, 8), np.uint8), r"shape \[2, 8, 8\]"),
        (np.zeros(8, np.uint8), r"shape \[8\]"),
        (np.array([["a", "b"]]), "type <U1"),
        (np.array([{"a": 1}], dtype=object), "undecodable"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path, values, reason):
    with pytest.raises(UnusableImage, match=reason):
        read_array(tmp_path, values)


def test_truncated_array_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((8, 8), np.uint8))
    data = (tmp_path / "a.npy").read_bytes()
    for length in (7, 40, len(data) - 1):
        with pytest.raises(UnusableImage, match="truncated or undecodable"):
            read(tmp_path, data[:length], name="b.npy")


def test_masks_take_the_nearest_value_above_127(tmp_path):
    values = np.array([[0, 128, 127, 255]] * 4, dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "m.png")
    masks = MaskFiles([tmp_path / "m.png", tmp_path / "none.png"], (8, 2))
    mask = masks(0)
    assert mask.dtype == bool and np.array_equal(mask, [[True, True]] * 8)
    assert masks(1) is None
    assert np.array_equal(MaskFiles([tmp_path / "m.png"], (4, 8))(0), np.repeat(values > 127, 2, axis=1))


def test_mask_of_zeros_and_ones_is_taken_as_such(tmp_path):
    values = np.eye(4, dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "m.png")
    assert np.array_equal(MaskFiles([tmp_path / "m.png"], (4, 4))(0), values > 0)


def test_damaged_mask_is_named(tmp_path):
    (tmp_path / "m.png").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"m\.png.*repair"):
        MaskFiles([tmp_path / "m.png"], (4, 4))(0)


def test_data_set_is_the_same_with_and_without_cache(table_config):
    cached, direct = load_dataset(table_config()), load_dataset(table_config(cache_megabytes=0))
    assert cached.pixels is not None and direct.pixels is None
    assert cached.fingerprint() == direct.fingerprint() and cached.table.equals(direct.table)
    assert all(np.array_equal(cached[row].x, direct[row].x) for row in range(len(cached)))


def test_cache_holds_up_to_its_size(table_config):
    # 30 images of 3 x 105 x 105 bytes are 0.95 MiB, of 3 x 120 x 120 bytes 1.24 MiB.
    assert load_dataset(table_config(cache_megabytes=1, image_size=105)).pixels is not None
    assert load_dataset(table_config(cache_megabytes=1, image_size=120)).pixels is None


def test_file_that_changes_during_the_run_is_noticed(table_config, table_folder, picture):
    data = load_dataset(table_config(cache_megabytes=0))
    path = table_folder / "images/IM_000.png"
    Image.fromarray(picture(99)).save(path)
    with pytest.raises(DataError, match=r"IM_000\.png has changed"):
        data[0]
    path.unlink()
    with pytest.raises(DataError, match=r"IM_000\.png can no longer be read: missing file"):
        data[0]


def test_progress_counts_every_image(table_config):
    class Recorder:
        seen = 0

        def track(self, items, label, total=None):
            assert (label, total) == ("decode images", 30)
            for item in items:
                yield item
                self.seen += 1

    recorder = Recorder()
    load_dataset(table_config(), progress=recorder)
    assert recorder.seen == 30


def test_interruption_leaves_no_image_waiting():
    started = []

    def slow(row):
        started.append(row)
        time.sleep(0.02)
        return "", ""

    work = images._in_threads(slow, 3000)
    next(work)
    work.close()
    assert len(started) < 3000
