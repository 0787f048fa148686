"""The audit as one HTML file that needs no network: a pure rendering of the record and the pictures beside it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ..workspace.records import Audit, Bias, CavSummary, Finding, Metric, Verdict
from . import svg, tables
from .contest import contest_rows, shown_models

TEMPLATES = Path(__file__).parent / "templates"
PICTURE_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
LARGE = 10_000_000  # bytes
OPEN_FINDINGS = 3
SMALL_PICTURE = 150  # pixels; smaller pictures are enlarged without blurring, so that single pixels can be seen
PLOTTED = {
    "accuracy": "accuracy",
    "worst_group_accuracy": "accuracy of the worst group",
    "artifact_relevance": "share of relevance on the artifact",
}
EXPECTED = {
    "accuracy": "accuracy",
    "worst_group_accuracy": "accuracy of the worst group",
    "artifact_relevance": "share of relevance on the artifact",
    "tcav_quotient": "TCAV quotient",
    "flip_rate": "flip rate of predictions",
    "ece": "calibration (expected calibration error)",
}


@dataclass(frozen=True)
class Picture:
    """A picture in the page, or the reason why it is not there."""

    caption: str
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


@dataclass(frozen=True)
class FindingCard:
    """A finding with its review, its bias, and the first of its pictures and samples."""

    finding: Finding
    verdict: Verdict | None
    bias: Bias | None
    pictures: list[Picture]
    pictures_left_out: int
    samples: list[str]
    samples_left_out: int

    @property
    def status(self) -> str:
        """The word of a person, or `unreviewed`."""
        return self.verdict.verdict if self.verdict else "unreviewed"


@dataclass(frozen=True)
class BiasCard:
    """A bias with every direction that was tried (the chosen one marked) and the overview of its masks."""

    bias: Bias
    candidates: list[tuple[CavSummary, bool]]
    masks: Picture | None


@dataclass(frozen=True)
class KeyFigure:
    """A figure of the original and of the best correction."""

    heading: str
    world: str
    before: Metric
    after: Metric | None


@dataclass(frozen=True)
class Plot:
    """A drawing with its title and a note on how to read it."""

    title: str
    note: str
    drawing: Markup


def render(audit: Audit, run_dir: Path, *, samples_per_finding: int) -> str:
    """Render the audit as one self-contained HTML page.

    Args:
        audit: everything that is shown.
        run_dir: the run directory; the pictures that the audit names are read from it and embedded.
        samples_per_finding: at most so many pictures and sample ids are shown for each finding.

    Returns:
        The page. The same audit and pictures give the same text. A picture that is missing or unreadable leaves a
        visible note. A page of more than 10 MB says so at its top.
    """
    template = _environment().get_template("report.html.j2")
    view = _view(audit, run_dir, samples_per_finding)
    page = template.render(view, size_warning="")
    size = len(page.encode())
    if size <= LARGE:
        return page
    advice = f"This file is {size / 1e6:.1f} MB large; lower report.samples_per_finding or the size of the pictures."
    return template.render(view, size_warning=advice)


def embed_picture(run_dir: Path, path: str, caption: str) -> Picture:
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
    return Picture(caption, f"data:{PICTURE_TYPES[kind]};base64,{encoded}", width, height)


def standing_warnings(audit: Audit) -> list[str]:
    """Return the warnings of the audit, preceded by those that follow from its content; each text once."""
    found = []
    if audit.health is None:
        found.append("The health of the attributions was not checked; heatmaps and relevance shares are unproven.")
    elif not audit.health.healthy:
        reason = audit.health.warning or f"conservation {audit.health.conservation:.3g} instead of 1"
        found.append(f"Attributions are NOT HEALTHY on this architecture, do not trust the heatmaps: {reason}")
    elif audit.health.warning:
        found.append(f"Attributions are conserved, but: {audit.health.warning}")
    unreviewed = [bias.id for bias in audit.biases if bias.status == "unreviewed"]
    if unreviewed:
        found.append(
            f"Accepted without a person's verdict (unreviewed): {', '.join(unreviewed)}. Concept vectors, masks, "
            "corrections and metrics that rest on them are unreviewed, too."
        )
    if not audit.provenance.get("intended_use"):
        found.append("Intended use NOT PROVIDED (report.intended_use): whether a finding does harm cannot be judged.")
    return list(dict.fromkeys([*found, *audit.warnings]))


def not_measured(audit: Audit, models: list[str], biases: list[BiasCard]) -> list[str]:
    """Return in plain words what a reader may expect in an audit and this run did not measure."""
    names = {row.metric for row in audit.metrics}
    worlds = tables.world_order(audit.metrics)
    missing = [f"the world {world}: {text}" for world, text in tables.WORLDS.items() if world not in worlds]
    missing += [text for name, text in EXPECTED.items() if name not in names]
    if not any(row.model == tables.PIPELINE for row in audit.metrics):
        missing.append("findings and masks against a known truth about the artifacts")
    if not any("=" in row.subgroup and not row.subgroup.startswith("class=") for row in audit.metrics):
        missing.append("subgroups of the data such as site, device, age or sex (evaluate.subgroups)")
    missing += [f"masks of bias {card.bias.id} (no overview was written)" for card in biases if card.masks is None]
    if audit.health is None:
        missing.append("health of the attributions")
    if not set(models) - {tables.ORIGINAL}:
        missing.append("corrected models")
    return missing


def _view(audit: Audit, run_dir: Path, limit: int) -> dict[str, Any]:
    """Collect what the template shows, by the names that it uses."""
    models = [model for model in shown_models(audit) if any(row.model == model for row in audit.metrics)]
    contest, others = contest_rows(audit)
    columns, blocks = tables.comparison(audit.metrics, models)
    biases = [_bias_card(bias, run_dir) for bias in audit.biases]
    findings = [_finding_card(finding, audit, run_dir, limit) for finding in sorted(audit.findings, key=_by_rank)]
    return {
        "audit": audit,
        "provenance": audit.provenance,
        "warnings": standing_warnings(audit),
        "key_figures": _key_figures(audit),
        "accept_score": audit.accept_score,
        "detector_pictures": [
            embed_picture(run_dir, path, caption) for caption, path in list(audit.detector_pictures.items())[:limit]
        ],
        "open_findings": findings[:OPEN_FINDINGS],
        "folded_findings": findings[OPEN_FINDINGS:],
        "biases": biases,
        "columns": columns,
        "blocks": blocks,
        "contest": contest,
        "further_contestants": others,
        "repeated": any(row.seeds > 1 for row in contest),
        "plots": _plots(audit, models),
        "detection": [row for row in audit.metrics if row.model == tables.PIPELINE],
        "detection_meaning": tables.DETECTION,
        "class_matrices": tables.subgroup_matrices(audit.metrics, models, tables.is_class_metric),
        "other_matrices": tables.subgroup_matrices(audit.metrics, models, tables.is_other_metric),
        "not_measured": not_measured(audit, models, biases),
    }


def _by_rank(finding: Finding) -> tuple[int, str]:
    return finding.rank, finding.id


def _finding_card(finding: Finding, audit: Audit, run_dir: Path, limit: int) -> FindingCard:
    bias = next((bias for bias in audit.biases if bias.finding == finding.id), None)
    # The journal is append-only: the last word on a finding counts.
    words = [verdict for verdict in audit.verdicts if verdict.finding == finding.id]
    pictures = list(finding.evidence.items())
    return FindingCard(
        finding=finding,
        verdict=words[-1] if words else bias.verdict if bias else None,
        bias=bias,
        pictures=[embed_picture(run_dir, path, caption) for caption, path in pictures[:limit]],
        pictures_left_out=max(0, len(pictures) - limit),
        samples=finding.sample_ids[:limit],
        samples_left_out=max(0, len(finding.sample_ids) - limit),
    )


def _bias_card(bias: Bias, run_dir: Path) -> BiasCard:
    overview = f"localize/{bias.id}/overview.png"
    has_masks = (run_dir / overview).is_file()
    # Not by equality of the records: an interval may be NaN, which equals nothing.
    names = [(candidate.kind, candidate.layer) for candidate in bias.candidates]
    chosen_name = (bias.cav.kind, bias.cav.layer)
    tried = bias.candidates if chosen_name in names else [bias.cav, *bias.candidates]
    chosen = names.index(chosen_name) if chosen_name in names else 0
    return BiasCard(
        bias=bias,
        candidates=[(candidate, position == chosen) for position, candidate in enumerate(tried)],
        masks=embed_picture(run_dir, overview, f"Masks of bias {bias.id}") if has_masks else None,
    )


def _key_figures(audit: Audit) -> list[KeyFigure]:
    index = tables.MetricIndex(audit.metrics)
    wanted = [
        ("accuracy", "attacked"),
        ("worst_group_accuracy", "attacked"),
        ("accuracy", "clean"),
        ("artifact_relevance", "attacked"),
    ]
    figures = []
    for metric, world in wanted:
        before = index.find(tables.ORIGINAL, world, "all", metric)
        after = index.find(audit.best_correction, world, "all", metric) if audit.best_correction else None
        if before is not None:
            figures.append(KeyFigure(tables.COMPARED[metric].heading, world, before, after))
    return figures


def _plots(audit: Audit, models: list[str]) -> list[Plot]:
    """Return the plots that compare models; one model alone needs none."""
    if len(models) < 2:
        return []
    index = tables.MetricIndex(audit.metrics)
    worlds = tables.world_order(audit.metrics)
    drawn = []
    without = "clean" if "clean" in worlds else "asis"
    clean = {model: index.find(model, without, "all", "accuracy") for model in models}
    attacked = {model: index.find(model, "attacked", "all", "accuracy") for model in models}
    points = [(model, clean[model], attacked[model]) for model in models if clean[model] and attacked[model]]
    if len(points) > 1:
        words = "without it (clean)" if without == "clean" else "on the samples as they are"
        title = f"Accuracy with the artifact (attacked) against accuracy {words}; up and to the right is better"
        label = "accuracy, clean test set" if without == "clean" else "accuracy, test set as it is"
        note = (
            "Thin lines are confidence intervals, the diamond is the original, the ring the best correction; "
            "on the dotted line a model is equally accurate with and without the artifact."
        )
        drawn.append(
            Plot(
                title, note, Markup(svg.trade_off_plot(points, title=title, x_label=label, best=audit.best_correction))
            )
        )
    for metric, label in PLOTTED.items():
        found = [(model, index.find(model, world, "all", metric), world) for model in models for world in worlds]
        rows = [(model, row, world) for model, row, world in found if row]
        if rows:
            references = {world: row.value for model, row, world in rows if model == tables.ORIGINAL}
            title = f"{label[0].upper()}{label[1:]} of every model in every world, with confidence intervals"
            drawing = svg.interval_plot(rows, title=title, axis_label=label, references=references)
            drawn.append(Plot(title, "", Markup(drawing)))
    return drawn


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["figure"] = figure
    environment.filters["change"] = change
    environment.filters["plain"] = plain
    environment.filters["sample_size"] = sample_size
    environment.filters["words"] = words
    environment.globals["bar"] = lambda share, title: Markup(svg.bar(share, title))
    return environment


def figure(value: float | None, digits: int = 3) -> str:
    """Write a number with a fixed number of decimals; a dash where there is none, or it is not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 0.5 * 10**-digits):
        return f"{value:.2g}".replace("-", "−", 1)
    return f"{value:.{digits}f}".replace("-", "−", 1)


def change(value: float) -> str:
    """Write a change with its sign, also as a triangle."""
    if abs(value) < 0.0005:
        return "±0"
    return f"▲{value:.3f}" if value > 0 else f"▼{-value:.3f}"


def sample_size(rows: list[Metric | None]) -> str:
    """Write the number of samples behind a row of figures, as a range where the models differ."""
    sizes = sorted({row.n for row in rows if row})
    return " to ".join(map(str, dict.fromkeys((sizes[0], sizes[-1])))) if sizes else "–"


def words(name: str) -> str:
    """Write a snake_case name as words, abbreviations of the field in their usual form."""
    known = {"auroc": "AUROC", "iou": "IoU", "tcav": "TCAV"}
    return " ".join(known.get(word, word) for word in name.split("_"))


def plain(value: Any) -> str:
    """Write a value of the provenance or of a method's parameters as text for people."""
    if value is None or value == "":
        return "not recorded"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(plain(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
