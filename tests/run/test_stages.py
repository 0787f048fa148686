"""The table of stages is consistent with itself and with the configuration."""

from __future__ import annotations

import pytest

from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.run.stages import STAGE_NAMES, STAGES, required, summary_of
from pipeline.workspace.directory import STAGE_FOLDERS


def test_order_is_the_order_of_work_and_every_stage_has_a_folder():
    assert STAGE_NAMES == ("train", "precompute", "reveal", "localize", "mitigate", "evaluate", "report")
    assert set(STAGE_FOLDERS) == set(STAGE_NAMES)


@pytest.mark.parametrize("spec", STAGES, ids=lambda spec: spec.name)
def test_stages_need_only_earlier_ones_and_read_existing_sections(spec):
    assert set(spec.needs) <= set(STAGE_NAMES[: STAGE_NAMES.index(spec.name)])
    assert set(spec.sections) <= set(Config.model_fields)
    assert spec.name in spec.rooms
    assert summary_of(spec.name) == spec.summary


def test_every_key_but_device_and_place_belongs_to_a_stage():
    used = {section for spec in STAGES for section in spec.sections}
    assert set(Config.model_fields) - used == {"device", "output_dir"}


@pytest.mark.parametrize(
    ("until", "names"),
    [
        ("train", ("train",)),
        ("reveal", ("train", "precompute", "reveal")),
        ("mitigate", ("train", "precompute", "reveal", "localize", "mitigate")),
        ("run", STAGE_NAMES),
    ],
)
def test_required_follows_needs_through_other_stages(until, names):
    assert tuple(spec.name for spec in required(until)) == names


def test_unknown_stage_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown stage 'mitigat'. Did you mean 'mitigate'?"):
        required("mitigat")
