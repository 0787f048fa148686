"""A rule for depthwise convolutions, which move relevance within a channel and mix nothing."""

from __future__ import annotations

from torch import nn
from zennit.core import BasicHook, ParamMod, Stabilizer


class DepthwiseType(type):
    """Makes `isinstance(module, Depthwise)` true for convolutions with one input channel per group."""

    def __instancecheck__(cls, module: object) -> bool:
        return isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups == module.in_channels > 1


class Depthwise(metaclass=DepthwiseType):
    """The type of depthwise convolutions, for layer maps."""


class AbsoluteShare(BasicHook):
    """Relevance goes to inputs in proportion to |a| |w|, within each channel; biases take none.

    The z+ rule loses the relevance of a depthwise unit whose few weights give nothing positive, and such units are
    common: on EfficientNet-Lite0 nearly all relevance vanishes in them. A unit whose inputs are all zero, alive by its
    bias alone, shares its relevance by |w|.
    """

    ALMOST_NOTHING = 1e-6

    def __init__(self, stabilizer: float = 1e-12):
        stabilize = Stabilizer.ensure(stabilizer)
        super().__init__(
            input_modifiers=[lambda a: a.abs() + self.ALMOST_NOTHING],
            param_modifiers=[ParamMod(lambda parameter, _: parameter.abs(), zero_params="bias")],
            output_modifiers=[lambda output: output],
            gradient_mapper=(lambda relevance, outputs: [relevance / stabilize(outputs[0])]),
            reducer=(lambda inputs, gradients: inputs[0] * gradients[0]),
        )
