"""Benchmarks of models and of the data loader; no other part of the package imports them."""
