"""The configuration: every key with its default, YAML files on top, overrides last, all checked."""

from stvit_video.config.load import dump_config, load_config

__all__ = ["dump_config", "load_config"]
