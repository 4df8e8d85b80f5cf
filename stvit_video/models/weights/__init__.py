"""Weights files: checkpoint formats, fitting weights to a model, and load reports."""
