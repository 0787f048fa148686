import hashlib
import json
import math

import pytest

from pipeline.errors import ConfigError
from pipeline.report.baseline import Earlier, change_for_the_worse, compare, read_earlier
from pipeline.workspace.records import AUDIT_VERSION


def write(audit, path):
    path.write_text(audit.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return path


def compared(build_audit, before, now, best=("rr_clarc", "rr_clarc")):
    earlier = Earlier(build_audit(metrics=before, best_correction=best[0]), "digest")
    return compare(now, best[1], earlier.audit.provenance.dataset.fingerprint, earlier)


# Reading


def test_an_audit_is_read_with_the_hash_of_its_bytes(build_audit, tmp_path):
    file = write(build_audit(), tmp_path / "audit.json")
    earlier = read_earlier(file)
    assert earlier.audit == build_audit()
    assert earlier.digest == hashlib.sha256(file.read_bytes()).hexdigest()


def test_figures_that_are_no_numbers_are_read_back(build_audit, build_metric, tmp_path):
    row = build_metric().model_copy(update={"value": math.nan, "upper": math.inf})
    (read,) = read_earlier(write(build_audit(metrics=[row]), tmp_path / "audit.json")).audit.metrics
    assert math.isnan(read.value) and read.upper == math.inf


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="report.baseline: .*gone.json: no such file"):
        read_earlier(tmp_path / "gone.json")


def test_a_run_directory_leads_to_its_audit(build_audit, tmp_path):
    (tmp_path / "report").mkdir()
    write(build_audit(), tmp_path / "report/audit.json")
    with pytest.raises(ConfigError, match="did you mean .*report/audit.json"):
        read_earlier(tmp_path)


@pytest.mark.parametrize(
    ("version", "advice"),
    [(AUDIT_VERSION - 1, "report of the older audit again with this program"), (AUDIT_VERSION + 1, "newer version")],
)
def test_another_version_is_named_with_what_to_do(build_audit, tmp_path, version, advice):
    values = json.loads(build_audit().model_dump_json()) | {"schema_version": version, "unknown": 1}
    (tmp_path / "audit.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=f"schema version {version}, this program reads {AUDIT_VERSION}.*{advice}"):
        read_earlier(tmp_path / "audit.json")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "has no schema_version"),
        ('{"findings": []}', "has no schema_version"),
        (f'{{"schema_version": {AUDIT_VERSION}}}', "is not an audit .name: Field required"),
    ],
)
def test_what_is_no_audit_is_refused(tmp_path, text, problem):
    (tmp_path / "audit.json").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_earlier(tmp_path / "audit.json")


# Comparing


@pytest.mark.parametrize(
    ("name", "before", "after", "status"),
    [
        ("accuracy", 0.9, 0.8, "regressed"),
        ("accuracy", 0.8, 0.9, "improved"),
        ("accuracy", 0.9, 0.88, "unclear"),
        ("flip_rate", 0.1, 0.2, "regressed"),
        ("flip_rate", 0.2, 0.1, "improved"),
        ("flip_rate", 0.2, 0.2, "unclear"),
        ("logit_shift", 0.1, 0.9, "unclear"),
        ("tcav_quotient", 0.1, 0.9, "unclear"),
    ],
)
def test_a_change_counts_when_its_interval_leaves_0_in_a_direction_that_is_bad_or_good(
    build_audit, build_metric, name, before, after, status
):
    rows = [[build_metric("original", name=name, value=value, half=0.03)] for value in (before, after)]
    (row,) = compared(build_audit, *rows).rows
    side = math.hypot(0.03, 0.03)
    assert (row.model, row.metric, row.status) == ("original", name, status)
    assert (row.before, row.after) == (before, after)
    assert (row.lower, row.upper) == pytest.approx((after - before - side, after - before + side))


def test_sides_that_differ_meet_those_that_point_the_same_way(build_audit, build_metric):
    """Lower bound of the change: the lower side of after and the upper side of before."""
    before = build_metric("original", value=0.5).model_copy(update={"lower": 0.44, "upper": 0.53})
    after = build_metric("original", value=0.6).model_copy(update={"lower": 0.56, "upper": 0.68})
    (row,) = compared(build_audit, [before], [after]).rows
    assert (row.lower, row.upper) == pytest.approx((0.1 - 0.05, 0.1 + 0.1))  # 3-4-5 and 6-8-10


def test_a_figure_is_never_worse_than_itself(build_metric):
    for name in ("accuracy", "flip_rate"):
        row = build_metric(name=name)
        worse = change_for_the_worse(row, row)
        assert worse.value == 0 and worse.lower < 0 < worse.upper


def test_the_best_corrections_meet_under_one_name_and_other_models_stay_out(build_audit, build_metric):
    before = [build_metric(name, value=value) for name, value in (("original", 0.5), ("isnet", 0.9), ("rrr", 0.7))]
    now = [build_metric(name, value=value) for name, value in (("original", 0.5), ("isnet", 0.2), ("rrr", 0.6))]
    found = compared(build_audit, before, now, best=("isnet", "rrr"))
    assert [(row.model, row.before, row.after) for row in found.rows] == [("original", 0.5, 0.5), ("best", 0.9, 0.6)]
    assert (found.only_before, found.only_now) == (0, 0)
    alone = compared(build_audit, before, now, best=(None, "rrr"))
    assert [row.model for row in alone.rows] == ["original"]
    assert (alone.only_before, alone.only_now) == (0, 1)


@pytest.mark.parametrize("other", [{"world": "clean"}, {"subgroup": "another-bias"}, {"name": "auroc"}])
def test_only_figures_of_the_same_world_subgroup_and_metric_are_compared(build_audit, build_metric, other):
    found = compared(build_audit, [build_metric("original")], [build_metric("original", **other)])
    assert (found.rows, found.only_before, found.only_now) == ([], 1, 1)


def test_figures_that_were_left_out_are_no_figures(build_audit, build_metric):
    row = build_metric("original")
    nothing = row.model_copy(update={"value": math.nan, "lower": math.nan, "upper": math.nan})
    found = compared(build_audit, [nothing], [row])
    assert (found.rows, found.only_before, found.only_now) == ([], 0, 1)
    without_bounds = row.model_copy(update={"value": 0.1, "lower": math.nan, "upper": math.nan})
    assert [each.status for each in compared(build_audit, [row], [without_bounds]).rows] == ["unclear"]


def test_where_the_comparison_comes_from(build_audit):
    earlier = Earlier(build_audit(name="release-1", verdict="pass"), "abc")
    fingerprint = earlier.audit.provenance.dataset.fingerprint
    found = compare(build_audit().metrics, "rr_clarc", fingerprint, earlier)
    assert (found.name, found.digest, found.verdict) == ("release-1", "abc", "pass")
    assert found.weights_sha256 == earlier.audit.provenance.weights_sha256
    assert found.same_data
    assert not compare([], None, "other", earlier).same_data
