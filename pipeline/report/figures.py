"""Pictures of the run inside the page, within a budget: the most important ones first."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

PICTURE_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
SMALL_PICTURE = 150  # pixels; smaller pictures are enlarged without blurring, so that single pixels can be seen
MEGABYTE = 1e6  # bytes


@dataclass(frozen=True)
class Picture:
    """A picture in the page, or the reason why it is not there.

    Attributes:
        caption: stands below it.
        alt: what is to be seen, for those who do not see it.
        source: a data URI; "" where there is a problem.
        width: in pixels.
        height: in pixels.
        problem: why it is not shown.
    """

    caption: str
    alt: str = ""
    source: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""

    @property
    def css(self) -> str:
        """The CSS class: `small` pictures are enlarged, `wide` ones take the whole width."""
        if max(self.width, self.height) < SMALL_PICTURE:
            return "small"
        return "wide" if self.width > 1.8 * self.height else ""


class Album:
    """Embeds pictures of a run until their budget is spent; those that are asked for first come first.

    Args:
        run_dir: pictures are read from there and nowhere else.
        megabytes: of embedded pictures, as they are in the page (base64).
        without_pictures: why none is shown at all; "" where they are.
    """

    def __init__(self, run_dir: Path, megabytes: float, without_pictures: str = "") -> None:
        self._run_dir = run_dir
        self._megabytes = megabytes
        self._left = round(megabytes * MEGABYTE)
        self._without = without_pictures
        self.left_out = 0

    def embed(self, path: str, caption: str, alt: str) -> Picture:
        """Return the picture, or a note in its place where it does not fit or cannot be read.

        One that does not fit leaves the budget as it is, so that a smaller one may follow.
        """
        if self._without:
            return Picture(caption, problem=self._without)
        picture = embed_picture(self._run_dir, path, caption, alt)
        if len(picture.source) > self._left:
            self.left_out += 1
            return Picture(caption, problem=f"left out: the page's budget of {self._megabytes:g} MB (see {path})")
        self._left -= len(picture.source)
        return picture

    def has(self, path: str) -> bool:
        """Say whether the run has this picture, and it may be shown."""
        return not self._without and (self._run_dir / path).is_file()


def embed_picture(run_dir: Path, path: str, caption: str, alt: str) -> Picture:
    """Read a picture of the run and turn it into a data URI; PNG, JPEG and WebP bytes are embedded as they are."""
    from PIL import Image, UnidentifiedImageError

    file = (run_dir / path).resolve()
    if not file.is_relative_to(run_dir.resolve()):
        return Picture(caption, problem=f"{path} lies outside the run directory and is not shown")
    try:
        data = file.read_bytes()
        with Image.open(io.BytesIO(data), formats=list(PICTURE_TYPES)) as image:
            kind, (width, height) = image.format, image.size
    except UnidentifiedImageError:
        return Picture(caption, problem=f"{path} is not a PNG, JPEG or WebP picture")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return Picture(caption, problem=f"{path} is missing or cannot be read ({type(error).__name__})")
    encoded = base64.b64encode(data).decode("ascii")
    return Picture(caption, alt, f"data:{PICTURE_TYPES[kind]};base64,{encoded}", width, height)
