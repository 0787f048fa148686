from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from fake_stages import MINIMAL, Fake, install

from pipeline.run import fingerprint, freshness


@pytest.fixture
def fake(monkeypatch) -> Fake:
    # The real sources may change while the tests run.
    for module in (fingerprint, freshness):
        monkeypatch.setattr(module, "digest_sources", lambda rooms: f"sources of {rooms}")
    return install(Fake(), monkeypatch.setitem)


@pytest.fixture
def write_config(tmp_path):
    """Return a function that writes a configuration and returns its path."""

    def write(**changes) -> Path:
        file = tmp_path / "trial.yaml"
        file.write_text(yaml.safe_dump(MINIMAL | {"output_dir": str(tmp_path / "artifacts")} | changes))
        return file

    return write


@pytest.fixture
def make_config(write_config):
    """Return a function that makes a configuration."""
    from pipeline.config import load_config

    return lambda *overrides, **changes: load_config(write_config(**changes), overrides)
