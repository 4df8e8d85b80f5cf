"""Speed and memory of models and of the data loader; nothing of the package imports them."""
