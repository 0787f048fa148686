"""Bias audit and mitigation of image classifiers: reveal, localize, mitigate, evaluate, report."""

__version__ = "0.1.0"
