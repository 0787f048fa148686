"""What a training step of ISNet costs, as a multiple of a plain one: seconds of the processor and memory.

    python -m benchmarks.isnet [--quick] [--networks resnet18@64 ...] [--steps selective ...] [--output FILE]

A step is: forward pass, loss, backward pass, clipping of the gradient, SGD with momentum; BatchNorm in training mode,
8 images, 10 classes. How it is measured: `benchmarks/step_costs.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from .step_costs import PLAIN, command

VARIANTS: dict[str, dict] = {
    "selective": {"variant": "selective"},
    "stochastic": {"variant": "stochastic"},
    "selective, deep supervision": {"variant": "selective", "deep_supervision": True},
    "original": {"variant": "original"},
    "softmax gradient x input": {"variant": "softmax_gradient_x_input"},
    "selective, block": {"variant": "selective", "rule": "block"},
    "dual, block": {"variant": "dual", "rule": "block"},
    "original, block": {"variant": "original", "rule": "block"},
}
NETWORKS = ("resnet18@64", "resnet18@128", "densenet121@64")
BATCH, CLASSES, REPEATS = 8, 10, 7


def make_step(network: str, variant: str) -> Callable[[], None]:
    """Return a function that trains a fresh network for one step, always on the same images."""
    import torch
    import torchvision
    from torch.nn import functional as F

    from pipeline.config.mitigate import IsnetMethod
    from pipeline.mitigate.cuts import Cuts
    from pipeline.mitigate.fine_tuning import MaskedBatch
    from pipeline.mitigate.interface import Problem
    from pipeline.mitigate.isnet import isnet_losses
    from pipeline.mitigate.isnet_maps import INPUT
    from pipeline.mitigate.supervised_layers import supervised_layers

    torch.manual_seed(0)
    name, side = network.split("@")
    model = getattr(torchvision.models, name)(num_classes=CLASSES).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9)
    mask = torch.ones(BATCH, 1, int(side), int(side))
    mask[:, :, int(side) // 4 : 3 * int(side) // 4, int(side) // 4 : 3 * int(side) // 4] = 0
    batch = MaskedBatch(torch.rand(BATCH, 3, int(side), int(side)), torch.arange(BATCH) % CLASSES, mask)
    problem = Problem(dataset=None, biases=[])
    config = None if variant == PLAIN else IsnetMethod(kind="isnet", **VARIANTS[variant])
    deep = config is not None and config.deep_supervision
    layers = supervised_layers(model, batch.x[:1], "auto") if deep else ()
    cuts = {layer: Cuts(torch.tensor(1.0), torch.tensor(25.0)) for layer in (INPUT, *layers)}

    def step() -> None:
        if config is None:
            loss = F.cross_entropy(model(batch.x), batch.y)
        else:
            loss = isnet_losses(model, batch, problem, config, cuts, layers)["total"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


if __name__ == "__main__":
    command(make_step, "benchmarks.isnet", __doc__.splitlines()[0], NETWORKS, list(VARIANTS), REPEATS)
