"""Transformer layers, independent of configs, data and semantic tokens."""
