"""Putting loaders together."""
