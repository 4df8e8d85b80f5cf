"""Reproduce the paper's tables and ablations; no other part of the package imports this."""
