"""Augmentations of training clips, applied equally to all frames of a clip."""
