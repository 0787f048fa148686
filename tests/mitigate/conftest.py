from __future__ import annotations

import pytest
from corrections import quick_section

from pipeline.data.open import open_world
from pipeline.mitigate.interface import Problem
from pipeline.mitigate.stage import _load_bias
from pipeline.models.open import open_original
from pipeline.workspace.records import Biases


@pytest.fixture
def section():
    """Return a function that makes a method's configuration, of one epoch where it trains."""
    return quick_section


@pytest.fixture
def audited(tiny_context):
    """The tiny classifier, and what corrections are given: data, the revealed bias, its masks and CAVs."""
    context = tiny_context()
    dataset = open_world(context)
    biases = context.directory.read_record("reveal/biases.json", Biases).biases
    known = [_load_bias(context, bias) for bias in biases]
    return open_original(context, dataset), Problem(dataset=dataset, biases=known)
