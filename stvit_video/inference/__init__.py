"""Use a trained model: on media of one's own, for features, and to see what it looks at."""
