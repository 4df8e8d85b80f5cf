"""Checking a data set before training: its lines, its files, and what they are like."""
