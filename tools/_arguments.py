"""Types of command line arguments: what is no such value is a sentence of argparse."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it must be a whole number of at least 1, not {text}")
    return int(text)


def device(text: str) -> "torch.device":
    """Read the name of a device that this machine has, or "auto": a GPU, or else the CPU."""
    import torch  # here, so that --help need not wait for it

    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text} is no device: take cpu, cuda or cuda:N") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise argparse.ArgumentTypeError(f"{text} is not there: torch finds {count} GPUs here")
    if found.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{text} is no device: take cpu, cuda or cuda:N")
    return found
