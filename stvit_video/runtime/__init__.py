"""Ranks, logging and registries: what every other part may use."""
