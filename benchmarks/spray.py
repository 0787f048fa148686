"""What spectral relevance analysis costs, and whether it finds what was planted: neighbours, eigenvectors, clusters.

    python -m benchmarks.spray [--quick] [--cases clusterings reference large umap] [--output FILE]

Samples are made: relevances that are mostly zero, of eight reasons. Every value is the magnitude of Gaussian noise with
probability 0.3 and else 0. Each reason adds to 48 channels of its own choice a pattern (gamma distributed, shape 2),
times 0.4, times a strength of the sample (gamma, shape 4, mean 1). Each sample is multiplied by a log-normal factor,
which normalisation has to take away. All with a fixed seed, single precision.

The reference compares all pairs: `scipy.spatial.distance.pdist` in double precision, `argsort` of the square matrix,
the same Laplacian, `eigsh` to machine precision. Every case runs in a process of its own, with one thread; seconds are
those of the processor, after a first run on 600 samples, and start when the samples are made; memory is the largest
resident set of the whole process, beside that after the first run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

REASONS = 8
PATTERN = 48
STRENGTH = 0.4
NEIGHBORS = 32
EIGENVECTORS = 32
MOST_CLUSTERS = 12
SEED = 0
WARM_UP = 600
CLUSTERED = ("kmeans", "hdbscan", "agglomerative", "dbscan")
CASES = ("clusterings", "reference", "large", "umap")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Sizes:
    """How many samples (and channels) each case has."""

    clusterings: int = 10_000
    reference: int = 5_000
    dense: int = 10_000
    large: int = 50_000
    umap: int = 5_000
    channels: int = 512


QUICK = Sizes(clusterings=600, reference=600, dense=600, large=1200, umap=300, channels=128)


@dataclass(frozen=True)
class Cost:
    """Seconds of the processor; megabytes (10^6 bytes) of the process, and before all samples are made."""

    seconds: float
    peak: float
    before: float


@dataclass(frozen=True)
class Clustered:
    """Adjusted Rand index to the planted reasons."""

    clustering: str
    samples: int
    clusters: int
    agreement: float
    seconds: float


@dataclass(frozen=True)
class Compared:
    """The project's eigenvectors beside those of the dense reference.

    Attributes:
        difference: largest difference of eigenvalues.
        agreement: adjusted Rand index between k-means clusters of both.
        ratio: seconds of the reference over the project's.
    """

    samples: int
    ours: Cost
    dense: Cost
    difference: float
    agreement: float

    @property
    def ratio(self) -> float:
        return self.dense.seconds / self.ours.seconds


@dataclass(frozen=True)
class Large:
    """The project at a size that the reference cannot hold, beside the reference at a smaller one."""

    samples: int
    ours: Cost
    dense_samples: int
    dense: Cost


@dataclass(frozen=True)
class Umap:
    """Seconds of UMAP of the spectral embedding, compilation included, and of all that comes before."""

    samples: int
    spectral: float
    umap: float


def make_relevances(count: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return relevances `[count, channels]`, float32, and the planted reasons `[count]`; the same at every call."""
    generator = np.random.default_rng(SEED)
    reasons = generator.integers(REASONS, size=count)
    patterns = np.zeros((REASONS, channels), dtype=np.float32)
    for pattern in patterns:
        places = generator.choice(channels, min(PATTERN, channels // 2), replace=False)
        pattern[places] = generator.gamma(2.0, 1.0, len(places))
    values = np.empty((count, channels), dtype=np.float32)
    for start in range(0, count, 1000):
        block = values[start : start + 1000]
        generator.standard_normal(out=block, dtype=np.float32)
        np.abs(block, out=block)
        block *= generator.random(block.shape, dtype=np.float32) < 0.3
        strengths = STRENGTH * generator.gamma(4.0, 0.25, (len(block), 1)).astype(np.float32)
        block += strengths * patterns[reasons[start : start + 1000]]
        block *= generator.lognormal(size=(len(block), 1)).astype(np.float32)
    return values, reasons


# What runs in a process of its own


def run_ours(count: int, channels: int, folder: str) -> Cost:
    """Write eigenvalues and embedding of the project into a folder."""
    import torch

    from pipeline.reveal.spaces import normalize_rows
    from pipeline.reveal.spectral import spectrum

    torch.set_num_threads(1)

    def run(relevances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        relevances = normalize_rows(relevances)
        view = spectrum(relevances, neighbors=NEIGHBORS, eigenvectors=EIGENVECTORS)
        return view.eigenvalues, view.embedding

    return weigh(run, count, channels, Path(folder) / "ours.npz")


def run_dense(count: int, channels: int, folder: str) -> Cost:
    """Write eigenvalues and embedding of the dense reference into a folder."""
    from scipy import sparse
    from scipy.sparse.linalg import eigsh
    from scipy.spatial.distance import pdist, squareform

    def run(relevances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features = relevances.astype(np.float64)
        features /= np.abs(features).sum(1, keepdims=True)
        distances = squareform(pdist(features))
        np.fill_diagonal(distances, np.inf)
        nearest = np.argsort(distances, axis=1)[:, :NEIGHBORS]
        ends = np.repeat(np.arange(len(nearest)), NEIGHBORS), nearest.ravel()
        chosen = sparse.csr_array((np.ones(nearest.size), ends), shape=distances.shape)
        graph = sparse.csr_array((chosen + chosen.T) / 2)
        scale = sparse.diags_array(1 / np.sqrt(graph.sum(1)))
        start = np.random.default_rng(SEED).standard_normal(len(nearest))
        values, vectors = eigsh(sparse.csr_array(scale @ graph @ scale), EIGENVECTORS, which="LA", v0=start)
        order = np.argsort(-values)
        return 1 - values[order], vectors[:, order] / np.linalg.norm(vectors, axis=1, keepdims=True)

    return weigh(run, count, channels, Path(folder) / "dense.npz")


def weigh(run: Callable, count: int, channels: int, path: Path) -> Cost:
    """Run once on few samples, which loads libraries, then on all; write what comes out."""
    run(make_relevances(WARM_UP, channels)[0])
    before = peak_megabytes()
    relevances = [make_relevances(count, channels)[0]]
    started = time.process_time()
    eigenvalues, embedding = run(relevances.pop())
    cost = Cost(time.process_time() - started, peak_megabytes(), before)
    np.savez(path, eigenvalues=eigenvalues, embedding=embedding)
    return cost


def run_clusterings(count: int, channels: int) -> list[Clustered]:
    import torch
    from sklearn.metrics import adjusted_rand_score

    from pipeline.reveal.clusterings import CLUSTERINGS
    from pipeline.reveal.spaces import normalize_rows
    from pipeline.reveal.spectral import spectrum

    torch.set_num_threads(1)
    relevances, reasons = make_relevances(count, channels)
    view = spectrum(normalize_rows(relevances), neighbors=NEIGHBORS, eigenvectors=EIGENVECTORS)
    found = []
    for name in CLUSTERED:
        started = time.process_time()
        labels = CLUSTERINGS[name](view, MOST_CLUSTERS, max(12, count // 200), SEED)[-1]
        seconds = time.process_time() - started
        clusters = len(set(labels.tolist()) - {-1})
        found.append(Clustered(name, count, clusters, adjusted_rand_score(reasons, labels), seconds))
    return found


def run_umap(count: int, channels: int) -> Umap:
    import torch

    from pipeline.reveal.embeddings import umap_points
    from pipeline.reveal.spaces import normalize_rows
    from pipeline.reveal.spectral import spectrum

    torch.set_num_threads(1)
    relevances, _ = make_relevances(count, channels)
    started = time.process_time()
    view = spectrum(normalize_rows(relevances), neighbors=NEIGHBORS, eigenvectors=EIGENVECTORS)
    between = time.process_time()
    umap_points(view.embedding, SEED)
    return Umap(count, between - started, time.process_time() - between)


def peak_megabytes() -> float:
    """Return the largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def alone(run: Callable, *given):
    """Run a function in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(run, *given).result()


# The cases


def compare(sizes: Sizes) -> Compared:
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    with tempfile.TemporaryDirectory() as folder:
        ours = alone(run_ours, sizes.reference, sizes.channels, folder)
        dense = alone(run_dense, sizes.reference, sizes.channels, folder)
        found = {name: dict(np.load(Path(folder) / f"{name}.npz")) for name in ("ours", "dense")}
    labels = [
        KMeans(REASONS, n_init=10, random_state=SEED).fit_predict(each["embedding"][:, :REASONS])
        for each in found.values()
    ]
    difference = np.abs(found["ours"]["eigenvalues"] - found["dense"]["eigenvalues"]).max()
    return Compared(sizes.reference, ours, dense, float(difference), adjusted_rand_score(*labels))


def grow(sizes: Sizes) -> Large:
    with tempfile.TemporaryDirectory() as folder:
        dense = alone(run_dense, sizes.dense, sizes.channels, folder)
        ours = alone(run_ours, sizes.large, sizes.channels, folder)
    return Large(sizes.large, ours, sizes.dense, dense)


# The report


@dataclass
class Report:
    """Everything measured."""

    sizes: Sizes
    clusterings: list[Clustered] = field(default_factory=list)
    reference: Compared | None = None
    large: Large | None = None
    umap: Umap | None = None

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def cost_text(cost: Cost) -> str:
    return f"{cost.seconds:.2f} s, at most {cost.peak:.0f} MB, of which {cost.before:.0f} MB libraries"


def text(report: Report) -> str:
    channels = report.sizes.channels
    lines = [f"{NEIGHBORS} neighbours, {EIGENVECTORS} eigenvectors, {channels} channels, one thread."]
    for each in report.clusterings:
        lines.append(
            f"{each.clustering}, {each.samples} samples: adjusted Rand index to the planted reasons "
            f"{each.agreement:.4f}, {each.clusters} clusters, {each.seconds:.2f} s"
        )
    if report.reference:
        at = report.reference
        lines += [
            f"ours, {at.samples} samples: {cost_text(at.ours)}",
            f"all pairs, {at.samples} samples: {cost_text(at.dense)}; {at.ratio:.1f} times ours",
            f"largest difference of eigenvalues {at.difference:.1e}; adjusted Rand index {at.agreement:.4f}",
        ]
    if report.large:
        at = report.large
        lines += [
            f"ours, {at.samples} samples: {cost_text(at.ours)}",
            f"all pairs, {at.dense_samples} samples: {cost_text(at.dense)}",
            f"ours at {at.samples} / all pairs at {at.dense_samples}: {at.ours.seconds / at.dense.seconds:.2f}",
        ]
    if report.umap:
        at = report.umap
        lines.append(
            f"UMAP, {at.samples} samples: {at.umap:.1f} s beside {at.spectral:.2f} s, "
            f"{at.umap / (at.umap + at.spectral):.0%} of both"
        )
    return "\n".join(lines)


def measure(sizes: Sizes, cases: Sequence[str]) -> Report:
    report = Report(sizes)
    for case in cases:
        print(f"{case} ...", file=sys.stderr, flush=True)
        if case == "clusterings":
            report.clusterings = alone(run_clusterings, sizes.clusterings, sizes.channels)
        elif case == "reference":
            report.reference = compare(sizes)
        elif case == "large":
            report.large = grow(sizes)
        else:
            report.umap = alone(run_umap, sizes.umap, sizes.channels)
    return report


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few samples: whether it runs, not how fast it is")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    parsed = parse(arguments)
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))  # read by libraries when the processes start
    report = measure(QUICK if parsed.quick else Sizes(), parsed.cases)
    if parsed.output is not None:
        report.write(parsed.output)
    print(text(report))


if __name__ == "__main__":
    main()
