"""Layers that know nothing of configs, data or semantic tokens: torch in, torch out."""
