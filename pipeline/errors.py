"""The errors that end a run, each with the exit code that the command line promises."""

from __future__ import annotations


class PipelineError(Exception):
    """A problem that a user can act on; the message names the value, the place, what is allowed and the next step."""

    exit_code = 1


class ConfigError(PipelineError):
    """The command line or the configuration is wrong."""

    exit_code = 2


class DataError(PipelineError):
    """The data cannot be used as they are: a missing root, unreadable samples, labels outside the classes."""


class CheckpointError(PipelineError):
    """A checkpoint does not belong to the architecture, or cannot be read safely."""


class StoreError(PipelineError):
    """A file of the run is missing, truncated or of another version."""


class BusyError(PipelineError):
    """Another process is working in the same run directory."""


class GateFailed(PipelineError):
    """The run is complete, and the report's gate did not pass."""

    exit_code = 3


def nearest(name: str, allowed: list[str]) -> str:
    """Return " Did you mean 'x'?" for the closest allowed name, or an empty string when none is close."""
    import difflib

    close = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
