"""Cascade Mask R-CNN on a hierarchical backbone, built on torchvision's components."""
