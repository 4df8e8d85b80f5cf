"""Build the models of the released configs, unchanged or with fewer channels."""

from pathlib import Path

from stvit_video.config import load_config
from stvit_video.models import build_model

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "k400"
FEWER_CHANNELS = ("SWIN.EMBED_DIM", "12", "MODEL.NUM_CLASSES", "5")


def model_of(name, *overrides):
    """Build the model of ``configs/k400/{name}.yaml``."""
    return build_model(load_config(CONFIGS / f"{name}.yaml", overrides))


def small_model(name, *overrides):
    """Build the same with 12 channels in the first stage, 5 classes and no dropout."""
    plain = ("MODEL.DROPCONNECT_RATE", "0.0", "MODEL.DROPOUT_RATE", "0.0")
    return model_of(name, *FEWER_CHANNELS, *plain, *overrides)


def number_of_values(model):
    return sum(parameter.numel() for parameter in model.parameters())


def imagenet_model(name, *overrides):
    """Build the model of ``configs/imagenet/{name}.yaml``."""
    return build_model(load_config(CONFIGS.parent / "imagenet" / f"{name}.yaml", overrides))


def small_deit(*overrides):
    """Build a DeiT of 24 channels for 64 x 64 pixels, without dropout."""
    small = ("DEIT.EMBED_DIM", "24", "DEIT.NUM_HEADS", "2", "MODEL.NUM_CLASSES", "5")
    plain = ("MODEL.DROPCONNECT_RATE", "0.0", "DATA.TRAIN_CROP_SIZE", "64")
    stgm = ("STVIT.LAYOUT", "base 4, stgm 2, semantic 6", "STVIT.KEY_WINDOWS", "(0, 0)")
    return imagenet_model("deit_s", *small, *plain, *stgm, *overrides)
