"""Cascade Mask R-CNN on the parts that torchvision has, with any backbone of stages in front."""
