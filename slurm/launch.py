"""Train and test on a SLURM cluster: check everything, submit, follow, and ask how it goes."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

# The frame of all programs: finding the package, and what becomes of a user's mistake.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from _program import is_yaml, program

from stvit_video.errors import UserError

if TYPE_CHECKING:
    from stvit_video.slurm.status import JobRecord

# The least and the most that --timeout-s may be.
_TIMEOUT_SECONDS = (20.0, 7 * 24 * 3600.0)
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
docs/slurm.md says what to set on a cluster, and what to do when a job hangs.
"""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line.

    ``cfg_files`` are put together, with the ``own_overrides`` of each, and the ``overrides`` of
    all.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_run(parser)
    _add_resources(parser.add_argument_group("what to ask SLURM for"))
    _add_lifetime(parser.add_argument_group("stops and failures"))
    parsed = parser.parse_intermixed_args(arguments)
    parsed.is_chain = parsed.chain is not None
    parsed.cfg_files, parsed.own_overrides = [parsed.cfg or _DEFAULT_CFG], [[]]
    parsed.overrides = [*parsed.opts, *parsed.bare]
    if parsed.is_chain:
        parsed.cfg_files, parsed.own_overrides, of_all = _split(parsed.chain)
        parsed.overrides = [*of_all, *parsed.overrides]
    return parsed


@program("launch.py")
def main(arguments: Sequence[str]) -> int:
    """Do what the command line says."""
    options = parse_arguments(arguments)
    _check_combination(options)
    if options.status:
        return _status(options.job_dir)
    # Imported here so that --help, --status and a typing error need not wait for PyTorch.
    from stvit_video.slurm.build import LaunchOptions, build_plans
    from stvit_video.slurm.preflight import check_plans
    from stvit_video.slurm.sbatch import batch_script
    from stvit_video.slurm.submit import submit_plans

    names = [field.name for field in fields(LaunchOptions)]
    plans = build_plans(LaunchOptions(**{name: getattr(options, name) for name in names}))
    order = {"after": options.after, "is_chain": options.is_chain}
    plans = check_plans(plans, **order)
    for number, plan in enumerate(plans):
        print(f"{plan.describe()}\n", flush=True)
        if options.dry_run and not options.local:
            # The number of the job before it is not known yet.
            waits = [f"<{plans[number - 1].name}>"] if options.is_chain and number else None
            print(batch_script(plan, after=waits or options.after))
    if options.dry_run:
        return 0
    records = submit_plans(plans, **order)
    for record in records:
        print(f"submitted {record.title}; log of rank 0: {record.log()}", flush=True)
    return _follow(records) if options.follow else 0


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg", metavar="FILE", help=f"YAML config ({_DEFAULT_CFG})")
    parser.add_argument(
        "--chain",
        nargs="+",
        metavar="CFG",
        help="several configs, each of which starts from the last checkpoint of the one before; "
        "CFG KEY VALUE CFG KEY VALUE gives each its own overrides, CFG CFG KEY VALUE, --opts and "
        "what stands before --chain are for all",
    )
    parser.add_argument(
        "--array", default="", metavar="KEY=V1,V2", help="a job for each value of a config key"
    )
    parser.add_argument(
        "--opts", nargs="*", default=[], metavar="KEY VALUE", help="overrides of config keys"
    )
    parser.add_argument("bare", nargs="*", metavar="KEY VALUE", help="overrides, as after --opts")
    parser.add_argument("--name", default="", help="of the job (the config's name)")
    parser.add_argument(
        "--job-dir",
        type=Path,
        default=Path("output/jobs"),
        help="gets a folder for each job, with its code, config and logs (%(default)s)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check, show the plan and the script, submit nothing"
    )
    parser.add_argument("--local", action="store_true", help="run on this machine, without SLURM")
    parser.add_argument(
        "--follow", action="store_true", help="show rank 0's log until the job ends"
    )
    parser.add_argument("--status", action="store_true", help="show the jobs of --job-dir")


def _add_resources(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--nodes", type=int, help="machines (the config's NUM_SHARDS)")
    group.add_argument(
        "--gpus-per-node",
        type=int,
        metavar="N",
        help="GPUs, and so ranks, of each (the config's NUM_GPUS); 0: its ranks run on the CPU",
    )
    group.add_argument(
        "--cpus-per-task", type=int, metavar="N", help="of each rank (its loader's workers + 1)"
    )
    group.add_argument(
        "--time",
        default="",
        help="limit of a start of the job, which goes on after it (a day, or the partition's)",
    )
    group.add_argument("--mem", default="", help="memory of each node, such as 64G")
    for name, what in (
        ("partition", "partition, or several, such as low,high"),
        ("account", "account"),
        ("qos", "quality of service"),
        ("constraint", "features of the nodes"),
    ):
        # sbatch's own variables, which would beat what is written in the script.
        default = os.environ.get(f"SBATCH_{name.upper()}", "")
        group.add_argument(f"--{name}", default=default, help=f"{what} (SBATCH_{name.upper()})")
    group.add_argument("--exclude", default="", metavar="NODES", help="nodes not to use")
    group.add_argument("--mail", default="", metavar="ADDRESS", help="told of start, end, failure")
    group.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another option of sbatch, such as reservation=x, gres=gpu:a100:8 or exclusive; may "
        "be repeated",
    )
    group.add_argument(
        "--srun-arg",
        dest="srun_args",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another option of srun, such as container-image=x; may be repeated",
    )
    group.add_argument(
        "--after",
        action="append",
        default=[],
        metavar="JOBID",
        help="start when that job has ended well; may be repeated",
    )


def _add_lifetime(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-requeues",
        type=int,
        default=20,
        metavar="N",
        help="restarts after which the job requeues itself no more (%(default)s)",
    )
    group.add_argument(
        "--requeue-on-failure",
        action="store_true",
        help="go on from the last checkpoint after a rank died or hung, too",
    )
    group.add_argument(
        "--timeout-s",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="a rank that keeps the others waiting so long ends the job (%(default)g)",
    )


def _check_combination(options: argparse.Namespace) -> None:
    several = options.is_chain or bool(options.array)
    wrong = [
        (options.is_chain and not options.cfg_files, "--chain takes YAML files, but it has none"),
        (options.is_chain and options.cfg, "--chain names the configs, so --cfg has no place"),
        (options.is_chain and options.array, "--array and --chain do not go together"),
        (options.local and several, "--local runs one job, so it has no --array and no --chain"),
        (options.local and options.after, "--local starts at once, so it has no --after"),
        (
            not _TIMEOUT_SECONDS[0] <= options.timeout_s <= _TIMEOUT_SECONDS[1],
            f"--timeout-s must be from {_TIMEOUT_SECONDS[0]:g} to {_TIMEOUT_SECONDS[1]:g}, but it "
            f"is {options.timeout_s:g}; a slow step must not be taken for a rank that hangs",
        ),
        (
            options.local and (options.sbatch or options.srun_args),
            "--local runs without SLURM, so it has no --sbatch and no --srun-arg",
        ),
        (options.array and options.follow, "--follow shows one job; see --status for an array"),
    ]
    for is_wrong, sentence in wrong:
        if is_wrong:
            raise UserError(sentence)


def _status(job_dir: Path) -> int:
    from stvit_video.slurm.status import read_records, status_table

    records = read_records(job_dir)
    if not records:
        raise UserError(f"no job was launched with --job-dir {job_dir}")
    print(status_table(records))
    return 0


def _follow(records: "Sequence[JobRecord]") -> int:
    from stvit_video.slurm.follow import follow

    try:
        return 0 if all(follow(record) for record in records) else 1
    except KeyboardInterrupt:
        stops = " or ".join(f"`{record.how_to_stop}`" for record in records)
        print(f"\nThe job goes on: --status shows it, and {stops} ends it")
        return 0


def _split(listed: Sequence[str]) -> tuple[list[str], list[list[str]], list[str]]:
    """Return the configs of a chain, the overrides of each, and those of all.

    Those before the first config are of all, and so are those behind the last if none stand
    between the configs. If some do, each config has its own behind it.
    """
    files: list[str] = []
    groups: list[list[str]] = [[]]
    for word in listed:
        if is_yaml(word):
            files.append(word)
            groups.append([])
        else:
            groups[-1].append(word)
    of_all, *own = groups
    if own and not any(own[:-1]):
        of_all, own[-1] = [*of_all, *own[-1]], []
    return files, own, of_all


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
