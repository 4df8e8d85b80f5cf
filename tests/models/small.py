"""The models of the released configs, as they are or with fewer channels."""

from pathlib import Path

from stvit_video.config import load_config
from stvit_video.models import build_model

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "k400"
FEWER_CHANNELS = ("SWIN.EMBED_DIM", "12", "MODEL.NUM_CLASSES", "5")


def model_of(name, *overrides):
    """The model of ``configs/k400/{name}.yaml``."""
    return build_model(load_config(CONFIGS / f"{name}.yaml", overrides))


def small_model(name, *overrides):
    """The same with 12 channels in its first stage and 5 classes, and without any dropout."""
    plain = ("MODEL.DROPCONNECT_RATE", "0.0", "MODEL.DROPOUT_RATE", "0.0")
    return model_of(name, *FEWER_CHANNELS, *plain, *overrides)


def number_of_values(model):
    return sum(parameter.numel() for parameter in model.parameters())
