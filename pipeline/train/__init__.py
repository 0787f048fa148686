"""Fit or load the classifier under audit."""
