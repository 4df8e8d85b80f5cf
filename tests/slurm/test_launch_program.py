"""The command line, over programs that answer as SLURM's do but run nothing."""

import errno
import json
import os
import pkgutil
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import launch as launch_program
import pytest
import torch
from submitit.core.utils import JobPaths

from stvit_video.config import load_config
from stvit_video.engine.resume import checkpoint_to_resume
from stvit_video.engine.train import train
from stvit_video.slurm import submit
from stvit_video.slurm.build import LaunchOptions, build_plans

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "slurm" / "launch.py"


@pytest.fixture
def launch(config_file, fake_slurm, tmp_path, monkeypatch, capsys):
    """Return a function from arguments, behind --cfg, to the exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def start(*arguments, cfg=("--cfg", str(config_file))):
        status = launch_program.main([*cfg, *arguments])
        return (status, *capsys.readouterr())

    return start


def folders(tmp_path):
    return sorted((tmp_path / "output" / "jobs").glob("*"))


def refused(result, sentence):
    """Whether a launch ended with one line that says ``sentence``, and status 2."""
    status, _, errors = result
    assert status == 2
    assert errors.count("\n") == 1, errors
    assert re.search(sentence, errors), errors
    return True


def test_help_shows_examples_and_needs_no_torch():
    watched = f"""
import runpy, sys
sys.argv = ["launch.py", "--help"]
try:
    runpy.run_path({str(PROGRAM)!r}, run_name="__main__")
finally:
    assert "torch" not in sys.modules
"""
    ended = subprocess.run(
        [sys.executable, "-c", watched],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "python slurm/launch.py --nodes 4" in ended.stdout
    assert "--chain \\\n      configs/imagenet" in ended.stdout


@pytest.mark.parametrize(
    ("line", "files", "overrides"),
    [
        ("--nodes 4", ["configs/k400/stvit_swin_t.yaml"], []),
        ("--nodes 4 A.B 1 --time 5 C -2", ["configs/k400/stvit_swin_t.yaml"], "A.B 1 C -2"),
        ("--cfg a.yaml --opts A.B 1 --nodes 4 C 2", ["a.yaml"], "A.B 1 C 2"),
        ("--chain a.yaml b.yml A.B 1", ["a.yaml", "b.yml"], "A.B 1"),
        ("A.B 1 --chain a.yaml b.yml --nodes 4", ["a.yaml", "b.yml"], "A.B 1"),
        ("--chain a.yaml b.yml --nodes 4 A.B 1", ["a.yaml", "b.yml"], "A.B 1"),
        ("--chain A.B 1 a.yaml b.yml C=2", ["a.yaml", "b.yml"], "A.B 1 C=2"),
    ],
)
def test_configs_and_overrides(line, files, overrides):
    parsed = launch_program.parse_arguments(line.split())
    assert parsed.cfg_files == files
    assert parsed.overrides == (overrides.split() if overrides else [])
    assert not any(parsed.own_overrides)
    assert len(parsed.own_overrides) == len(files)


@pytest.mark.parametrize(
    ("line", "own", "overrides"),
    [
        ("--chain a.yaml A.B 1 b.yml A.B 2 C=3", [["A.B", "1"], ["A.B", "2", "C=3"]], ""),
        ("--chain a.yaml A.B -1 b.yml --nodes 4 D 5", [["A.B", "-1"], []], "D 5"),
        ("D 5 --chain a.yaml A=1 b.yml --opts E 6", [["A=1"], []], "E 6 D 5"),
    ],
)
def test_each_config_of_a_chain_may_have_its_own_overrides(line, own, overrides):
    parsed = launch_program.parse_arguments(line.split())
    assert parsed.cfg_files == ["a.yaml", "b.yml"]
    assert parsed.own_overrides == own
    assert parsed.overrides == overrides.split()


def test_a_dry_run_shows_everything_and_leaves_nothing(launch, fake_slurm, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    flags = "--nodes 4 --partition debug --time 1:00:00 --mem 4G --account a --qos q"
    more = "--constraint c --exclude n2 --mail me@x --after 3 --name named --cpus-per-task 2"
    fake_slurm.set_job("3", "RUNNING")
    status, shown, _ = launch("--dry-run", *flags.split(), *more.split(), "TRAIN.BATCH_SIZE", "2")
    assert status == 0
    assert "4 (nodes) x 1 (ranks on the CPU of each) = 4" in shown
    for line in (
        *("nodes=4", "ntasks-per-node=1", "cpus-per-task=2", "partition=debug", "time=60"),
        *("mem=4G", "account=a", "qos=q", "constraint=c", "exclude=n2", "mail-user=me@x"),
        *("dependency=afterok:3", "job-name=named", "requeue", "signal=USR2@180"),
        "kill-on-invalid-dep=yes",
    ):
        assert f"\n#SBATCH --{line}\n" in shown, line
    assert "gpus" not in shown.partition("#!")[2]
    assert fake_slurm.scripts == []
    assert [p for p in sorted(tmp_path.rglob("*")) if p not in before] == [
        fake_slurm.folder / "jobs" / "3"
    ]


def test_a_short_job_is_warned_later(launch):
    """A warning of three minutes would come at once to a job of one, which would train nothing."""
    _, shown, _ = launch("--dry-run", "--time", "1")
    assert "#SBATCH --signal=USR2@15\n" in shown


def test_gpus_are_asked_for_with_a_task_each(launch):
    _, shown, _ = launch("--dry-run", "--gpus-per-node", "2", "DEVICE", "cuda")
    assert "#SBATCH --gpus-per-node=2\n" in shown
    assert "#SBATCH --ntasks-per-node=2\n" in shown


def test_gpus_of_a_type_are_asked_for_once(launch):
    typed = ("--gpus-per-node", "2", "--sbatch", "gres=gpu:a100:2")
    _, shown, _ = launch("--dry-run", *typed, "DEVICE", "cuda")
    assert "#SBATCH --gres=gpu:a100:2\n" in shown
    assert "gpus-per-node" not in shown


def test_more_options_of_sbatch_and_srun(launch, fake_slurm):
    options = ("--sbatch", "reservation=a course", "--sbatch", "exclusive", "--srun-arg", "mpi=x")
    assert launch(*options)[0] == 0
    (script,) = fake_slurm.scripts
    assert "#SBATCH --reservation='a course'\n" in script
    assert "#SBATCH --exclusive\n" in script
    (srun,) = [line for line in script.splitlines() if line.startswith("srun ")]
    assert " --mpi=x " in srun.partition(" -m submitit")[0]


def test_nobody_is_charged_unless_it_is_asked_for(launch):
    """Clusters that check wckeys refuse those that they do not know, submitit's among them."""
    assert "#SBATCH --wckey" not in launch("--dry-run")[1]
    assert "#SBATCH --wckey=mine\n" in launch("--dry-run", "--sbatch", "wckey=mine")[1]


def test_a_job_has_all_that_it_needs_in_its_folder(launch, fake_slurm, tmp_path):
    status, shown, _ = launch("--nodes", "2", "RNG_SEED", "7")
    assert status == 0
    (folder,) = folders(tmp_path)
    assert f"submitted job 1 (small); log of rank 0: {folder}/1_0_log.out" in shown
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    cfg = load_config(folder / "config.yaml")
    assert (cfg.RNG_SEED, cfg.NUM_SHARDS) == (7, 2)
    assert str(tmp_path / "run") == cfg.OUTPUT_DIR
    for name in ("code_version.txt", "environment.txt", "command.txt", "1_submitted.pkl"):
        assert (folder / name).stat().st_size, name
    assert (folder / "code" / "stvit_video" / "cluster" / "rank.py").is_file()
    assert (folder / "1_submission.sh").read_text() == fake_slurm.scripts[0]
    record = json.loads((folder / "job.json").read_text())
    assert (record["job_id"], record["output_dir"]) == ("1", str(tmp_path / "run"))


def test_a_job_imports_its_copy_wherever_it_was_submitted(launch, fake_slurm, tmp_path):
    """Of the lines before srun: with them Python finds the copy, from the checkout's folder too."""
    launch()
    (folder,) = folders(tmp_path)
    script = fake_slurm.scripts[0]
    setup = script.partition("# setup\n")[2].partition("# command")[0]
    where = f"{sys.executable} -c 'import stvit_video; print(stvit_video.__file__)'"
    found = subprocess.run(
        ["bash", "-c", f"{setup}\n{where}\ncd {ROOT}\n{where}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert found[0] == str(folder / "code" / "stvit_video" / "__init__.py")


def test_surroundings_do_not_change_the_job(launch, fake_slurm, monkeypatch):
    """Inside another job, and with sbatch's own variables, which would beat the script's lines."""
    monkeypatch.setenv("SLURM_NTASKS", "9")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    monkeypatch.setenv("SBATCH_PARTITION", "debug")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    of_torchrun = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    for name in (*of_torchrun, "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "1")
    launch()
    seen = (fake_slurm.folder / "env").read_text()
    assert "SLURM_NTASKS" not in seen
    assert "SBATCH_TIMELIMIT" not in seen
    assert "SLURM_CONF=/etc/slurm.conf" in seen
    names = {line.partition("=")[0] for line in seen.splitlines()}
    assert not names & {*of_torchrun, "TORCHELASTIC_RUN_ID"}
    assert os.environ["RANK"] == "1"
    assert os.environ["SLURM_NTASKS"] == "9"
    assert "#SBATCH --partition=debug\n" in fake_slurm.scripts[0]


def test_a_new_run_goes_on_when_it_is_requeued(launch, fake_slurm, tmp_path):
    status, shown, _ = launch("TRAIN.AUTO_RESUME", "False")
    assert status == 0
    assert "TRAIN.AUTO_RESUME is True in the job" in shown
    (folder,) = folders(tmp_path)
    # Checkpoints that appear from now on are the job's own; at a second launch they are not.
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint_epoch_00001.pyth"
    checkpoint.parent.mkdir(parents=True)
    torch.save({}, checkpoint)
    assert checkpoint_to_resume(load_config(folder / "config.yaml")) == checkpoint
    fake_slurm.set_job("1", "COMPLETED", output=str(folder / "1_0_log.out"))
    assert refused(launch("TRAIN.AUTO_RESUME", "False"), "already holds checkpoints")


def test_an_array_is_a_job_for_each_value(launch, fake_slurm, tmp_path):
    status, shown, _ = launch("--array", "SOLVER.BASE_LR=1e-3,5e-4,2e-4")
    assert status == 0
    assert shown.count("submitted job") == 3
    configs = [load_config(folder / "config.yaml") for folder in folders(tmp_path)]
    assert sorted(cfg.SOLVER.BASE_LR for cfg in configs) == [2e-4, 5e-4, 1e-3]
    assert len({cfg.OUTPUT_DIR for cfg in configs}) == 3
    assert "dependency" not in "".join(fake_slurm.scripts)


@pytest.fixture
def second_config(config_file):
    """The small config with a head of another size, in another folder."""
    path = config_file.with_name("second.yaml")
    path.write_text(f"_BASE_: {config_file.name}\nOUTPUT_DIR: second\nMODEL: {{NUM_CLASSES: 4}}\n")
    return path


def test_a_chain_waits_and_starts_from_what_is_not_there_yet(
    launch, fake_slurm, config_file, second_config, tmp_path
):
    status, shown, _ = launch(cfg=("--chain", str(config_file), str(second_config)))
    assert status == 0
    first, second = fake_slurm.scripts
    assert "dependency" not in first
    assert "#SBATCH --dependency=afterok:1\n" in second
    assert "has videos of 3 of the 4 classes" in shown
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint_epoch_00002.pyth"
    assert f"{checkpoint}, weights alone" in shown
    configs = {
        folder.name[16:]: load_config(folder / "config.yaml") for folder in folders(tmp_path)
    }
    assert str(checkpoint) == configs["second"].TRAIN.CHECKPOINT_FILE_PATH
    assert not checkpoint.exists()


def test_the_runs_of_a_chain_differ_by_their_own_overrides(launch, config_file, tmp_path):
    file = str(config_file)
    of_each = (file, "OUTPUT_DIR", "one", "RNG_SEED", "1", file, "OUTPUT_DIR=two", "LOG_PERIOD=2")
    assert launch("--opts", "RNG_SEED", "5", cfg=("--chain", *of_each))[0] == 0
    found = [load_config(folder / "config.yaml") for folder in folders(tmp_path)]
    facts = {Path(cfg.OUTPUT_DIR).name: (cfg.RNG_SEED, cfg.LOG_PERIOD) for cfg in found}
    assert facts == {"one": (1, 1), "two": (5, 2)}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("{} OUTPUT_DIR {}", 'nothing follows "OUTPUT_DIR": write KEY VALUE'),
        ("{} LOG_PERIOD 2 {}", "needs an OUTPUT_DIR of its own.* behind each file"),
        ("{} {} OUTPUT_DIR x", "needs an OUTPUT_DIR of its own.* behind each file"),
        ("{} OUTPUT_DIR x {} SOLVER.LR 1", "SOLVER.LR is no config key"),
        ("a.txt", "--chain takes YAML files, but it has none"),
        ("{} NUM_SHARDS 2 {} --nodes 2", "NUM_SHARDS is what --nodes says"),
    ],
)
def test_mistakes_in_a_chain_are_sentences(launch, fake_slurm, config_file, words, sentence):
    assert refused(
        launch(cfg=("--chain", *words.format(config_file, config_file).split())), sentence
    )
    assert fake_slurm.scripts == []


def test_the_chain_of_the_examples_differs_in_its_data(monkeypatch):
    """That of the documentation, too; only the data are not here."""
    (example,) = re.findall(r"launch\.py (.*--chain (?:.*\\\n)+.*)", launch_program._EXAMPLES)
    words = example.replace("\\", " ").split()
    assert " ".join(words[2:]) in " ".join(
        (ROOT / "docs" / "slurm.md").read_text().replace("\\", " ").split()
    )
    monkeypatch.chdir(ROOT)
    parsed = launch_program.parse_arguments(words)
    names = [field.name for field in fields(LaunchOptions)]
    plans = build_plans(LaunchOptions(**{name: getattr(parsed, name) for name in names}))
    folders_of_data = [plan.cfg.DATA.PATH_TO_DATA_DIR for plan in plans]
    assert folders_of_data == ["/data/imagenet", "/data/k400"]
    first, second = (plan.cfg for plan in plans)
    assert second.TRAIN.CHECKPOINT_FILE_PATH.startswith(first.OUTPUT_DIR)


def test_a_dry_run_of_a_chain_shows_which_job_waits(launch, config_file, second_config):
    _, shown, _ = launch("--dry-run", cfg=("--chain", str(config_file), str(second_config)))
    assert shown.count("#!/bin/bash") == 2
    assert shown.count("--dependency='afterok:<small>'\n") == 1


def test_whether_the_weights_of_a_chain_will_fit_is_known_at_once(
    launch, fake_slurm, config_file, second_config
):
    second_config.write_text(second_config.read_text() + "SWIN: {EMBED_DIM: 24}\n")
    result = launch(cfg=("--chain", str(config_file), str(second_config)))
    assert refused(result, "last checkpoint of the job before.*TRAIN.CHECKPOINT_MIN_SHARE|fills")
    assert fake_slurm.scripts == []


def test_a_chain_is_queued_whole_or_not_at_all(
    launch, fake_slurm, config_file, second_config, tmp_path
):
    fake_slurm.refuse("job-name=second")
    result = launch(cfg=("--chain", str(config_file), str(second_config)))
    assert refused(result, "SLURM refuses the job second: .*Invalid qos specification")
    assert fake_slurm.cancelled == ["1"]
    assert [folder.name[16:] for folder in folders(tmp_path)] == ["small"]


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [FULL, shutil.Error([("a", "b", str(FULL))]), KeyboardInterrupt])
@pytest.mark.parametrize("place", ["submit.copy_code", "job_record.JobRecord.write"])
def test_whatever_ends_a_launch_leaves_no_job_behind(
    launch, fake_slurm, config_file, second_config, tmp_path, monkeypatch, place, error
):
    module, _, name = f"stvit_video.cluster.{place}".rpartition(".")
    real, calls = pkgutil.resolve_name(f"{module}.{name}"), []

    def fail_at_the_second_job(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise error
        real(*arguments)

    monkeypatch.setattr(f"{module}.{name}", fail_at_the_second_job)
    chain = ("--chain", str(config_file), str(second_config))
    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            launch(cfg=chain)
    else:
        sentence = "folder of the job second, .* cannot be written .*No space left"
        assert refused(launch(cfg=chain), sentence)
    queued = [str(number) for number in range(1, len(fake_slurm.scripts) + 1)]
    assert sorted(fake_slurm.cancelled) == queued
    assert [folder.name[16:] for folder in folders(tmp_path)] == ["small"]


def test_a_job_that_sbatch_got_no_answer_for_does_not_stay_queued(launch, fake_slurm, tmp_path):
    fake_slurm.fall_silent("after")
    assert refused(launch(), "Socket timed out.* had queued the job small as 1: it is cancelled")
    assert fake_slurm.cancelled == ["1"]
    assert folders(tmp_path) == []


def test_a_job_that_cannot_be_cancelled_is_told_of(launch, fake_slurm, tmp_path):
    fake_slurm.fall_silent("after")
    fake_slurm.refuse_to_cancel()
    sentence = "had queued the job small as 1: end it with `scancel 1` and launch it again"
    assert refused(launch(), sentence)


def test_a_job_of_a_chain_that_cannot_be_cancelled_is_told_of(
    launch, fake_slurm, config_file, second_config, caplog
):
    fake_slurm.refuse("job-name=second")
    fake_slurm.refuse_to_cancel()
    result = launch(cfg=("--chain", str(config_file), str(second_config)))
    assert refused(result, "SLURM refuses the job second: .*Invalid qos specification")
    assert "end it with `scancel 1`" in caplog.text


def test_ctrl_c_while_sbatch_runs_leaves_no_job_behind(launch, fake_slurm, tmp_path):
    fake_slurm.fall_silent("interrupted")
    with pytest.raises(KeyboardInterrupt):
        launch()
    assert fake_slurm.cancelled == ["1"]
    assert folders(tmp_path) == []


def test_a_job_that_may_be_queued_later_is_told_of(launch, fake_slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(submit, "_PAUSES", (0.0, 0.0))
    fake_slurm.fall_silent("before")
    sentence = "does not know whether .* small .*Socket timed out.*`squeue --me --name small`"
    assert refused(launch(), sentence)
    assert fake_slurm.cancelled == []
    assert folders(tmp_path) == []


def test_a_disk_that_is_full_when_sbatch_is_done_leaves_no_job_behind(
    launch, fake_slurm, tmp_path, monkeypatch
):
    def fail(*_, **__):
        raise FULL

    monkeypatch.setattr(JobPaths, "move_temporary_file", fail)
    assert refused(launch(), "folder of the job small, .* cannot be written .*No space left")
    assert fake_slurm.cancelled == ["1"]
    assert folders(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--partition", "gpu"], "there is no partition gpu; this cluster has debug, long, old"),
        (["--time", "3-0"], "--time must be at most 2-00:00:00, the limit of partition debug"),
        (["--nodes", "9"], "--nodes must be at most 4"),
        (["--nodes", "4", "TRAIN.BATCH_SIZE", "8"], "lists 8 videos, fewer than the 32"),
        (["OUTPUT_DIR", "/proc/none"], "OUTPUT_DIR must be a folder that can be written"),
        (["--job-dir", "small.yaml/jobs"], "--job-dir must be a folder that can be written"),
        (["--after", "99"], "--after must name a job that SLURM knows"),
        (["TRAIN.CHECKPOINT_FILE_PATH", "none.pth"], "Checkpoint .*none.pth does not exist"),
        (["DATA.PATH_TO_DATA_DIR", "none"], "there is no .*none/train.csv"),
        (["MODEL.NUM_CLASSES", "2"], "train.csv, line 3: the label must lie in 0..1"),
        (["SOLVER.LR", "1"], "SOLVER.LR is no config key"),
        (["--array", "SOLVER.BASE_LR=1,2", "--follow"], "--follow shows one job"),
        (["--local", "--array", "SOLVER.BASE_LR=1,2"], "--local runs one job"),
        (["--timeout-s", "0"], "--timeout-s must be from 20 to 604800, but it is 0"),
        (["--timeout-s", "nan"], "--timeout-s must be from 20"),
        (["--local", "--sbatch", "exclusive"], "--local runs without SLURM"),
        (["--sbatch", "nodes=2"], "--sbatch cannot say nodes, .*: use --nodes"),
        (["--local", "--nodes", "2"], "--local is this machine alone"),
        (["--cfg", "small.txt"], "there is no config small.txt"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_queued(
    launch, fake_slurm, tmp_path, arguments, sentence
):
    assert refused(launch(*arguments), sentence)
    assert fake_slurm.scripts == []
    assert folders(tmp_path) == []


def test_a_job_cannot_wait_for_one_that_failed(launch, fake_slurm):
    fake_slurm.set_job("3", "FAILED")
    assert refused(launch("--after", "3"), "that one is FAILED")


def test_two_jobs_do_not_train_in_one_folder(launch, fake_slurm, tmp_path):
    launch()
    (folder,) = folders(tmp_path)
    fake_slurm.set_job("1", "RUNNING", output=str(folder / "1_0_log.out"))
    assert refused(launch(), r"job 1 \(small\) writes to OUTPUT_DIR .*scancel 1.*--after")
    assert launch("--after", "1")[0] == 0
    fake_slurm.set_job("1", "COMPLETED", output=str(folder / "1_0_log.out"))
    fake_slurm.set_job("2", "FAILED", output=str(folders(tmp_path)[1] / "2_0_log.out"))
    assert launch()[0] == 0


def test_two_jobs_do_not_train_in_one_folder_under_two_names(launch, fake_slurm, tmp_path):
    launch()
    (folder,) = folders(tmp_path)
    fake_slurm.set_job("1", "RUNNING", output=str(folder / "1_0_log.out"))
    (tmp_path / "jobs link").symlink_to(folder.parent)
    (tmp_path / "run link").symlink_to(tmp_path / "run")
    for job_dir in ("jobs link", "output/../output/jobs"):
        for output in ("run", "run link"):
            result = launch("--job-dir", job_dir, "OUTPUT_DIR", output)
            assert refused(result, r"job 1 \(small\) writes to OUTPUT_DIR")


@pytest.fixture
def interrupted(config_file, tmp_path):
    """Train the small config in its folder, stopped after a number of its steps, 4 an epoch."""

    def run(steps, *overrides):
        small = ("OUTPUT_DIR", str(tmp_path / "run"), "TRAIN.BATCH_SIZE", "2", *overrides)
        asked = iter(range(1, 99))
        train(load_config(config_file, small), should_stop=lambda: next(asked) >= steps)

    return run


@pytest.mark.parametrize(
    ("timeout_s", "decoding_s", "word"),
    [("241", "120", ""), ("240", "120", "120"), ("60", "0", "never")],
)
def test_a_hanging_video_must_be_given_up_before_the_ranks_are(launch, timeout_s, decoding_s, word):
    options = ("--dry-run", "--nodes", "2", "--timeout-s", timeout_s)
    keys = ("DATA_LOADER.NUM_WORKERS", "1", "DATA.DECODE_TIMEOUT", decoding_s)
    status, shown, _ = launch(*options, *keys, "NUM_GPUS", "2", "TRAIN.BATCH_SIZE", "2")
    assert status == 0
    assert bool(re.search(rf"video whose decoder hangs will end the job.*{word}", shown)) == bool(
        word
    )


def test_a_pytorch_without_gpus_is_none_for_a_job_with_gpus(launch, fake_slurm, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    assert refused(launch("DEVICE", "cuda"), "DEVICE cuda needs a PyTorch that is built for GPUs")
    assert fake_slurm.scripts == []


def test_a_plan_says_where_the_job_goes_on(launch, interrupted, tmp_path):
    weights = ("TRAIN.CHECKPOINT_FILE_PATH", "never_read.pth")
    assert "resumes" not in launch("--dry-run", "TRAIN.BATCH_SIZE", "2")[1]
    interrupted(3)
    status, shown, _ = launch(
        *("--dry-run", "TRAIN.BATCH_SIZE", "2", "SOLVER.BASE_LR", "0.5", *weights)
    )
    assert status == 0
    left = r"2 of 2 epochs left, less the 3 steps of epoch 1 that are done"
    name = "checkpoint_epoch_00000_step_000003.pyth"
    assert re.search(rf"^resumes +{name} \({left}\)$", shown, re.MULTILINE)
    assert not re.search("^weights", shown, re.MULTILINE)
    assert re.search("^note +TRAIN.CHECKPOINT_FILE_PATH is not read", shown, re.MULTILINE)
    assert re.search(
        "^note +the config differs .*SOLVER.BASE_LR: 0.001 -> 0.5", shown, re.MULTILINE
    )
    checkpoint = tmp_path / "run" / "checkpoints" / name
    elsewhere = ("TRAIN.CHECKPOINT_FILE_PATH", str(checkpoint), "OUTPUT_DIR", "other")
    shown = launch("--dry-run", "TRAIN.BATCH_SIZE", "2", *elsewhere)[1]
    assert re.search(rf"^resumes +{checkpoint} \({left}\)$", shown, re.MULTILINE)
    assert "is not read" not in shown


def test_a_plan_says_that_nothing_is_left(launch, interrupted):
    interrupted(99, "SOLVER.MAX_EPOCH", "1")
    shown = launch("--dry-run", "SOLVER.MAX_EPOCH", "1")[1]
    assert "checkpoint_epoch_00001.pyth (nothing left to train: 1 epochs are done)" in shown
    assert "checkpoint_epoch_00001.pyth (1 of 2 epochs left)" in launch("--dry-run")[1]


def test_inside_an_epoch_other_nodes_are_refused_before_anything_is_queued(
    launch, interrupted, fake_slurm, tmp_path
):
    interrupted(3)
    sentence = "epoch of 4 steps, but this run has 2"
    assert refused(launch("--nodes", "2", "TRAIN.BATCH_SIZE", "2"), sentence)
    assert fake_slurm.scripts == []
    assert launch("TRAIN.BATCH_SIZE", "2")[0] == 0
    # Behind a job that will have left the epoch, they are right.
    (folder,) = folders(tmp_path)
    fake_slurm.set_job("1", "RUNNING", output=str(folder / "1_0_log.out"))
    status, shown, _ = launch("--nodes", "2", "TRAIN.BATCH_SIZE", "2", "--after", "1")
    assert status == 0
    assert "a job of --after trains in this OUTPUT_DIR" in shown


def test_a_chain_whose_second_run_has_begun_goes_on_with_it(
    launch, interrupted, config_file, second_config, tmp_path
):
    begun = ("OUTPUT_DIR", str(tmp_path / "second"), "MODEL.NUM_CLASSES", "4")
    interrupted(1, *begun)
    chain = ("--chain", str(config_file), str(second_config))
    shown = launch("--dry-run", "TRAIN.BATCH_SIZE", "2", cfg=chain)[1]
    assert len(re.findall("^resumes ", shown, re.MULTILINE)) == 1
    assert "stand-in" not in shown
    assert "job before" not in shown
    assert "is not read because the run resumes from its own checkpoint" in shown


def test_broken_videos_are_found_before_anything_is_queued(
    launch, fake_slurm, video_folder, tmp_path
):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in video_folder.iterdir():
        text = b"no video" if file.suffix == ".mp4" else file.read_bytes()
        (broken / file.name).write_bytes(text)
    result = launch("DATA.PATH_TO_DATA_DIR", str(broken))
    assert refused(result, "4 of 4 videos tried of .*train.csv cannot be read .*check_data.py")
    for file in video_folder.glob("*.mp4"):
        if file.name != "0.mp4":
            (broken / file.name).write_bytes(file.read_bytes())
    assert refused(
        launch("DATA.PATH_TO_DATA_DIR", str(broken), "DATA.MAX_BAD_VIDEOS", "0"), "1 of 4 videos"
    )
    status, shown, _ = launch("DATA.PATH_TO_DATA_DIR", str(broken))
    assert status == 0
    assert re.search(r"note +1 of 4 videos tried .* cannot be read: .*line 1", shown)


def test_status_of_nothing_is_a_sentence(launch):
    assert refused(launch("--status"), "no job was launched with --job-dir output/jobs")


def test_status_of_what_was_launched(launch, fake_slurm, tmp_path):
    launch()
    (folder,) = folders(tmp_path)
    fake_slurm.set_job("1", "RUNNING", output=str(folder / "1_0_log.out"))
    status, shown, _ = launch("--status")
    assert status == 0
    assert re.search(r"^1 +small +RUNNING", shown, re.MULTILINE)


def test_without_slurm_it_says_so(launch, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refused(launch(), "there is no sbatch in PATH")
