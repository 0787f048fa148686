"""The pictures of a finding: its samples, the embedding, the distribution of scores, its neurons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.attribution import Explainer
from pipeline.concepts.cav import out_of_fold_scores
from pipeline.concepts.localization import binarize, blur, concept_heatmaps
from pipeline.concepts.receptive_field import ReceptiveFields
from pipeline.config.reveal import RevealConfig, SprayConfig
from pipeline.workspace import pictures
from pipeline.workspace.directory import RunDirectory
from pipeline.workspace.records import Finding

from .embeddings import embedding_figure, spread_rows, tsne_points, umap_points
from .neuron_sheets import neuron_sheets
from .score_figure import score_figure
from .spray import Spray
from .suspicion import Suspicion
from .view import ClassView, DataView

SAMPLES = 12
BLUR = 0.02
THUMBNAILS = 14
NEURONS = 2


@dataclass(frozen=True)
class Studio:
    """What all pictures need.

    Attributes:
        view: all samples.
        explainer: of the model under audit.
        config: section `reveal`.
        directory: of the run.
        fields: receptive fields that are known already.
    """

    view: DataView
    explainer: Explainer
    config: RevealConfig
    directory: RunDirectory
    fields: ReceptiveFields

    def portray(self, finding: Finding, suspicion: Suspicion) -> Finding:
        """Return the finding with its pictures, which are written to `reveal/<finding>-<name>.png`."""
        evidence = {}
        for name, caption, image in self._pictures(finding, suspicion):
            path = f"reveal/{finding.id}-{name}.png"
            evidence[caption] = path
            pictures.save(image, self.directory.root / path)
        return finding.model_copy(update={"evidence": evidence})

    def _pictures(self, finding: Finding, suspicion: Suspicion) -> Iterator[tuple[str, str, Image.Image]]:
        candidate = suspicion.candidate
        generator = np.random.default_rng(self.view.seed)
        inside = generator.permutation(candidate.member_rows)[:SAMPLES]
        outside = generator.permutation(candidate.rows[~candidate.members])[:SAMPLES]
        yield (
            "inside",
            "samples of the finding; relevance for the class; where it differs from the rest of the class",
            pictures.sheet(self._inside(inside, suspicion)),
        )
        yield (
            "outside",
            "samples of the same class outside the finding, and their relevance",
            pictures.sheet([[self._thumbnail(row) for row in outside], self._relevance(outside)]),
        )
        features = self.view.store.activations(suspicion.cav.layer, suspicion.cav.pooling, candidate.rows)
        if min(candidate.members.sum(), (~candidate.members).sum()) >= 2:
            scores = out_of_fold_scores(features, candidate.members, "pattern", seed=self.view.seed)
            yield (
                "scores",
                f"held-out scores along the concept in {suspicion.cav.layer}, with examples",
                score_figure(scores, candidate.members, lambda at: self._thumbnail(candidate.rows[at])),
            )
        yield from self._embeddings(finding, suspicion)
        if candidate.neuron_ids and candidate.layer != "input":
            sheets = neuron_sheets(
                self.view,
                self.explainer,
                candidate.class_id,
                candidate.layer,
                candidate.neuron_ids[:NEURONS],
                fields=self.fields,
            )
            for neuron, sheet in zip(candidate.neuron_ids, sheets, strict=False):
                yield (
                    f"neuron-{neuron}",
                    f"neuron {neuron} of {candidate.layer}: most active samples, what it sees there; samples of the "
                    "class with most relevance, its relevance, the rest faded",
                    sheet,
                )

    def _inside(self, rows: np.ndarray, suspicion: Suspicion) -> list[list[Image.Image]]:
        x = self.view.images(rows)
        concept = blur(concept_heatmaps(self.explainer, x, suspicion.cav), BLUR)
        nothing = np.zeros(concept.shape[1:], bool)
        masks = [binarize(each) for each in concept]
        return [
            [
                pictures.outlined(image.cpu().numpy(), nothing if mask is None else mask)
                for image, mask in zip(x, masks, strict=True)
            ],
            self._relevance(rows),
            [pictures.heatmap_image(each) for each in concept],
        ]

    def _relevance(self, rows: np.ndarray) -> list[Image.Image]:
        return [pictures.heatmap_image(each) for each in self.view.store.heatmaps(self.view.condition, rows)]

    def _thumbnail(self, row: int) -> Image.Image:
        return pictures.to_image(self.view.dataset[int(row)].x.numpy())

    def _embeddings(self, finding: Finding, suspicion: Suspicion) -> Iterator[tuple[str, str, Image.Image]]:
        """Yield the spectral embedding of the class, by UMAP and t-SNE where the detector asks for it."""
        configured = [each for each in self.config.detectors if isinstance(each, SprayConfig)]
        if finding.detector != "spray" or not configured:
            return
        candidate = suspicion.candidate
        result = Spray(configured[0]).analyse(
            ClassView(self.view, candidate.class_id, candidate.rows), candidate.layer, candidate.quantity
        )
        if result is None:
            return
        embedding = result.view.embedding
        # the first eigenvector tells only components of the graph apart
        first = min(1, embedding.shape[1] - 2)
        plots = {"leading eigenvectors": embedding[:, first : first + 2]}
        if finding.rank == 1 and configured[0].umap:
            plots["UMAP of the spectral embedding"] = umap_points(embedding, self.view.seed)
        if finding.rank == 1 and configured[0].tsne:
            plots["t-SNE of the spectral embedding"] = tsne_points(embedding, self.view.seed)
        for number, (name, points) in enumerate(plots.items()):
            shown = spread_rows(points, candidate.members, THUMBNAILS)
            thumbnails = {int(at): np.asarray(self._thumbnail(candidate.rows[at])) for at in shown}
            yield (
                f"embedding{number or ''}",
                f"samples of the class by {candidate.quantity.replace('_', ' ')} at {candidate.layer}: {name}",
                embedding_figure(points, candidate.members, thumbnails, f"class {finding.class_name}: {name}"),
            )
