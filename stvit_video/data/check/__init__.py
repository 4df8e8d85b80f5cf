"""Checks of data sets before training: annotations, files, and statistics."""
