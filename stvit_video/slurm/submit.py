"""Submit jobs: make the folder, copy the code, and hand over to SLURM or to this machine."""

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
from stvit_video.slurm.scontrol import cancel, jobs_from
from stvit_video.slurm.status import JobRecord, new_record

# Kept although they are SLURM's: where its config is, and a token for it.
_KEPT = ("SLURM_CONF", "SLURM_JWT")
_OF_JOBS = ("SLURM_", "SRUN_", "SBATCH_", "SUBMITIT_", "TORCHELASTIC_")
# torchrun's, and of those who do its work by hand: ranks would take them for their own place.
_OF_RANKS = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
)


@contextmanager
def without_job_variables() -> Iterator[None]:
    """Hide what a job or a rank around this program says of itself, and what would beat flags."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if (name.startswith(_OF_JOBS) or name in _OF_RANKS) and name not in _KEPT
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextmanager
def in_background(folder: Path) -> Iterator[None]:
    """Start processes that import a job's copy of the code, and live on after this program.

    They ignore Ctrl-C, and hold neither its terminal nor a pipe behind it.
    """
    code = folder / "code"
    before, path = Path.cwd(), os.environ.get("PYTHONPATH")
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout.flush()
    streams = {number: os.dup(number) for number in (1, 2)}
    os.chdir(code)
    os.environ["PYTHONPATH"] = f"{code}{os.pathsep}{path}" if path else str(code)
    try:
        with (folder / "controller.log").open("ab") as log:
            for number in streams:
                os.dup2(log.fileno(), number)
        yield
    finally:
        for number, stream in streams.items():
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(before)
        signal.signal(signal.SIGINT, handler)
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path


# Of the folder that holds the package, whichever of these there are: installed without a
# checkout, the package stands alone among others'.
_PARTS = ("stvit_video", "configs", "tools", "slurm", "setup.py", "constraints.txt")


def copy_code(folder: Path) -> None:
    """Copy the package, the configs and the programs to a new folder.

    A job imports from there, so it runs what it was submitted with, in every requeue too,
    whatever becomes of the working tree meanwhile.
    """
    root = _root()
    folder.mkdir()
    for part in _PARTS if _is_checkout(root) else _PARTS[:1]:
        source = root / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copy2(source, folder / part)


def write_versions(folder: Path) -> None:
    """Write which code and which packages a job runs with.

    code_version.txt has git's commit and status, code.diff what differs from that commit (files
    that git does not know are in the copy alone), and environment.txt all installed packages.
    """
    root = _root()
    commit = _git(root, "rev-parse", "HEAD") if _is_checkout(root) else b""
    if commit:
        version = b"commit " + commit + (_git(root, "status", "--short") or b"clean") + b"\n"
        (folder / "code.diff").write_bytes(_git(root, "diff", "HEAD"))
    else:
        version = os.fsencode(f"no git; installed in {root}\n")
    (folder / "code_version.txt").write_bytes(version)
    (folder / "environment.txt").write_text(_environment(), encoding="utf-8")


def _root() -> Path:
    return Path(stvit_video.__file__).resolve().parents[1]


def _is_checkout(root: Path) -> bool:
    return (root / "setup.py").is_file() and (root / "configs").is_dir()


def _git(root: Path, *arguments: str) -> bytes:
    """Return what git says: files that differ may be in any encoding."""
    try:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""


def _environment() -> str:
    packages = {
        f"{one.metadata['Name']}=={one.version}" for one in distributions() if one.metadata["Name"]
    }
    head = f"# Python {platform.python_version()} at {sys.executable}, {platform.platform()}"
    return "\n".join([head, *sorted(packages, key=str.lower)]) + "\n"


# What sbatch says when its question may have reached SLURM, and only the answer is missing.
_IN_DOUBT = re.compile("timed out|zero bytes|unexpected message|reset by peer", re.IGNORECASE)
# A busy controller may queue a job after sbatch has given it up.
_PAUSES = (0.0, 2.0, 5.0)
_MARK = "sbatch: error: "


def describe_failure(error: Exception, *, name: str, folder: Path) -> str:
    """Say what became of a job that sbatch did not submit as usual; if it is queued, cancel it.

    Args:
        error: what submitit raised.
        name: of the job.
        folder: of the job.
    """
    words = _words(error)
    in_doubt = _IN_DOUBT.search(words)
    cancelled, left = cancel_queued(folder, patiently=bool(in_doubt))
    if cancelled or left:
        queued = ", ".join(cancelled + left)
        end = f"end it with `scancel {' '.join(left)}` and" if left else "it is cancelled, so"
        return (
            f"sbatch failed ({words}), but SLURM had queued the job {name} as {queued}: {end} "
            "launch it again"
        )
    if in_doubt:
        return (
            f"sbatch does not know whether SLURM has queued the job {name} ({words}), and it is "
            f"not in the queue yet: see `squeue --me --name {shlex.quote(name)}` in a few minutes, "
            "end it with scancel, as it could only fail without its folder, and launch it again"
        )
    return f"SLURM refuses the job {name}: {words}"


def cancel_queued(folder: Path, *, patiently: bool = False) -> tuple[list[str], list[str]]:
    """Cancel what is in the queue of the job in ``folder``.

    Returns:
        numbers of those that are cancelled, and of those that could not be.
    """
    for pause in _PAUSES if patiently else _PAUSES[:1]:
        time.sleep(pause)
        try:
            queued = jobs_from(folder)
        except UserError:
            continue
        if queued:
            left = [job_id for job_id in queued if not _is_cancelled(job_id)]
            return [job_id for job_id in queued if job_id not in left], left
    return [], []


def _is_cancelled(job_id: str) -> bool:
    try:
        cancel(job_id)
    except UserError:
        return False
    return True


def _words(error: Exception) -> str:
    """Return what sbatch says, in one line."""
    lines = [line for line in str(error).splitlines() if line.startswith(_MARK)]
    said = "; ".join(line.removeprefix(_MARK) for line in lines)
    return said or " ".join(str(error).split())


_log = get_logger(__name__)


def submit_plans(
    plans: Sequence[Plan], *, after: Sequence[str] = (), is_chain: bool
) -> list[JobRecord]:
    """Submit several jobs, all or none.

    Args:
        plans: the jobs.
        after: jobs that must end well before these start.
        is_chain: each job waits for the one before it, too.

    Raises:
        UserError: SLURM refuses one of them, or its folder cannot be written.
    """
    records: list[JobRecord] = []
    # On whatever ends this early, Ctrl-C too.
    with ExitStack() as undo:
        for plan in plans:
            records.append(_submit(plan, after=after))
            undo.callback(_take_back, records[-1])
            if is_chain:
                after = [records[-1].job_id]
        undo.pop_all()
    return records


def _submit(plan: Plan, *, after: Sequence[str]) -> JobRecord:
    """Submit a job, or leave nothing behind."""
    try:
        _make_folder(plan)
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, plan.folder, ignore_errors=True)
            _fill_folder(plan)
            record = _hand_over(plan, after=after)
            undo.callback(_take_back, record)
            record.write()
            undo.pop_all()
    except OSError as error:
        raise UserError(
            f"the folder of the job {plan.name}, {plan.folder}, cannot be written "
            f"({_reason(error)}): make room there, or name another --job-dir"
        ) from error
    return record


def _hand_over(plan: Plan, *, after: Sequence[str]) -> JobRecord:
    executor = build_executor(plan, after=after)
    start = in_background(plan.folder) if plan.is_local else nullcontext()
    try:
        # submitit prints what sbatch says against the job, which is said below.
        with without_job_variables(), start, redirect_stderr(io.StringIO()):
            submitted = executor.submit(run_job, build_rank_job(plan))
    except (FailedJobError, FailedSubmissionError) as error:
        sentence = describe_failure(error, name=plan.name, folder=plan.folder)
        raise UserError(sentence) from None
    except BaseException:
        # Ctrl-C, or a disk that is full: sbatch may have been called before.
        if not plan.is_local:
            cancel_queued(plan.folder)
        raise
    return new_record(
        job_id=submitted.job_id,
        name=plan.name,
        folder=plan.folder,
        output_dir=plan.cfg.OUTPUT_DIR,
        is_local=plan.is_local,
    )


def _take_back(record: JobRecord) -> None:
    if record.is_local:
        os.kill(int(record.job_id), signal.SIGTERM)
        return
    try:
        cancel(record.job_id)
    except UserError as error:
        # Beside the error for which it is taken back.
        _log.warning(
            "%s could not be cancelled (%s): end it with `%s`",
            *(record.title, error, record.how_to_stop),
        )


def _make_folder(plan: Plan) -> None:
    plan.folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Of its user alone: what the ranks unpickle lies there.
        plan.folder.mkdir(mode=0o700)
    except FileExistsError:
        raise UserError(
            f"a job's folder must be new, but {plan.folder} was made by another launch in the same "
            "second: start this one again"
        ) from None


def _fill_folder(plan: Plan) -> None:
    copy_code(plan.folder / "code")
    write_versions(plan.folder)
    dump_config(plan.cfg, plan.folder / "config.yaml")
    command = shlex.join([sys.executable, *sys.argv])
    (plan.folder / "command.txt").write_text(f"cd {Path.cwd()}\n{command}\n", encoding="utf-8")


def _reason(error: OSError) -> str:
    if isinstance(error, shutil.Error):
        # Of all the files that could not be copied, (from, to, why) each.
        return error.args[0][0][2]
    return error.strerror or str(error)
