"""Attribution: relevance of pixels and layers for a logit, or for anything inside the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipeline.errors import ConfigError, nearest
from pipeline.models.modes import evaluation_mode

from .baselines import BASELINES
from .composites import COMPOSITES, Composite, make_composite, pixel_range
from .flex import lrp_flex
from .folding import Norm, Plan, Weights
from .recording import record_outputs
from .tape import Node, Tape
from .targets import Start, StartRelevance, Target, start_at, start_weights
from .zennit_adapter import attribute_by_zennit, is_zennit_composite

if TYPE_CHECKING:
    from .rules import Rule

TOLERANCE = 1e-3
"""Largest change of a logit while it is followed, as a share of the largest; rounding stays below, mistakes above.

Half precision rounds more, and is allowed more.
"""


Keep = Callable[[str, torch.Tensor], Any]
"""Takes the name of a layer and its values, returns what is kept of them."""


Condition = torch.Tensor | Callable[[torch.Tensor], torch.Tensor]
"""What relevance is multiplied with on its way through a layer, or a function of it."""


def unchanged(layer: str, values: torch.Tensor) -> torch.Tensor:
    """Keep values as they are."""
    return values


@dataclass(frozen=True)
class Attribution:
    """What an explanation holds.

    Attributes:
        relevance: `[N, ...x.shape]`, signed; positive supports the explained quantity. None if it was not wanted.
        logits: `[N, K]`.
        relevances: relevance at the output of each requested layer.
        activations: output of each requested layer.
    """

    relevance: torch.Tensor | None
    logits: torch.Tensor
    relevances: dict[str, torch.Tensor] = field(default_factory=dict)
    activations: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def heatmap(self) -> torch.Tensor:
        """Relevance summed over channels: `[N, H, W]` for images, `[N, T]` for signals.

        Raises:
            ValueError: relevance at the input was not wanted.
        """
        if self.relevance is None:
            raise ValueError("there is no heatmap: the attribution was made with at_input=False.")
        return self.relevance.sum(1)


class Explainer:
    """A model made ready for many attributions: its data flow watched once, BatchNorm folded, weights prepared.

    The model given is never changed, nor copied: it may go on training, and is then explained as it is. Only weights
    written through `.data` are not noticed; make a new explainer after that.

    Args:
        model: any module written in Python, pixels -> logits.
        example: one small batch, on which the data flow is watched.
        composite: a key of `COMPOSITES`, or a composite.
        rules: rules of single layers, module name (shell wildcards allowed) -> rule, such as "gamma(gamma=0.1)".
        without_biases: constants take no relevance; it is then conserved wherever rules can. For the health check.
        channels_last: memory layout in which images are explained; faster on most processors, equal up to rounding.

    Raises:
        ConfigError: unknown composite or rule, or a rule for a layer that is not there.
        ValueError: the network does something that hides where values come from.
    """

    def __init__(
        self,
        model: nn.Module,
        example: torch.Tensor,
        composite: str | Composite = "epsilon_plus_flat",
        *,
        rules: Mapping[str, str | Rule] | None = None,
        without_biases: bool = False,
        channels_last: bool = True,
    ):
        self.model = model
        self.composite = make_composite(composite, rules)
        self.without_biases = without_biases
        self.channels_last = channels_last
        self.without_rule: frozenset[str] = frozenset()
        _refuse_torchscript(model)
        self._watch(example)
        _require_layers(rules or {}, self._names.values())

    def attribute(
        self,
        x: torch.Tensor,
        target: Target = None,
        *,
        layers: Sequence[str] = (),
        start: Start = "logit",
        start_layer: str | None = None,
        start_relevance: StartRelevance = None,
        conditions: Mapping[str, Condition] | None = None,
        at_input: bool = True,
        keep_activation: Keep = unchanged,
        keep_relevance: Keep = unchanged,
        create_graph: bool = False,
    ) -> Attribution:
        """Return relevance at the input and at the outputs of `layers`; see `attribute`.

        Args:
            conditions: layer -> what relevance on its way through it is multiplied with, such as a mask of channels
                `[C, 1, 1]`, or a function of it: only that part goes on (concept relevance; Achtibat et al. 2023).
                Relevance that is returned for such a layer is what goes on.
            at_input: whether relevance at the input is wanted; without, the way back ends at the lowest layer.
            keep_activation, keep_relevance: what is kept of every layer, given its name and values, such as the largest
                value per channel; called as soon as they are there, so that maps of all layers never lie in memory
                together.
        """
        if not len(x):
            raise ValueError("the batch is empty; attribution needs at least one sample.")
        if not self._holds_the_same_tensors():
            self._watch(x[:2])
        conditions = conditions or {}
        tape = self._tape(keep=not create_graph)
        nodes: dict[str, Node | None] = {}
        activations: dict[str, torch.Tensor] = {}
        zeros: dict[str, torch.Tensor] = {}
        begins: dict[str, torch.Tensor] = {}

        def visit(name: str, output: torch.Tensor) -> None:
            # a layer that does not depend on the input, such as one that makes position embeddings, explains nothing
            nodes[name] = None if tape.node(output) is None else tape.leaf(output)
            with tape.paused():
                activation = tape.before_norm(output)
                if name == start_layer:
                    begins[name] = activation
                if name in layers:
                    activations[name] = keep_activation(name, activation)
                    zeros[name] = activation.new_zeros(()).expand_as(activation)

        recorded = [*layers, *conditions, *([start_layer] if start_layer else [])]
        with torch.inference_mode(False), evaluation_mode(self.model), torch.set_grad_enabled(create_graph):
            place = self._place(x, create_graph)
            pixels = tape.leaf(place, wanted=at_input)
            with record_outputs(self.model, recorded, visit), tape:
                logits = self.model(place)
            if start_layer is None:
                begin, seed = _node_of_logits(tape, logits), start_weights(logits, target, start)
            else:
                begin, seed = nodes[start_layer], start_at(begins.pop(start_layer), start_relevance)
                if begin is None:
                    raise ValueError(
                        f"start_layer '{start_layer}' does not depend on the input, so nothing there can be explained."
                    )
            keepers: dict[Node | None, dict[str, Keep]] = {pixels: {"": unchanged}} if at_input else {}
            for name in layers:
                keepers.setdefault(nodes[name], {})[name] = keep_relevance
            wanted = {node: partial(_keep_all, those) for node, those in keepers.items() if node is not None}
            filters = {nodes[name]: _as_filter(condition) for name, condition in conditions.items()}
            found = tape.propagate({begin: seed}, wanted, filters)
            kept = {name: values for those in found.values() for name, values in those.items()}
            relevances = {name: kept[name] if name in kept else keep_relevance(name, zeros[name]) for name in layers}
            relevance = kept.get("", torch.zeros_like(place)) if at_input else None
        return Attribution(relevance, logits, relevances, activations)

    def _watch(self, example: torch.Tensor) -> None:
        """Find which BatchNorm follows which layer, and check that following the model changes nothing it computes."""
        self._tensors = dict(_tensors(self.model))
        self._names = {id(tensor): name for name, tensor in self._tensors.items()}
        self._pairs: dict[int, tuple[torch.Tensor, Norm]] = {}
        self._weights = self._make_weights(keep=True)
        with torch.inference_mode(False), evaluation_mode(self.model), torch.no_grad():
            expected = self.model(example)
            planning = self._tape(keep=True)
            planning.plan = Plan()
            self._follow(planning, example)
            pairs = planning.plan.pairs(self._names)
            self._pairs = {key: (weight, self._with_counter(norm)) for key, (weight, norm) in pairs.items()}
            self._weights = self._make_weights(keep=True)
            if self._pairs and not _same(self._follow(self._tape(keep=True), example), expected):
                self._pairs = {}
            self._weights = self._make_weights(keep=True)
            followed = self._tape(keep=True)
            logits = self._follow(followed, example)
        self.without_rule = frozenset(followed.without_rule)
        if not _same(logits, expected):
            raise ValueError(
                "the model computes something else while attribution follows it: it writes in place where the written "
                "tensor is used again, or is random in evaluation mode. Write y = f(x) instead of f_(x) or "
                "f(x, inplace=True) without using what is returned."
            )

    def _with_counter(self, norm: Norm) -> Norm:
        module = self._names[id(norm.mean)].removesuffix("running_mean")
        return replace(norm, counter=self._tensors.get(f"{module}num_batches_tracked"))

    def _holds_the_same_tensors(self) -> bool:
        """Tell whether parameters and buffers are those watched: other types, devices or checkpoints bring new ones."""
        known, found = self._tensors, dict(_tensors(self.model))
        return known.keys() == found.keys() and all(known[name] is tensor for name, tensor in found.items())

    def _follow(self, tape: Tape, example: torch.Tensor) -> torch.Tensor:
        place = self._place(example, create_graph=False)
        tape.leaf(place)
        with tape:
            logits = self.model(place)
        _node_of_logits(tape, logits)
        tape.steps.clear()  # they hold the tape, and with it every activation, in a circle
        return logits

    def _tape(self, *, keep: bool) -> Tape:
        return Tape(
            self.composite,
            self._weights if keep else self._make_weights(keep=False),
            keeps_biases=not self.without_biases,
            pixel_range=pixel_range(self.model),
        )

    def _make_weights(self, *, keep: bool) -> Weights:
        return Weights(self._pairs, self._names, keep, self.channels_last and keep)

    def _place(self, x: torch.Tensor, create_graph: bool) -> torch.Tensor:
        """Return x as a tensor of its own, so that what is remembered about it is not remembered about the user's."""
        x = x.clone() if x.is_inference() else x  # those take no part in derivatives
        if create_graph:
            return x.view_as(x)
        images = self.channels_last and x.ndim == 4
        return x.detach().contiguous(memory_format=torch.channels_last) if images else x.detach()


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _refuse_torchscript(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            what = f"module '{name}'" if name else "the model"
            raise ValueError(
                f"{what} is TorchScript, which hides how values come about. "
                "Give the network as ordinary Python modules."
            )


def _require_layers(rules: Mapping[str, object], names: Iterable[str]) -> None:
    paths = sorted({name.rpartition(".")[0] for name in names})
    for pattern in rules:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise ConfigError(
                f"rules: no layer with weights matches '{pattern}'.{nearest(pattern, paths)} "
                f"Layers: {', '.join(paths[:40])}."
            )


def _keep_all(keepers: Mapping[str, Keep], relevance: torch.Tensor) -> dict[str, Any]:
    """Keep of one tensor what each layer that puts it out keeps: a layer may hand its input on."""
    return {name: keep(name, relevance) for name, keep in keepers.items()}


def _as_filter(condition: Condition) -> Callable[[torch.Tensor], torch.Tensor]:
    return condition if callable(condition) else lambda relevance: relevance * condition.to(relevance)


def _node_of_logits(tape: Tape, logits: torch.Tensor) -> Node:
    node = tape.node(logits)
    if node is None:
        raise ValueError(
            "attribution cannot see how the logits come from the input: TorchScript and compiled modules hide it. "
            "Give the network as ordinary Python modules that return one tensor of logits."
        )
    return node


def _same(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    if not expected.isfinite().all():
        return True  # nothing to compare with; the health check says what is wrong
    tolerance = max(TOLERANCE, 30 * torch.finfo(expected.dtype).eps)
    return bool((logits - expected).abs().max() <= tolerance * expected.abs().max())


def attribute(
    model: nn.Module,
    x: torch.Tensor,
    target: Target = None,
    *,
    composite: str | Composite | object = "epsilon_plus_flat",
    layers: Sequence[str] = (),
    start: Start = "logit",
    start_layer: str | None = None,
    start_relevance: StartRelevance = None,
    conditions: Mapping[str, Condition] | None = None,
    create_graph: bool = False,
    rules: Mapping[str, str | Rule] | None = None,
    **parameters,
) -> Attribution:
    """Explain a batch.

    For many batches of one model, make an `Explainer` once.

    Args:
        model: any module, pixels -> logits; it is left as it was.
        x: `[N, C, H, W]` or `[N, C, T]`.
        target: class id, ids `[N]`, logit weights `[N, K]`, or None for the predicted class.
        composite: a key of `COMPOSITES`, or a `Composite`: LRP by rules; "lrp_flex" (parameters `epsilon`,
            `input_rule`, `pixel_range`); a key of `BASELINES`, such as "integrated_gradients"; or a composite of
            zennit, as it is.
        layers: names of modules at whose output relevance and activation are returned.
        start: relevance of the logits: "logit" (their own value, so its sign says for or against), "one_hot", or
            "contrast" (the class against all others; Iwana et al. 2019).
        start_layer: start inside the network instead of at the logits.
        start_relevance: relevance at the output of `start_layer`, or a function of its activation.
        conditions: layer -> mask of what relevance goes on there, see `Explainer.attribute`.
        create_graph: keep the graph, so that a loss on relevance can be trained on.
        rules: rules of single layers, see `Explainer`.
        parameters: of "lrp_flex" or of the baseline.

    Raises:
        ConfigError: unknown composite or rule.
        ValueError: a layer that does not run exactly once; a target or a start that does not fit; `create_graph` with
            a composite of zennit, whose rules are not differentiable in the weights.
    """
    if composite == "lrp_flex":
        if rules or conditions or start != "logit":
            raise ValueError(
                "composite 'lrp_flex' has one rule and starts at the logits' own values; "
                f"for rules, conditions or another start take one of {', '.join(COMPOSITES)}."
            )
        relevance, logits, relevances, activations = lrp_flex(
            model, x, target, layers=layers, start_layer=start_layer, start_relevance=start_relevance,
            create_graph=create_graph, **parameters,
        )  # fmt: skip
        return Attribution(relevance, logits, relevances, activations)
    if isinstance(composite, str) and composite in BASELINES:
        if start != "logit" or start_layer is not None or rules or conditions:
            raise ValueError(
                f"'{composite}' explains logits: start, start_layer, conditions and rules are for composites of "
                f"LRP, one of {', '.join(COMPOSITES)}."
            )
        return BASELINES[composite].explain(model, x, target, layers=layers, create_graph=create_graph, **parameters)
    if parameters:
        raise TypeError(f"composite '{composite}' takes no parameter '{next(iter(parameters))}'.")
    if is_zennit_composite(composite):
        if create_graph or rules or conditions:
            raise ValueError(
                "a composite of zennit brings its own rules, which are not differentiable in the weights; "
                f"for create_graph, conditions or rules take one of {', '.join(COMPOSITES)}."
            )
        return attribute_by_zennit(
            model, x, target, composite, layers=layers, start=start, start_layer=start_layer,
            start_relevance=start_relevance,
        )  # fmt: skip
    return Explainer(model, x[:2], composite, rules=rules).attribute(
        x, target, layers=layers, start=start, start_layer=start_layer, start_relevance=start_relevance,
        conditions=conditions,
        create_graph=create_graph,
    )  # fmt: skip
