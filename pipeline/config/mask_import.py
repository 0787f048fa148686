"""Masks that were made elsewhere, as an entry of section `localize`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Section


class ImportedMasks(Section):
    """A folder of PNG masks of one artifact; several entries with the same bias are merged."""

    bias: str = Field(min_length=1, description="id of the bias whose artifact the masks show")
    folder: str = Field(min_length=1, description="folder with one PNG per sample")
    names: Literal["id", "row"] = Field(
        "id", description='what the files are named by: the sample id, or ("row") the row of the data set, from 0'
    )
    kind: Literal["auto", "binary", "heat"] = Field(
        "auto", description='"auto" = binary where a file holds only 0 and 255 (or 0 and 1), else a heat map'
    )
    threshold: float = Field(
        0.1, ge=0, lt=1, description="of a heat map, what exceeds this share of its maximum is the artifact"
    )
