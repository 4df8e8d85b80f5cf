"""The machine of a rank: its name, and whether it has the GPUs that SLURM has promised."""

import os
import socket

import torch

from stvit_video.errors import TransientError, UserError
from stvit_video.runtime.distributed import resolve_device


def node_name() -> str:
    """Return SLURM's name of this machine, or its own."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def device_of_task(device: str, num_gpus: int) -> str:
    """Return "cuda" or "cpu" for the config's DEVICE, in a task on a node that SLURM has chosen.

    Raises:
        TransientError: the node lacks GPUs; SLURM counts them without trying them.
    """
    try:
        return resolve_device(device, num_gpus)
    except UserError as error:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = "" if shown is None else f"; CUDA_VISIBLE_DEVICES is {shown or 'empty'}"
        raise TransientError(
            f"node {node_name()} shows {torch.cuda.device_count()} of {num_gpus} GPUs (NUM_GPUS"
            f"{visible}): look there with nvidia-smi, and keep the job away from it with --exclude "
            f"{node_name()}"
        ) from error
