"""Architectures, checkpoints, layer tracing and the training loop that train and mitigate share."""

from .build import AuditModel, build_model
from .checkpoints import load_weights, save_weights
from .trace import Layer, trace_layers

__all__ = ["AuditModel", "Layer", "build_model", "load_weights", "save_weights", "trace_layers"]
