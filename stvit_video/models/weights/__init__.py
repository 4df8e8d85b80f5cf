"""Files of weights: their formats, fitting them to a model, and the report of that."""
