"""From the section `data` of a configuration to a checked data set."""

from __future__ import annotations

import importlib

import numpy as np

from ..config.data import DataConfig
from ..errors import ConfigError
from ..workspace.progress import Reporter
from .checks import check_dataset, require_column
from .dataset import AuditDataset
from .memory import Subset
from .splits import assign_splits, first_rows

ADAPTERS = {
    "mnist5k": "pipeline.data.mnist5k:load",
    "digits": "pipeline.data.digits:load",
    "table": "pipeline.data.table:load",
    "folder": "pipeline.data.folder:load",
    "isic": "pipeline.data.isic:load",
}
"""Kind -> function `(config, reporter) -> AuditDataset`; a kind with a colon is a function of the user's own."""


def load_dataset(config: DataConfig, *, seed: int = 0, progress: Reporter | None = None) -> AuditDataset:
    """Return the data set of a configuration, divided, cut to `limit`, and checked. The attack is not in it yet.

    Args:
        config: section `data`.
        seed: the run's seed. Splits do not depend on it, but on `data.split.seed`; only factories may ask for it.
        progress: shows how far the decoding of files is.

    Raises:
        ConfigError: for an unknown kind and whatever the adapter finds wrong in its section.
        DataError: for data that cannot be used, see `pipeline.data.checks`.
    """
    if ":" in config.kind:
        from .factory import load

        dataset = load(config, progress, seed=seed)
    elif config.kind in ADAPTERS:
        module, name = ADAPTERS[config.kind].split(":")
        dataset = getattr(importlib.import_module(module), name)(config, progress)
    else:
        raise ConfigError(f"data.kind is '{config.kind}'; known kinds are {', '.join(ADAPTERS)} and my.module:factory.")
    dataset = _limited(_divided(dataset, config), config)
    check_dataset(dataset, f"data.kind '{config.kind}'")
    return dataset


def _divided(dataset: AuditDataset, config: DataConfig) -> AuditDataset:
    """Return the data set with splits drawn where its table has none."""
    table = getattr(dataset, "table", None)
    if table is None or "split" in table.columns or not {"id", "label"} <= set(table.columns):
        return dataset
    groups = None
    if config.split.group_column is not None:
        require_column(config.split.group_column, table.columns.tolist(), "data.split.group_column", "the table")
        groups = table[config.split.group_column].fillna("").astype(str).tolist()
    splits = assign_splits(table["id"].tolist(), table["label"].to_numpy(), groups, config.split)
    return Subset(dataset, np.arange(len(table)), splits)


def _limited(dataset: AuditDataset, config: DataConfig) -> AuditDataset:
    table = getattr(dataset, "table", None)
    if config.limit is None or table is None or not {"label", "split"} <= set(table.columns):
        return dataset
    rows = first_rows(table["label"].to_numpy(), table["split"].to_numpy(), config.limit)
    return dataset if len(rows) == len(table) else Subset(dataset, rows)
