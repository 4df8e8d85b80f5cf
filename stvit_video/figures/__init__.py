"""Figures drawn from arrays, without models or configs."""
