from __future__ import annotations

import json
from dataclasses import asdict

from benchmarks.detection import Case, Result, cases, measure, table


def result(kind: str = "glyph", share: float = 0.3, rank: int | None = 1, first: float = 0.8, seed: int = 0) -> Result:
    score = None if rank is None else first if rank == 1 else 0.5
    return Result(kind, share, seed, rank, 1.0 if rank else 0.0, first, score, "spray")


def test_every_kind_meets_every_share_and_every_seed_has_a_clean_run():
    wanted = list(cases(["glyph", "tint"], [0.1, 0.7], [0, 1, 2]))
    assert len(wanted) == len({case.name for case in wanted}) == 3 * (1 + 4)
    assert sum(case.kind == "clean" for case in wanted) == 3
    assert Case("glyph", 0.1, 2).name == "glyph-10-2"


def test_a_finding_counts_as_accepted_only_where_it_is_first_and_reaches_the_score():
    cell = [result(), result(first=0.6), result(rank=2), result(rank=None), result(rank=4)]
    row = table(cell, 0.65).splitlines()[2]
    assert row.split(" | ")[0:2] == ["| glyph", "30%"]
    assert [part.split()[0] for part in row.split(" | ")[2:5]] == ["2/5", "3/5", "1/5"]
    assert row.endswith("| 0.55 |")


def test_an_artifact_that_is_never_found_is_said_to_be_so():
    assert table([result(rank=None)], 0.65).splitlines()[2].endswith("| not found |")


def test_alarms_are_counted_over_the_clean_runs_alone():
    clean = [result("clean", 0.0, None, first) for first in (0.4, 0.5, 0.7)]
    line = table([result(), *clean], 0.65).splitlines()[-1]
    assert "reaches 0.65 in 1/3" in line and "between 0.40 and 0.70, median 0.50" in line


def test_a_finished_case_is_read_and_not_repeated(tmp_path):
    known = result(seed=4)
    (tmp_path / "glyph-30-4.json").write_text(json.dumps(asdict(known)))
    assert measure(Case("glyph", 0.3, 4), tmp_path) == known
    assert len(list(tmp_path.iterdir())) == 1
