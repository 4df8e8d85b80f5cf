"""Options of sbatch and srun that the program has no flag for, as the user writes them."""

import re
from collections.abc import Mapping, Sequence

from stvit_video.cluster.slurm import count_gpus
from stvit_video.errors import UserError

# Long names alone: sbatch would take "N4", too.
_OPTION = re.compile(r"(?:--)?([a-z][a-z0-9-]+)(?:=(.+))?")

_FOLDER = "the logs are where the other commands look for them, see --job-dir"
_ENVIRONMENT = "the ranks need what the script sets: export your variables before you launch"
_SIZE = "--gpus-per-node or NUM_GPUS, and --nodes"
# What the program says itself in the script, and how a user does.
_OURS = {
    "chdir": "the job stands in its copy of the code",
    "cpus-per-task": "use --cpus-per-task",
    "error": _FOLDER,
    "export": _ENVIRONMENT,
    "export-file": _ENVIRONMENT,
    "job-name": "use --name",
    "nodes": "use --nodes",
    "ntasks": f"it follows from {_SIZE}",
    "ntasks-per-node": f"it follows from {_SIZE}",
    "output": _FOLDER,
    "signal": "it follows from --time",
    "time": "use --time",
}
_OURS_OF_SBATCH = {
    **_OURS,
    "account": "use --account",
    "array": "use --array, or launch several jobs",
    "clusters": "launch on a login node of that cluster",
    "constraint": "use --constraint",
    "dependency": "use --after or --chain",
    "exclude": "use --exclude",
    "gpus": "use --gpus-per-node",
    "gpus-per-node": "use --gpus-per-node, with --sbatch gres=gpu:TYPE:N for a type",
    "kill-on-invalid-dep": "a job that can never start must not wait for ever",
    "mail-type": "use --mail",
    "mail-user": "use --mail",
    "mem": "use --mem",
    "no-requeue": "use --max-requeues 0",
    "open-mode": _FOLDER,
    "parsable": "the number of the job must be told as usual",
    "partition": "use --partition",
    "qos": "use --qos",
    "requeue": "use --max-requeues",
    "test-only": "use --dry-run",
    "wait": "use --follow",
    "wrap": "the job has a script",
}
_OURS_OF_SRUN = {
    **_OURS,
    "jobid": "it is the job's own",
    "kill-on-bad-exit": "use --requeue-on-failure",
    "multi-prog": "all ranks run the same program",
    "pty": "use --follow",
    "unbuffered": "it is set already",
}


def read_sbatch_options(texts: Sequence[str]) -> dict[str, str | bool]:
    """Read --sbatch: "nodelist=n2", "exclusive" become {"nodelist": "n2", "exclusive": True}.

    Raises:
        UserError: one is not well-formed, given twice, or what the program sets itself.
    """
    return _read(texts, flag="--sbatch", ours=_OURS_OF_SBATCH)


def read_srun_options(texts: Sequence[str]) -> tuple[str, ...]:
    """Read --srun-arg: "mpi=none" becomes "--mpi=none".

    Raises:
        UserError: as `read_sbatch_options`.
    """
    options = _read(texts, flag="--srun-arg", ours=_OURS_OF_SRUN)
    return tuple(
        f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()
    )


def check_typed_gpus(sbatch: Mapping[str, str | bool], gpus_per_node: int) -> None:
    """Check that --sbatch gres=gpu:TYPE:N, if it is there, has a GPU for each rank.

    Raises:
        UserError: it asks for another number.
    """
    typed = typed_gpus(sbatch)
    if typed not in (0, gpus_per_node):
        raise UserError(
            f"--sbatch gres={sbatch['gres']} must ask for as many GPUs as a node has ranks, but "
            f"they are {typed} and {gpus_per_node}: make it the number of --gpus-per-node"
        )


def typed_gpus(sbatch: Mapping[str, str | bool]) -> int:
    """Return how many GPUs of a node --sbatch gres=gpu:TYPE:N asks for."""
    return count_gpus(str(sbatch.get("gres", "")))


def _read(texts: Sequence[str], *, flag: str, ours: Mapping[str, str]) -> dict[str, str | bool]:
    options: dict[str, str | bool] = {}
    for text in texts:
        match = _OPTION.fullmatch(text)
        if match is None:
            raise UserError(
                f"{flag} takes NAME=VALUE or NAME, an option by its long name, but it is {text!r}: "
                f"write it like {flag} comment=first"
            )
        name, value = match.groups()
        for own, mend in ours.items():
            # SLURM takes the beginning of a name for the whole.
            if own.startswith(name):
                raise UserError(
                    f"{flag} cannot say {name}, as the program says {own} itself: {mend}"
                )
        if name in options:
            raise UserError(f"{flag} says {name} twice: say it once")
        options[name] = True if value is None else value
    return options
