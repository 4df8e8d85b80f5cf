"""The paper's tables and ablations, measured; nothing of the package imports them."""
