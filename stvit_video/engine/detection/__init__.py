"""Evaluation of detectors, by pycocotools."""
