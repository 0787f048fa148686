"""A data set of the user's own, made by a function that the configuration names."""

from __future__ import annotations

import importlib
import inspect

from ..config.data import FactoryData
from ..errors import ConfigError, nearest
from ..workspace.progress import Reporter
from .dataset import AuditDataset


def load(config: FactoryData, reporter: Reporter | None = None, *, seed: int = 0) -> AuditDataset:
    """Return what `my.module:factory` makes of `params`; it may leave the column `split` out of its table.

    Args:
        config: section `data`.
        reporter: unused; factories say nothing.
        seed: the run's seed, given to a factory that has a parameter of this name and no value for it in `params`.

    Raises:
        ConfigError: when the module, the function or one of its parameters does not exist.
    """
    module_name, name = config.kind.split(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A package that the module itself lacks is another problem, and its traceback the best help.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"data.kind '{config.kind}': there is no module '{error.name}'. Next step: start from the folder that "
            "holds it with `python -m ...`, or add that folder to PYTHONPATH"
        ) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        functions = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise ConfigError(
            f"data.kind '{config.kind}': the module has no function '{name}'.{nearest(name, functions)} "
            f"It has: {', '.join(functions)}."
        )
    signature = inspect.signature(factory)
    params = dict(config.params)
    if "seed" in signature.parameters:
        params.setdefault("seed", seed)
    try:
        signature.bind(**params)
    except TypeError as error:
        raise ConfigError(
            f"data.params do not suit {config.kind}{signature}: {error}. Given are: {', '.join(params) or 'none'}."
        ) from error
    return factory(**params)
