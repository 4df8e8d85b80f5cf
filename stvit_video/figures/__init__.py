"""Pictures drawn from arrays and files alone."""
