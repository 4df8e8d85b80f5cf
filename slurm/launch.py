"""Train and test on a SLURM cluster: check, submit, follow and list jobs."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

# The helpers that all programs share are in tools/.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from _program import is_yaml, program

from stvit_video.errors import UserError

if TYPE_CHECKING:
    from stvit_video.slurm.status import JobRecord

_MIN_TIMEOUT_SECONDS, _MAX_TIMEOUT_SECONDS = 20.0, 7 * 24 * 3600.0
_DEFAULT_CFG = "configs/k400/stvit_swin_t.yaml"
_EXAMPLES = """examples:
  python slurm/launch.py --nodes 4 DATA.PATH_TO_DATA_DIR /data/k400 \\
      TRAIN.CHECKPOINT_FILE_PATH swin_tiny_patch4_window7_224.pth
  python slurm/launch.py --nodes 4 --dry-run --opts DATA.PATH_TO_DATA_DIR /data/k400
  python slurm/launch.py --cfg configs/k400/swin_t.yaml --partition gpu --time 2-00:00:00 --follow
  python slurm/launch.py --array SOLVER.BASE_LR=1e-3,5e-4,2e-4
  python slurm/launch.py --nodes 2 --chain \\
      configs/imagenet/stvit_swin_t_patch.yaml DATA.PATH_TO_DATA_DIR /data/imagenet \\
          OUTPUT_DIR output/images \\
      configs/k400/stvit_swin_t.yaml DATA.PATH_TO_DATA_DIR /data/k400 OUTPUT_DIR output/videos
  python slurm/launch.py --nodes 4 --gpus-per-node 0 --cfg configs/demo/stvit_swin_motion.yaml
  python slurm/launch.py --local --follow --cfg configs/demo/stvit_swin_motion.yaml
  python slurm/launch.py --sbatch reservation=course --sbatch exclusive
  python slurm/launch.py --status
docs/slurm.md explains how to set up a cluster, and what to do when a job hangs.
"""


@program("launch.py")
def main(arguments: Sequence[str]) -> int:
    """Submit, follow or list jobs; return the exit status."""
    options = parse_arguments(arguments)
    _check_combination(options)
    if options.status:
        return _print_status(options.job_dir)
    # Imported here so that --help, --status and a typo need not wait for PyTorch.
    from stvit_video.slurm.build import LaunchOptions, build_plans
    from stvit_video.slurm.preflight import check_plans
    from stvit_video.slurm.sbatch import batch_script
    from stvit_video.slurm.submit import submit_plans

    names = [field.name for field in fields(LaunchOptions)]
    plans = build_plans(LaunchOptions(**{name: getattr(options, name) for name in names}))
    order = {"after": options.after, "is_chain": options.is_chain}
    plans = check_plans(plans, **order)
    for index, plan in enumerate(plans):
        print(f"{plan.describe()}\n", flush=True)
        if options.dry_run and not options.local:
            after = options.after
            if options.is_chain and index:
                # The id of the previous job is not known yet.
                after = [f"<{plans[index - 1].name}>"]
            print(batch_script(plan, after=after))
    if options.dry_run:
        return 0
    records = submit_plans(plans, **order)
    for record in records:
        print(f"submitted {record.title}; log of rank 0: {record.log()}", flush=True)
    return _follow_jobs(records) if options.follow else 0


def _print_status(job_dir: Path) -> int:
    from stvit_video.slurm.status import read_job_records, status_table

    records = read_job_records(job_dir)
    if not records:
        raise UserError(f"no job was launched with --job-dir {job_dir}")
    print(status_table(records))
    return 0


def _follow_jobs(records: "Sequence[JobRecord]") -> int:
    from stvit_video.slurm.follow import follow

    try:
        return 0 if all(follow(record) for record in records) else 1
    except KeyboardInterrupt:
        commands = " or ".join(f"`{record.stop_command}`" for record in records)
        print(f"\nThe job keeps running: --status shows it, and {commands} stops it")
        return 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line.

    Adds ``is_chain``, ``cfg_files``, the ``own_overrides`` of each of them, and the ``overrides``
    of all.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_run_arguments(parser)
    _add_resource_arguments(parser.add_argument_group("resources"))
    _add_restart_arguments(parser.add_argument_group("stops and failures"))
    parsed = parser.parse_intermixed_args(arguments)
    parsed.is_chain = parsed.chain is not None
    parsed.cfg_files, parsed.own_overrides = [parsed.cfg or _DEFAULT_CFG], [[]]
    parsed.overrides = [*parsed.opts, *parsed.bare]
    if parsed.is_chain:
        parsed.cfg_files, parsed.own_overrides, shared = _split_chain(parsed.chain)
        parsed.overrides = [*shared, *parsed.overrides]
    return parsed


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg", metavar="FILE", help=f"YAML config ({_DEFAULT_CFG})")
    parser.add_argument(
        "--chain",
        nargs="+",
        metavar="CFG",
        help="several configs, each of which starts from the final checkpoint of the previous one; "
        "CFG KEY VALUE CFG KEY VALUE gives each its own overrides; CFG CFG KEY VALUE, --opts and "
        "overrides before --chain apply to all",
    )
    parser.add_argument(
        "--array", default="", metavar="KEY=V1,V2", help="one job for each value of a config key"
    )
    parser.add_argument(
        "--opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of config keys"
    )
    parser.add_argument("bare", nargs="*", metavar="KEY VALUE", help="overrides, as after --opts")
    parser.add_argument("--name", default="", help="name of the job (the config's name)")
    parser.add_argument(
        "--job-dir",
        type=Path,
        default=Path("output/jobs"),
        help="where each job gets a folder for its code, config and logs (%(default)s)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check, show the plan and the batch script, and submit nothing",
    )
    parser.add_argument("--local", action="store_true", help="run on this machine, without SLURM")
    parser.add_argument(
        "--follow", action="store_true", help="show the log of rank 0 until the job ends"
    )
    parser.add_argument("--status", action="store_true", help="list the jobs in --job-dir")


def _add_resource_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--nodes", type=int, help="number of machines (the config's NUM_SHARDS)")
    group.add_argument(
        "--gpus-per-node",
        type=int,
        metavar="N",
        help="GPUs, and so ranks, per node (the config's NUM_GPUS); 0: run NUM_GPUS ranks per node "
        "on the CPU",
    )
    group.add_argument(
        "--cpus-per-task", type=int, metavar="N", help="cores per rank (loader workers + 1)"
    )
    group.add_argument(
        "--time",
        default="",
        help="time limit of one start of the job, which resumes after it (a day, or the "
        "partition's limit)",
    )
    group.add_argument("--mem", default="", help="memory per node, such as 64G")
    for name, meaning in (
        ("partition", "partition, or several, such as low,high"),
        ("account", "account"),
        ("qos", "quality of service"),
        ("constraint", "required features of the nodes"),
    ):
        # sbatch would prefer these variables of its own over the batch script.
        default = os.environ.get(f"SBATCH_{name.upper()}", "")
        group.add_argument(f"--{name}", default=default, help=f"{meaning} (SBATCH_{name.upper()})")
    group.add_argument("--exclude", default="", metavar="NODES", help="nodes not to use")
    group.add_argument(
        "--mail", default="", metavar="ADDRESS", help="notify of start, end, failure and requeue"
    )
    group.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another sbatch option, such as reservation=x, gres=gpu:a100:8 or exclusive; may be "
        "repeated",
    )
    group.add_argument(
        "--srun-arg",
        dest="srun_args",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another srun option, such as container-image=x; may be repeated",
    )
    group.add_argument(
        "--after",
        action="append",
        default=[],
        metavar="JOBID",
        help="start after this job has completed; may be repeated",
    )


def _add_restart_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-requeues",
        type=int,
        default=20,
        metavar="N",
        help="do not requeue the job after this many restarts (%(default)s)",
    )
    group.add_argument(
        "--requeue-on-failure",
        action="store_true",
        help="also resume from the last checkpoint after a rank died or hung",
    )
    group.add_argument(
        "--timeout-s",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="end the job if a rank keeps the others waiting this long (%(default)g)",
    )


def _split_chain(words: Sequence[str]) -> tuple[list[str], list[list[str]], list[str]]:
    """Return the configs of a chain, the overrides of each, and the overrides of all.

    Overrides after a config belong to it, and those before the first config to all. If there are
    none between the configs, those after the last one belong to all, too.
    """
    files: list[str] = []
    groups: list[list[str]] = [[]]
    for word in words:
        if is_yaml(word):
            files.append(word)
            groups.append([])
        else:
            groups[-1].append(word)
    shared, *own = groups
    if own and not any(own[:-1]):
        shared, own[-1] = [*shared, *own[-1]], []
    return files, own, shared


def _check_combination(options: argparse.Namespace) -> None:
    """Check flags that exclude each other.

    Raises:
        UserError: two flags do.
    """
    has_several_jobs = options.is_chain or bool(options.array)
    has_slurm_options = bool(options.sbatch or options.srun_args)
    is_timeout_valid = _MIN_TIMEOUT_SECONDS <= options.timeout_s <= _MAX_TIMEOUT_SECONDS
    problems = [
        (options.is_chain and not options.cfg_files, "--chain takes YAML files, but it has none"),
        (options.is_chain and options.cfg, "--chain names the configs, so --cfg must be removed"),
        (options.is_chain and options.array, "--array and --chain cannot be combined"),
        (
            options.local and has_several_jobs,
            "--local runs one job, so it cannot be combined with --array or --chain",
        ),
        (
            options.local and options.after,
            "--local starts immediately, so it cannot be combined with --after",
        ),
        (
            not is_timeout_valid,
            f"--timeout-s must be from {_MIN_TIMEOUT_SECONDS:g} to {_MAX_TIMEOUT_SECONDS:g}, but "
            f"it is {options.timeout_s:g}; it must be longer than the slowest step",
        ),
        (
            options.local and has_slurm_options,
            "--local runs without SLURM, so it cannot be combined with --sbatch or --srun-arg",
        ),
        (options.array and options.follow, "--follow shows one job; use --status for an array"),
    ]
    for has_problem, message in problems:
        if has_problem:
            raise UserError(message)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
