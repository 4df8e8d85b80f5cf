"""Submit jobs: create their folders, copy the code, and start them on SLURM or this machine."""

import io
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr
from importlib.metadata import distributions
from pathlib import Path

from submitit.core.utils import FailedJobError, FailedSubmissionError

import stvit_video
from stvit_video.config import dump_config
from stvit_video.errors import UserError
from stvit_video.runtime.logging import get_logger
from stvit_video.slurm.job import run_job
from stvit_video.slurm.plan import Plan
from stvit_video.slurm.sbatch import build_executor, build_rank_job
from stvit_video.slurm.scontrol import cancel_job, find_queued_jobs
from stvit_video.slurm.status import JobRecord, new_record

# Parts of a checkout that a job's copy of the code contains.
_CODE_PARTS = ("stvit_video", "configs", "tools", "slurm", "setup.py", "constraints.txt")
# Variables of a surrounding job, hidden from the new one except for SLURM's own config and token.
_JOB_PREFIXES = ("SLURM_", "SRUN_", "SBATCH_", "SUBMITIT_", "TORCHELASTIC_")
_KEPT_VARIABLES = ("SLURM_CONF", "SLURM_JWT")
# Variables of torchrun and similar launchers: ranks would take them for their own.
_RANK_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "ROLE_NAME",
    "MASTER_ADDR",
    "MASTER_PORT",
)
_SBATCH_ERROR = "sbatch: error: "
# Errors of sbatch after which the job may be queued, because only the response was lost.
_LOST_RESPONSE = re.compile("timed out|zero bytes|unexpected message|reset by peer", re.IGNORECASE)
# A busy controller may queue a job after sbatch has given up.
_QUEUE_CHECK_DELAYS = (0.0, 2.0, 5.0)  # seconds

_log = get_logger(__name__)


def submit_plans(
    plans: Sequence[Plan], *, after: Sequence[str] = (), is_chain: bool
) -> list[JobRecord]:
    """Submit several jobs, all or none.

    Args:
        plans: the jobs.
        after: ids of jobs that must complete before these start.
        is_chain: each job also waits for the previous one.

    Raises:
        UserError: SLURM rejects one of them, or its folder cannot be written.
    """
    records: list[JobRecord] = []
    # Undo on any exception, including Ctrl-C.
    with ExitStack() as undo:
        for plan in plans:
            records.append(_submit(plan, after=after))
            undo.callback(_cancel, records[-1])
            if is_chain:
                after = [records[-1].job_id]
        undo.pop_all()
    return records


def _submit(plan: Plan, *, after: Sequence[str]) -> JobRecord:
    """Submit a job; on failure, neither its folder nor a queued job remains."""
    try:
        _create_folder(plan)
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, plan.folder, ignore_errors=True)
            _fill_folder(plan)
            record = _start_job(plan, after=after)
            undo.callback(_cancel, record)
            record.write()
            undo.pop_all()
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, shutil.Error):
            # It lists all files that could not be copied: [(source, destination, reason), ...].
            reason = error.args[0][0][2]
        raise UserError(
            f"the folder of the job {plan.name}, {plan.folder}, cannot be written ({reason}): free "
            "some space there, or set another --job-dir"
        ) from error
    return record


def _create_folder(plan: Plan) -> None:
    plan.folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Only the user may write there, because the ranks load pickles from it.
        plan.folder.mkdir(mode=0o700)
    except FileExistsError:
        raise UserError(
            f"a job's folder must be new, but {plan.folder} was created by another launch in the "
            "same second: launch again"
        ) from None


def _fill_folder(plan: Plan) -> None:
    copy_code(plan.folder / "code")
    write_versions(plan.folder)
    dump_config(plan.cfg, plan.folder / "config.yaml")
    command = shlex.join([sys.executable, *sys.argv])
    (plan.folder / "command.txt").write_text(f"cd {Path.cwd()}\n{command}\n", encoding="utf-8")


def copy_code(folder: Path) -> None:
    """Copy the package, the configs and the programs to a new folder.

    A job imports this copy, so it runs the code it was submitted with, also after a requeue,
    whatever changes in the working tree.
    """
    root = _code_root()
    folder.mkdir()
    # An installed package lies among other packages, so only the package itself is copied.
    for part in _CODE_PARTS if _is_checkout(root) else _CODE_PARTS[:1]:
        source = root / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copy2(source, folder / part)


def write_versions(folder: Path) -> None:
    """Write which code and which packages a job runs with.

    code_version.txt has git's commit and status, code.diff the changes since that commit (untracked
    files are only in the copy of the code), and environment.txt all installed packages.
    """
    root = _code_root()
    commit = _git(root, "rev-parse", "HEAD") if _is_checkout(root) else b""
    if commit:
        version = b"commit " + commit + (_git(root, "status", "--short") or b"clean") + b"\n"
        (folder / "code.diff").write_bytes(_git(root, "diff", "HEAD"))
    else:
        version = os.fsencode(f"no git; installed in {root}\n")
    (folder / "code_version.txt").write_bytes(version)
    (folder / "environment.txt").write_text(_list_packages(), encoding="utf-8")


def _code_root() -> Path:
    return Path(stvit_video.__file__).resolve().parents[1]


def _is_checkout(root: Path) -> bool:
    return (root / "setup.py").is_file() and (root / "configs").is_dir()


def _git(root: Path, *arguments: str) -> bytes:
    """Return git's output, or nothing if it fails; as bytes, because files have any encoding."""
    try:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""


def _list_packages() -> str:
    packages = {
        f"{package.metadata['Name']}=={package.version}"
        for package in distributions()
        if package.metadata["Name"]
    }
    head = f"# Python {platform.python_version()} at {sys.executable}, {platform.platform()}"
    return "\n".join([head, *sorted(packages, key=str.lower)]) + "\n"


def _start_job(plan: Plan, *, after: Sequence[str]) -> JobRecord:
    executor = build_executor(plan, after=after)
    background = _in_background(plan.folder) if plan.is_local else nullcontext()
    try:
        # submitit prints sbatch's errors, which are part of the UserError below.
        with _without_job_variables(), background, redirect_stderr(io.StringIO()):
            submitted = executor.submit(run_job, build_rank_job(plan))
    except (FailedJobError, FailedSubmissionError) as error:
        message = _clean_up_failed_submission(error, name=plan.name, folder=plan.folder)
        raise UserError(message) from None
    except BaseException:
        # Ctrl-C or a full disk, possibly after sbatch was called.
        if not plan.is_local:
            _cancel_queued_jobs(plan.folder)
        raise
    return new_record(
        job_id=submitted.job_id,
        name=plan.name,
        folder=plan.folder,
        output_dir=plan.cfg.OUTPUT_DIR,
        is_local=plan.is_local,
    )


@contextmanager
def _without_job_variables() -> Iterator[None]:
    """Hide the variables of a surrounding job or rank, and sbatch's, which would override flags."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if (name.startswith(_JOB_PREFIXES) or name in _RANK_VARIABLES)
        and name not in _KEPT_VARIABLES
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextmanager
def _in_background(folder: Path) -> Iterator[None]:
    """Start processes that import a job's copy of the code and outlive this program.

    They ignore Ctrl-C, and write to controller.log instead of this program's terminal or pipe.
    """
    code = folder / "code"
    working_dir, python_path = Path.cwd(), os.environ.get("PYTHONPATH")
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout.flush()
    streams = {number: os.dup(number) for number in (1, 2)}
    os.chdir(code)
    os.environ["PYTHONPATH"] = f"{code}{os.pathsep}{python_path}" if python_path else str(code)
    try:
        with (folder / "controller.log").open("ab") as log:
            for number in streams:
                os.dup2(log.fileno(), number)
        yield
    finally:
        for number, stream in streams.items():
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(working_dir)
        signal.signal(signal.SIGINT, handler)
        if python_path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = python_path


def _cancel(record: JobRecord) -> None:
    if record.is_local:
        os.kill(int(record.job_id), signal.SIGTERM)
        return
    try:
        cancel_job(record.job_id)
    except UserError as error:
        # Only a warning, because another error is being raised.
        _log.warning(
            "%s could not be canceled (%s): stop it with `%s`",
            record.title,
            error,
            record.stop_command,
        )


def _clean_up_failed_submission(error: Exception, *, name: str, folder: Path) -> str:
    """Cancel a job that is queued although sbatch failed, and describe the failure.

    Args:
        error: submitit's exception.
        name: name of the job.
        folder: folder of the job.
    """
    reason = _sbatch_errors(error)
    is_uncertain = _LOST_RESPONSE.search(reason)
    canceled, remaining = _cancel_queued_jobs(folder, retry=bool(is_uncertain))
    if canceled or remaining:
        queued = ", ".join(canceled + remaining)
        fix = "it is canceled, so"
        if remaining:
            fix = f"stop it with `scancel {' '.join(remaining)}` and"
        return (
            f"sbatch failed ({reason}), but SLURM had queued the job {name} as {queued}: {fix} "
            "launch it again"
        )
    if is_uncertain:
        return (
            f"sbatch cannot tell whether SLURM has queued the job {name} ({reason}), and it is not "
            f"in the queue yet: check `squeue --me --name {shlex.quote(name)}` in a few minutes, "
            "stop it with scancel if it is there (it would fail without its folder), and launch it "
            "again"
        )
    return f"SLURM rejected the job {name}: {reason}"


def _sbatch_errors(error: Exception) -> str:
    """Return sbatch's error messages in one line."""
    lines = [line for line in str(error).splitlines() if line.startswith(_SBATCH_ERROR)]
    messages = "; ".join(line.removeprefix(_SBATCH_ERROR) for line in lines)
    return messages or " ".join(str(error).split())


def _cancel_queued_jobs(folder: Path, *, retry: bool = False) -> tuple[list[str], list[str]]:
    """Cancel the queued jobs whose batch script is in ``folder``.

    Args:
        folder: folder of the job.
        retry: check the queue several times, because a job may appear late.

    Returns:
        The ids of canceled jobs, and of those that could not be canceled.
    """
    for delay in _QUEUE_CHECK_DELAYS if retry else _QUEUE_CHECK_DELAYS[:1]:
        time.sleep(delay)
        try:
            queued = find_queued_jobs(folder)
        except UserError:
            continue
        if queued:
            canceled, remaining = [], []
            for job_id in queued:
                try:
                    cancel_job(job_id)
                    canceled.append(job_id)
                except UserError:
                    remaining.append(job_id)
            return canceled, remaining
    return [], []
