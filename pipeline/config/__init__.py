"""The typed configuration of a run."""

from .load import load_config
from .schema import Config

__all__ = ["Config", "load_config"]
