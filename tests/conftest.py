from __future__ import annotations

import gc
import importlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import settings

from pipeline.data.memory import ArrayDataset
from pipeline.workspace.stage import StageContext

# One thread: more would only make small tensors wait for one another, most of all on a busy machine.
torch.set_num_threads(1)
settings.register_profile("house", deadline=None, max_examples=30, derandomize=bool(os.environ.get("CI")))
settings.load_profile("house")


def pytest_collection_finish() -> None:
    """Leave what collecting the tests made out of every later search for garbage, which would look at it all again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_dataset() -> ArrayDataset:
    """180 images of three classes, one of them with a planted square; see `tiny`."""
    return tiny.make_dataset()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, tiny_dataset) -> Path:
    """A run directory after train, precompute, reveal and localize. Read it only; `tiny_context` makes copies."""
    context = tiny.make_context(tmp_path_factory.mktemp("tiny") / "run", tiny_dataset)
    for stage in ("train", "precompute", "reveal", "localize"):
        importlib.import_module(f"pipeline.{stage}.stage").run(context)
    return context.directory.root


@pytest.fixture
def tiny_context(tiny_run, tiny_dataset, tmp_path) -> Callable[..., StageContext]:
    """Return a function that makes a context over a copy of `tiny_run`; keywords change the configuration."""
    root = tmp_path / "run"

    def make(dataset: ArrayDataset = tiny_dataset, **changes) -> StageContext:
        if not root.exists():
            shutil.copytree(tiny_run, root)
        return tiny.make_context(root, dataset, **changes)

    return make
