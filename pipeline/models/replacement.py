"""Networks that some corrections put around, or instead of, the network under audit."""

from __future__ import annotations

from torch import nn

from .build import AuditModel, forbid_in_place, resolve

REPLACEMENTS: dict[str, str] = {
    "segmented": "pipeline.models.segmented:Segmented",
    "multi_task_unet": "pipeline.models.multi_task:multi_task_unet",
    "attention_gated": "pipeline.models.attention_gates:AttentionGated",
    "gated_classifier": "pipeline.models.gated:gated_classifier",
}
"""Name -> `module:factory`, called with the network under audit and parameters that JSON can hold."""
INNER = "network"
"""Under which name a replacement keeps the network under audit, where it keeps it."""


def replace_network(model: AuditModel, name: str, parameters: dict) -> None:
    """Put a replacement into the model, in place and on its device; its own weights are still those of the factory."""
    device = next(model.parameters()).device
    replacement = resolve(REPLACEMENTS[name])(model.network, **parameters)
    forbid_in_place(replacement)
    model.network = replacement.to(device)


def layer_within(model: nn.Module, layer: str) -> str | None:
    """Return under which name the corrected model holds a layer of the model under audit; None where it has none."""
    for name in (layer, layer.replace(f"{INNER}.", f"{INNER}.{INNER}.", 1)):
        try:
            model.get_submodule(name)
        except AttributeError:
            continue
        return name
    return None
