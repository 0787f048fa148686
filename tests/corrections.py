"""Configurations of corrections for tests: of one epoch, where they train by epochs."""

from __future__ import annotations

from typing import get_args

from pydantic import TypeAdapter

from pipeline.config.mitigate import AnyMethod, MethodConfig


def section_of(kind: str) -> type[MethodConfig]:
    """Return the class of a method's configuration."""
    return next(
        each for each in get_args(get_args(AnyMethod)[0]) if get_args(each.model_fields["kind"].annotation) == (kind,)
    )


def quick_section(kind: str, **values) -> MethodConfig:
    """Return a method's configuration that takes a moment."""
    quick = {"epochs": 1} if "epochs" in section_of(kind).model_fields else {}
    return TypeAdapter(AnyMethod).validate_python({"kind": kind} | quick | values)
