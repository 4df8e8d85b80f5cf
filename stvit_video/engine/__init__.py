"""The engine: training, evaluation and profiling of models over loaders."""
