"""Models: ``build_model`` builds one from a config, ``load_weights`` loads its weights."""

from stvit_video.models.build import build_model
from stvit_video.models.weights.load import load_weights, save_weights
from stvit_video.models.weights.report import LoadReport

__all__ = ["LoadReport", "build_model", "load_weights", "save_weights"]
