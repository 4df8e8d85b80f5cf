"""Models: ``build_model`` makes them from a config, ``load_weights`` fills them from a file."""

from .build import build_model
from .load_report import LoadReport
from .weights import load_weights, save_weights

__all__ = ["LoadReport", "build_model", "load_weights", "save_weights"]
