"""Submission: a job's folder, and handing the job to SLURM or to this machine."""

import io
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, redirect_stderr
from pathlib import Path

from submitit.core.utils import FailedJobError, FailedSubmissionError

from stvit_video.cluster.executor import build_executor, build_rank_job
from stvit_video.cluster.failed_submission import cancel_queued, describe_failure
from stvit_video.cluster.job_record import JobRecord, new_record
from stvit_video.cluster.plan import Plan
from stvit_video.cluster.slurm import cancel
from stvit_video.cluster.snapshot import copy_code, write_versions
from stvit_video.cluster.surroundings import in_background, outside_of_jobs
from stvit_video.config import dump_config
from stvit_video.errors import UserError
from stvit_video.runtime.logging import get_logger

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
        with outside_of_jobs(), start, redirect_stderr(io.StringIO()):
            submitted = executor.submit(build_rank_job(plan))
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
