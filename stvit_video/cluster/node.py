"""The machine of a rank: its name, and whether it has the GPUs that SLURM has promised."""

import os
import socket

import torch

from stvit_video.errors import TransientError, UserError
from stvit_video.runtime.launch import check_gpus, resolve_device


def node_name() -> str:
    """Return SLURM's name of this machine, or its own."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def device_of_task(device: str, num_gpus: int) -> str:
    """Return "cuda" or "cpu" for the config's DEVICE, in a task on a node that SLURM has chosen.

    Raises:
        TransientError: the node lacks GPUs; SLURM counts them without trying them.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        # A task may be given one GPU of its own; one that was given several must see them all.
        if device == "cuda" and "," in (visible or ""):
            check_gpus(num_gpus)
        return resolve_device(device, num_gpus)
    except UserError as error:
        shown = "" if visible is None else f"; CUDA_VISIBLE_DEVICES is {visible or 'empty'}"
        raise TransientError(
            f"node {node_name()} shows {torch.cuda.device_count()} of {num_gpus} GPUs (NUM_GPUS"
            f"{shown}): look there with nvidia-smi, and keep the job away from it with --exclude "
            f"{node_name()}"
        ) from error
