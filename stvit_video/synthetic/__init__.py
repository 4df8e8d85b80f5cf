"""Generated videos, digits and shapes; nothing of the package imports them."""
