"""A handmade audit, and a run directory with its pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pipeline.workspace.records import (
    Audit,
    Bias,
    CavSummary,
    ClassCount,
    Contest,
    Contestant,
    DatasetNote,
    DataSummary,
    Declared,
    EvaluationPicture,
    Finding,
    GateResult,
    Health,
    LayerHealth,
    LeakageCheck,
    MethodRecord,
    Metric,
    Provenance,
    StageTime,
    SubgroupCount,
    Verdict,
)

CLASSES = ["0", "1", "8"]
# model -> accuracy as is, clean, attacked; relevance on the artifact; TCAV quotient
MODELS = {
    "original": (0.981, 0.972, 0.412, 0.61, 1.00),
    "fine_tune": (0.983, 0.974, 0.455, 0.57, 0.98),
    "rrr": (0.975, 0.968, 0.874, 0.14, 0.71),
    "rr_clarc": (0.978, 0.970, 0.951, 0.09, 0.55),
    "p_clarc": (0.969, 0.961, 0.936, 0.11, 0.50),
    "isnet": (0.958, 0.957, 0.949, 0.02, 0.58),
}


def metric(model="original", world="attacked", name="accuracy", value=0.9, half=0.02, n=1000, subgroup="all") -> Metric:
    return Metric(
        model=model,
        world=world,
        subgroup=subgroup,
        metric=name,
        value=value,
        lower=max(0.0, value - half),
        upper=min(1.0, value + half),
        n=n,
    )


def make_metrics() -> list[Metric]:
    rows = []
    for model, (asis, clean, attacked, relevance, quotient) in MODELS.items():
        for world, value in {"asis": asis, "clean": clean, "attacked": attacked}.items():
            rows.append(metric(model, world, "accuracy", value, 0.013))
            rows.append(metric(model, world, "balanced_accuracy", value - 0.004, 0.014))
            rows.append(metric(model, world, "worst_group_accuracy", max(0.0, value - 0.09), 0.05, n=104))
            for index, name in enumerate(CLASSES):
                class_value = value - 0.02 * index
                rows.append(metric(model, world, "class_accuracy", class_value, 0.05, n=100, subgroup=f"class={name}"))
        rows.append(metric(model, "attacked", "artifact_relevance", relevance, 0.03, n=256))
        rows.append(metric(model, "attacked", "tcav_quotient", quotient, 0.04, n=256))
        rows.append(metric(model, "attacked", "tcav_random", 0.51, 0.22, n=256))
        rows.append(metric(model, "attacked", "flip_rate", max(0.01, clean - attacked), 0.02))
        rows.append(metric(model, "attacked", "accuracy_gain", attacked - MODELS["original"][2], 0.02))
        for name in ("mcnemar_p", "mcnemar_p_adjusted"):
            rows.append(metric(model, "attacked", name, 0.003, 0.0))
        for world, sign in (("inserted", 1), ("removed", -1)):
            bias = "b-8-glyph"
            rows.append(metric(model, world, "flip_rate", clean - attacked, 0.03, 320, bias))
            rows.append(metric(model, world, "flip_to_class_rate", (clean - attacked) / 2, 0.03, 320, bias))
            for name, size in (("logit_shift", 6.0), ("relative_logit_shift", 0.6), ("probability_shift", 0.5)):
                value = sign * size * (clean - attacked)
                rows.append(
                    Metric(
                        model=model, world=world, subgroup=bias, metric=name, value=value,
                        lower=value - 0.04, upper=value + 0.04, n=320,
                    )
                )  # fmt: skip
    rows.append(metric("pipeline", "asis", "prevalence", 0.12, 0.02, 400, "b-8-glyph"))
    for name, value in {
        "finding_precision": 0.994,
        "finding_recall": 0.931,
        "retrieval_auroc": 0.998,
        "retrieval_auroc_paired": 0.987,
        "mask_iou": 0.643,
    }.items():
        rows.append(metric("pipeline", "asis", name, value, 0.02, n=400, subgroup="b-8-glyph"))
    return rows


def make_finding(rank: int, class_name: str = "8", detector: str = "spray", **changes) -> Finding:
    score = round(0.93 * 0.62 ** (rank - 1), 3)
    values = {
        "id": f"{detector}-{class_name}-{rank:04x}",
        "rank": rank,
        "detector": detector,
        "class_id": 2,
        "class_name": class_name,
        "layer": "input" if detector == "spray" else "features.8",
        "score": score,
        "score_parts": {"separation": min(1.0, score + 0.05), "compactness": 0.97, "size": 0.99},
        "sample_ids": [f"digit-{index:04d}" for index in range(40 * rank)],
        "neuron_ids": [] if detector == "spray" else [17, 41],
        "evidence": {
            "Heatmaps of the samples nearest to the centre": f"reveal/finding-{rank}-heatmaps.png",
            "Mean heatmap": f"reveal/finding-{rank}-mean.png",
        },
    }
    return Finding(**values | changes)


def make_cav(kind: str = "pattern", layer: str = "features.8", auroc: float = 0.993) -> CavSummary:
    return CavSummary(
        kind=kind,
        layer=layer,
        auroc=auroc,
        auroc_lower=auroc - 0.02,
        auroc_upper=min(1.0, auroc + 0.005),
        n_positive=61,
        n_negative=743,
    )


def make_audit(**changes) -> Audit:
    """Build a realistic audit; keyword arguments replace its fields."""
    verdict = Verdict(
        finding="spray-8-0001", verdict="spurious", by="A. Auditor", when="2026-02-03T10:11:12Z", why="a plus sign"
    )
    findings = [
        make_finding(1),
        make_finding(2, "1", "neurons"),
        make_finding(3, "0"),
        make_finding(4, "1"),
        make_finding(5, "0", "neurons"),
    ]
    bias = Bias(
        id="b-8-glyph",
        finding="spray-8-0001",
        class_id=2,
        class_name="8",
        status="reviewed",
        verdict=verdict,
        sample_ids=findings[0].sample_ids,
        cav=make_cav(),
        candidates=[
            make_cav("svm", "features.4", 0.941),
            make_cav("pattern", "features.4", 0.962),
            make_cav("svm", "features.8", 0.989),
            make_cav(),
        ],
    )
    second = Bias(
        id="b-1-corner",
        finding="neurons-1-0002",
        class_id=1,
        class_name="1",
        status="unreviewed",
        sample_ids=findings[1].sample_ids,
        cav=make_cav("svm", "features.4", 0.874),
        candidates=[make_cav("svm", "features.4", 0.874)],
    )
    methods = [
        MethodRecord(
            key="0" * 32,
            id=name,
            kind=name,
            parameters={"epochs": 5, "lr": 0.001, "batch_size": 64} if name != "p_clarc" else {"mode": "position"},
            trained=name != "p_clarc",
            biases=["b-8-glyph", "b-1-corner"],
            status="unreviewed",
            seconds=12.5,
            family=name,
            seed=0,
            frozen="nothing",
            told_truth=False,
            peak_megabytes=125.0,
            validation={"accuracy": MODELS[name][1], "worst_group_accuracy": MODELS[name][2] - 0.05},
            changes=[] if name != "p_clarc" else [{"kind": "network", "name": "gated"}],
        )
        for name in MODELS
        if name != "original"
    ]
    values = {
        "name": "demo",
        "title": "Bias audit of the demo classifier",
        "verdict": "fail",
        "summary": [
            "Two of four rules of the gate did not pass.",
            "The model leans on a shortcut: with the artifact planted, its accuracy falls from 0.972 to 0.412.",
            "The best correction, rr_clarc, brings it back to 0.951 and costs 0.002 of clean accuracy.",
        ],
        "warnings": ["3 unreadable images were skipped (data.on_bad_sample: skip)."],
        "best_correction": "rr_clarc",
        "findings": findings,
        "biases": [bias, second],
        "verdicts": [
            verdict,
            Verdict(finding="spray-0-0003", verdict="unsure", by="A. Auditor", when="2026-02-03T10:12:00Z"),
            Verdict(
                finding="spray-0-0003",
                verdict="valid",
                by="B. Reviewer",
                when="2026-02-03T10:14:00Z",
                why="a slanted stroke",
            ),
        ],
        "methods": methods,
        "contest": Contest(
            rule="The best worst group.",
            original_clean=MODELS["original"][1],
            original_worst=MODELS["original"][2],
            contestants=[
                Contestant(
                    id=each.id,
                    family=each.family,
                    seed=0,
                    clean=each.validation["accuracy"],
                    worst=each.validation["worst_group_accuracy"],
                    on_front=each.id in ("rr_clarc", "fine_tune"),
                    chosen=True,
                )
                for each in methods
            ],
            recommended="rr_clarc",
        ),
        "health": Health(
            composite="epsilon_plus_flat",
            arch="local:small_cnn",
            conservation=1.0002,
            bias_share=0.031,
            finite=True,
            healthy=True,
            layers=[LayerHealth(layer=f"features.{index}", conservation=1.0001, finite=True) for index in (0, 4, 8)],
        ),
        "metrics": make_metrics(),
        "gate": [
            GateResult(
                rule="accuracy of rr_clarc (best correction) in world attacked, lower bound >= 0.90",
                status="pass",
                blocking=False,
                measured=0.938,
                n=1000,
                detail="0.9510 [0.9380, 0.9640]; met with 0.0380",
            ),
            GateResult(
                rule="artifact_relevance of rr_clarc (best correction) in world attacked <= 0.05",
                status="fail",
                blocking=True,
                measured=0.09,
                n=256,
                detail="0.0900 [0.0600, 0.1200]; missed by 0.0400",
            ),
            GateResult(
                rule="auroc of rr_clarc (best correction) in world clean >= 0.95",
                status="not_run",
                blocking=True,
                detail="no metric is called auroc of rr_clarc in world clean, subgroup all; nearest: "
                "accuracy of rr_clarc in world clean, subgroup all",
            ),
        ],
        "provenance": Provenance(
            config_text="name: demo\nmodel:\n  arch: local:small_cnn\n",
            arch="local:small_cnn",
            weights_sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            dataset=DatasetNote(
                fingerprint="c0ffee" * 10 + "beef",
                skipped=3,
                classes=CLASSES,
                splits={"train": 3200, "val": 800, "test": 1000},
            ),
            seed=0,
            device="cpu",
            machine="Linux x86_64",
            versions={"python": "3.11.7", "torch": "2.9.0", "zennit": "0.5.1"},
            stages=[
                StageTime(name="train", status="done", key="3f6c1d2a9b8e7f60", seconds=11.25),
                StageTime(name="reveal", status="done", key="91d0c3aa41b2e5f7", seconds=3.5),
            ],
            commands=["python -m pipeline.run --config artifacts/demo/config.yaml"],
            worlds=["asis", "clean", "attacked"],
            attacked_by="planting",
            created="2026-02-03T12:00:00Z",
        ),
        "declared": Declared(auditor="A. Auditor", harm={"b-8-glyph": "high"}),
        "data": DataSummary(
            classes=[
                ClassCount(split=split, class_name=name, n=count // 3)
                for split, count in {"train": 3200, "val": 800, "test": 1000}.items()
                for name in CLASSES
            ],
            subgroups=[
                SubgroupCount(column="site", value=value, split="test", class_name=name, n=160 if value else 13)
                for value in ("north", "south", "")
                for name in CLASSES
            ],
            missing={"site": 117},
            leakage=[
                LeakageCheck(
                    check="identical pixels",
                    status="leak",
                    pairs=2,
                    test_samples=2,
                    detail="pixels of 5000 samples",
                    examples=[("digit-0001", "digit-0002"), ("digit-0003", "digit-0005")],
                ),
                LeakageCheck(
                    check="same group",
                    status="not_run",
                    pairs=0,
                    test_samples=0,
                    detail="data.split.group_column names no column",
                ),
            ],
        ),
        "deidentified": False,
        "min_n": 10,
        "confidence": 0.95,
        "pictures": [
            EvaluationPicture(
                kind=kind,
                bias=None if kind == "heatmaps" else "b-8-glyph",
                path=f"evaluate/{kind}.png",
                caption=f"Samples, {kind}",
                samples=["digit-0001", "digit-0002"],
            )
            for kind in ("heatmaps", "inserted", "removed")
        ],
    }
    return Audit(**values | changes)


def write_pictures(audit: Audit, run_dir: Path) -> None:
    """Write a picture for every path that the audit names, and one mask overview."""
    paths = [path for finding in audit.findings for path in finding.evidence.values()]
    paths += [picture.path for picture in audit.pictures]
    for path in [*paths, f"localize/{audit.biases[0].id}/overview.png" if audit.biases else "reveal/none.png"]:
        (run_dir / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (30, 60, 90)).save(run_dir / path)


@pytest.fixture
def build_audit():
    return make_audit


@pytest.fixture
def build_metric():
    return metric


@pytest.fixture
def build_finding():
    return make_finding


@pytest.fixture
def audit() -> Audit:
    return make_audit()


@pytest.fixture
def run_dir(audit, tmp_path) -> Path:
    write_pictures(audit, tmp_path)
    return tmp_path
