"""What a step of RRR and of RR-ClArC costs, as a multiple of a plain one: seconds of the processor and memory.

    python -m benchmarks.right_reason [--quick] [--networks resnet18@128 ...] [--steps NAME ...] [--output FILE]

A step is: forward pass, loss, backward pass, clipping of the gradient, Adam; 16 images, 10 classes. In the plain step
everything trains, as in the original training; in all others BatchNorm keeps its statistics, as in every correction.
RR-ClArC acts on the third stage, so that the fourth and the linear layer train. "as published" gives it
images that require a gradient, which then goes down to them through the frozen stages; "frozen" starts the graph at the
third stage; "cached" takes its output, computed once. How it is measured: `benchmarks/step_costs.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from .step_costs import PLAIN, command

PLAIN_FROZEN, PLAIN_CACHED = "plain, frozen", "plain, cached"
RRR = "RRR"
PUBLISHED, FROZEN, CACHED = "RR-ClArC, as published", "RR-ClArC, frozen", "RR-ClArC, cached"
LAST_FROZEN, LAST_CACHED = "last layer, frozen", "last layer, cached"
STEPS = (PLAIN, PLAIN_FROZEN, PLAIN_CACHED, RRR, PUBLISHED, FROZEN, CACHED, LAST_FROZEN, LAST_CACHED)
STAGE, LAST = "layer3", "avgpool"
NETWORKS = ("resnet18@128",)
BATCH, CLASSES, REPEATS = 16, 10, 15


def make_step(network: str, step: str) -> Callable[[], None]:
    """Return a function that trains a fresh network for one step, always on the same images."""
    import numpy as np
    import torch
    import torchvision

    from pipeline.concepts.cav import Cav
    from pipeline.config.mitigate import RrClarcMethod, RrrMethod
    from pipeline.mitigate.directions import CorrectedLayer
    from pipeline.mitigate.fine_tuning import MaskedBatch, classification_loss, freeze_up_to
    from pipeline.mitigate.interface import Problem
    from pipeline.mitigate.rr_clarc import rr_clarc_losses
    from pipeline.mitigate.rrr import input_gradient, rrr_loss
    from pipeline.models.build import forbid_in_place
    from pipeline.models.loop import freeze_norms
    from pipeline.models.split import split_network

    torch.manual_seed(0)
    name, side = network.split("@")
    model = getattr(torchvision.models, name)(num_classes=CLASSES).train()
    forbid_in_place(model)
    if step != PLAIN:
        freeze_norms(model)
    x, y = torch.rand(BATCH, 3, int(side), int(side)), torch.arange(BATCH) % CLASSES
    mask = torch.zeros(BATCH, 1, int(side), int(side))
    mask[:, :, : int(side) // 4, : int(side) // 4] = 1
    problem = Problem(dataset=None, biases=[])
    right_reason = step in (PUBLISHED, FROZEN, CACHED)
    if step not in (PLAIN, RRR):
        freeze_up_to(model, LAST if step in (LAST_FROZEN, LAST_CACHED) else STAGE, x[:1])
    trained = model
    if step in (PLAIN_CACHED, CACHED, LAST_CACHED):
        split = split_network(model, x[:4], [STAGE] if right_reason else [])
        with torch.no_grad():
            trained, x = split.head, split.trunk(x)
    if step == PUBLISHED:
        x.requires_grad_(True)
    batch = MaskedBatch(x, y, mask)
    channels = model.get_submodule(STAGE)[-1].bn2.num_features
    cav = Cav(np.eye(channels)[0], 0.0, "pattern", np.zeros(channels), layer=STAGE)
    layer = CorrectedLayer(STAGE, cav.pooling, 1, [(None, cav)])
    rr_clarc, rrr = RrClarcMethod(kind="rr_clarc"), RrrMethod(kind="rrr")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-4)

    def loss() -> torch.Tensor:
        if right_reason:
            return rr_clarc_losses(trained, batch, problem, rr_clarc, [layer])["total"]
        if step != RRR:
            return classification_loss(problem, trained(batch.x), batch.y)
        gradient, logits = input_gradient(trained, batch.x, batch.y, rrr.explained)
        return classification_loss(problem, logits, batch.y) + rrr.weight * rrr_loss(gradient, batch.mask)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward(inputs=None if step == PUBLISHED else parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return run


if __name__ == "__main__":
    command(make_step, "benchmarks.right_reason", __doc__.splitlines()[0], NETWORKS, STEPS, REPEATS)
