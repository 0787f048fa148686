"""The audit as one HTML file that needs no network: a pure rendering of the record and the pictures beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from ..workspace.metric_catalogue import METRICS
from ..workspace.records import Audit, Metric
from . import formats, limits, svg, tables
from .cards import Cards, make_cards
from .causal import Causal, causal_evidence
from .contest import ContestRow, contest_rows, front_models, shown_models, without_artifact
from .data_tables import LEAKAGE_WORDS, DataTables, data_tables
from .figures import Album
from .front import STATUS_SIGNS, STATUS_WORDS, FrontPage, front_page, standing_warnings
from .plots import Plot, interval_plots, trade_off
from .sheets import Baseline, Sheet, baseline_performance, detection_sheet, sanity_sheet
from .tables import Comparison, Matrix, MetricIndex, comparison
from .traceability import DISCLAIMER, SOURCES, Topic, traceability

__all__ = ["render", "standing_warnings"]

TEMPLATES = Path(__file__).parent / "templates"
LARGE = 10_000_000  # bytes
DEIDENTIFIED = "left out: this report is de-identified"
SECTIONS = {
    "intended-use": "Intended use",
    "data": "Data",
    "baseline-performance": "Baseline performance of the original",
    "biases": "Revealed biases",
    "other-findings": "Rejected candidates and other findings",
    "localization": "Localization and detection against known truth",
    "causal": "Causal evidence",
    "contest": "Mitigation contest",
    "regressions": "Regressions against the baseline",
    "limits": "Residual risks and limits",
    "reproducibility": "Reproducibility",
    "traceability": "Traceability appendix",
}
"""Id -> heading of each section behind the first page, in order."""


@dataclass(frozen=True)
class Page:
    """All that the template shows, by section."""

    front: FrontPage
    warnings: list[str]
    data: DataTables
    baseline: Baseline
    cards: Cards
    others_scored: list[Sheet]
    causal: list[Causal]
    sanity: Sheet | None
    contest: list[ContestRow]
    further_contestants: list[ContestRow]
    repeated: bool
    performance: Comparison
    reliance: list[Comparison]
    paired: Comparison
    trade_off: Plot | None
    plots: list[Plot]
    remaining: list[Matrix]
    not_measured: list[str]
    limits: list[str]
    triggers: list[str]
    undeclared: list[str]
    topics: list[Topic]
    pictures_left_out: int


def render(audit: Audit, run_dir: Path, *, samples_per_finding: int, image_budget: float) -> str:
    """Render the audit as one self-contained HTML page.

    Args:
        audit: everything that is shown.
        run_dir: the run directory; the pictures that the audit names are read from it and embedded.
        samples_per_finding: at most so many pictures and sample ids are shown for each finding.
        image_budget: megabytes of pictures in the page, encoded as they are there; the most important come first.

    Returns:
        The page. The same audit and pictures give the same text. A picture that is missing, unreadable, or beyond the
        budget leaves a visible note. A page of more than 10 MB says so at its top.
    """
    album = Album(run_dir, image_budget, DEIDENTIFIED if audit.deidentified else "")
    template = _environment().get_template("report.html.j2")
    shown = {"audit": audit, "page": _page(audit, album, samples_per_finding), "sections": SECTIONS}
    page = template.render(shown, size_warning="")
    size = len(page.encode())
    if size <= LARGE:
        return page
    advice = f"This file is {size / 1e6:.1f} MB large; lower report.image_budget or report.samples_per_finding."
    return template.render(shown, size_warning=advice)


def _page(audit: Audit, album: Album, limit: int) -> Page:
    index = MetricIndex(audit.metrics, audit.min_n)
    measured = {row.model for row in audit.metrics}
    models = [model for model in shown_models(audit) if model in measured]
    contest, others = contest_rows(audit)
    cards = make_cards(audit, index, album, limit)
    worlds = [world for world in tables.world_order(audit.metrics) if world not in tables.INTERVENTIONS]
    repeated = any(row.seeds > 1 for row in contest)
    pair = [model for model in (tables.ORIGINAL, audit.best_correction) if model in models]
    reliance = [
        comparison(index, models, tables.RELIANCE, worlds, subgroup)
        for subgroup in ["all", *(bias.id for bias in audit.biases)]
    ]
    return Page(
        front=front_page(audit, index),
        warnings=standing_warnings(audit),
        data=data_tables(audit.data, audit.min_n),
        baseline=baseline_performance(audit, index),
        cards=cards,
        others_scored=_scored_besides(audit, index),
        causal=[causal_evidence(audit, index, models, bias) for bias in audit.biases],
        sanity=sanity_sheet(audit, index, pair),
        contest=contest,
        further_contestants=others,
        repeated=repeated,
        performance=comparison(index, models, tables.PERFORMANCE, worlds),
        reliance=[each for each in reliance if each.blocks],
        paired=comparison(index, [model for model in models if model != tables.ORIGINAL], tables.PAIRED, worlds),
        trade_off=trade_off(index, models, audit.best_correction, front_models(audit), without_artifact(audit.metrics)),
        plots=interval_plots(index, models) if len(models) > 1 else [],
        remaining=tables.remaining(audit.metrics, index, models),
        not_measured=limits.not_measured(audit, models, [card.bias.id for card in cards.biases if card.masks is None]),
        limits=limits.limits(audit, repeated),
        triggers=limits.triggers(audit),
        undeclared=limits.undeclared(audit),
        topics=traceability(audit),
        pictures_left_out=album.left_out,
    )


def _scored_besides(audit: Audit, index: MetricIndex) -> list[Sheet]:
    """Return what was scored against a known truth and is no bias: the top finding, artifacts that the data list."""
    biases = {bias.id for bias in audit.biases}
    names = dict.fromkeys(
        row.subgroup for row in audit.metrics if row.model == tables.PIPELINE and row.subgroup not in biases
    )
    sheets = [detection_sheet(audit.metrics, index, name) for name in names]
    return [Sheet(sheet.rows[0].subgroup, sheet.columns, sheet.rows) for sheet in sheets if sheet]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "figure": formats.figure,
        "change": formats.change,
        "measured": formats.measured,
        "has_interval": formats.has_interval,
        "breakable": formats.breakable,
        "plain": formats.plain,
        "words": formats.words,
        "metric": formats.heading,
        "arrow": formats.arrow,
        "direction": formats.direction,
        "meaning": _meaning,
        "subgroup": formats.subgroup_text,
        "duration": formats.duration,
        "samples": _samples,
    }
    environment.globals |= {
        "bar": lambda share, title: Markup(svg.bar(share, title)),
        "signs": STATUS_SIGNS,
        "status_words": STATUS_WORDS,
        "leakage_words": LEAKAGE_WORDS,
        "world_meanings": tables.WORLDS,
        "disclaimer": DISCLAIMER,
        "sources": SOURCES,
    }
    return environment


def _meaning(metric: str) -> str:
    return METRICS[metric].meaning if metric in METRICS else ""


def _samples(cells: list[tables.Cell]) -> str:
    rows: list[Metric] = [cell.row for cell in cells if cell.row]
    return formats.sample_size(
        row for row in rows if row.metric not in METRICS or METRICS[row.metric].counts == "samples"
    )
