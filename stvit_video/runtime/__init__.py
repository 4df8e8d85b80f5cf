"""Distributed training, processes, files, logging and registries."""
