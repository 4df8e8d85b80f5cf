"""Use a trained model to classify, detect, extract features, and plot attention."""
