from __future__ import annotations

import textwrap

import numpy as np
import pytest

from pipeline.data.load import load_dataset
from pipeline.errors import ConfigError, DataError

MODULE = """
import numpy as np
import pandas as pd
from pipeline.data.memory import ArrayDataset, make_table

def make(n=30, seed=7, scale=1):
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 1, 8, 8), dtype=np.uint8)
    table = make_table([f"x{row}" for row in range(n)], np.arange(n) % 2, ["train"] * n)
    table["person"] = [f"p{row // 2}" for row in range(n)]
    return ArrayDataset(pixels, table.drop(columns="split"), ["a", "b"])

def bright(n=30):
    data = make(n)
    data.pixels_at = lambda index: data.pixels[index] * 3.0
    return data

def alien():
    return [1, 2, 3]
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_pictures.py").write_text(textwrap.dedent(MODULE))
    (tmp_path / "my_broken.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_splits_are_drawn_where_the_factory_gives_none(module, data_config):
    data = load_dataset(data_config(kind="my_pictures:make", params={"n": 60}))
    assert len(data) == 60 and data.table["split"].value_counts().to_dict() == {"train": 38, "test": 12, "val": 10}
    grouped = load_dataset(data_config(kind="my_pictures:make", split={"group_column": "person"})).table["split"]
    assert np.array_equal(grouped[::2], grouped[1::2])


def test_group_column_must_be_in_the_table(module, data_config):
    with pytest.raises(ConfigError, match="data.split.group_column.*Did you mean 'person'"):
        load_dataset(data_config(kind="my_pictures:make", split={"group_column": "persons"}))


def test_seed_of_the_run_reaches_a_factory_that_asks_for_it(module, data_config):
    prints = [load_dataset(data_config(kind="my_pictures:make"), seed=seed).fingerprint() for seed in (1, 1, 2)]
    assert prints[0] == prints[1] != prints[2]
    fixed = data_config(kind="my_pictures:make", params={"seed": 3})
    assert load_dataset(fixed, seed=1).fingerprint() == load_dataset(fixed, seed=2).fingerprint()


@pytest.mark.parametrize(
    "kind, params, message",
    [
        ("no_such_module:make", {}, "no module 'no_such_module'.*PYTHONPATH"),
        ("my_pictures:mke", {}, "no function 'mke'.*Did you mean 'make'"),
        ("my_pictures:make", {"size": 3}, r"make\(n=30, seed=7, scale=1\).*'size'"),
    ],
)
def test_what_does_not_exist_is_named(module, data_config, kind, params, message):
    with pytest.raises(ConfigError, match=message):
        load_dataset(data_config(kind=kind, params=params))


def test_error_inside_the_module_is_not_hidden(module, data_config):
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        load_dataset(data_config(kind="my_broken:make"))


def test_result_must_be_a_data_set_with_values_in_range(module, data_config):
    with pytest.raises(DataError, match="my_pictures:alien' is no AuditDataset: it lacks table, classes"):
        load_dataset(data_config(kind="my_pictures:alien"))
    with pytest.raises(DataError, match=r"sample 'x0' has values from .*must be finite and lie in \[0, 1\]"):
        load_dataset(data_config(kind="my_pictures:bright"))
