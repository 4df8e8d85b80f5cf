"""Augmentations of training clips; every frame of a clip is treated alike."""
