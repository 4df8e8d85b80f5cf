"""Configuration: default values, YAML files and overrides, checked when they are loaded."""

from stvit_video.config.load import dump_config, load_config

__all__ = ["dump_config", "load_config"]
