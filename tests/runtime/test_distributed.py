"""Ranks: two real gloo processes, failures in one of them, and one rank without any group."""

import json
import os
import signal
import socket
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed
from fvcore.common.config import CfgNode

from stvit_video.config import load_config
from stvit_video.errors import UserError
from stvit_video.runtime import distributed
from stvit_video.runtime.distributed import avoid_planned_attention, join_ranks
from stvit_video.runtime.launch import Launch, cpu_threads, resolve_backend, resolve_device
from stvit_video.runtime.process import RankError, spawn_ranks
from stvit_video.runtime.rendezvous import Rendezvous

STARTED_BY_OTHERS = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"),
    "SLURM_STEP_NUM_TASKS",
)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in STARTED_BY_OTHERS:
        monkeypatch.delenv(name, raising=False)


def write_what_this_rank_sees(cfg: CfgNode) -> None:
    rank = distributed.get_rank()
    distributed.barrier()
    seen = {
        "rank": rank,
        "local_rank": distributed.get_local_rank(),
        "world_size": distributed.get_world_size(),
        "is_main": distributed.is_main(),
        "device": str(distributed.device()),
        "sums": distributed.all_reduce_sum([1, 10.0**9 * rank, 1e-7]),
        "gathered": distributed.gather_objects({"rank": rank, "text": "a" * rank}),
        "broadcast": distributed.broadcast_object(["from", rank]),
        "threads": torch.get_num_threads(),
        "interface": os.environ.get("GLOO_SOCKET_IFNAME", ""),
        "has_group": torch.distributed.is_initialized(),
        "is_frozen": cfg.is_frozen(),
        "process": os.getpid(),
    }
    (Path(cfg.OUTPUT_DIR) / f"{rank}.json").write_text(json.dumps(seen), encoding="utf-8")


def config(tmp_path: Path) -> CfgNode:
    path = tmp_path / "a.yaml"
    path.write_text(f"OUTPUT_DIR: {tmp_path}\n", encoding="utf-8")
    return load_config(path)


def seen_by(rank: int, tmp_path: Path) -> dict:
    return json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8"))


def test_two_ranks(tmp_path: Path) -> None:
    distributed.run_ranks(write_what_this_rank_sees, config(tmp_path), num_local_ranks=2)
    ranks = [seen_by(0, tmp_path), seen_by(1, tmp_path)]
    assert [seen["rank"] for seen in ranks] == [0, 1]
    assert [seen["local_rank"] for seen in ranks] == [0, 1]
    assert [seen["is_main"] for seen in ranks] == [True, False]
    assert len({seen["process"] for seen in ranks} | {os.getpid()}) == 3
    for seen in ranks:
        assert seen["world_size"] == 2
        assert seen["device"] == "cpu"
        assert seen["sums"] == [2.0, 10.0**9, 2e-7]  # float32 has no 2e-7
        assert seen["gathered"] == [{"rank": 0, "text": ""}, {"rank": 1, "text": "a"}]
        assert seen["broadcast"] == ["from", 0]
        assert seen["threads"] == cpu_threads(local_world_size=2)
        assert seen["interface"].startswith("lo")
        assert seen["is_frozen"]


def test_one_rank_runs_in_this_process_without_a_group(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    distributed.run_ranks(write_what_this_rank_sees, config(tmp_path), num_local_ranks=1)
    seen = seen_by(0, tmp_path)
    assert seen["process"] == os.getpid()
    assert not seen["has_group"]
    assert (seen["rank"], seen["world_size"], seen["is_main"]) == (0, 1, True)
    assert seen["sums"] == [1.0, 0.0, 1e-7]
    assert seen["gathered"] == [{"rank": 0, "text": ""}]
    assert seen["broadcast"] == ["from", 0]
    assert torch.get_num_threads() == threads


def make_a_mistake_in_rank_1(text: str) -> None:
    if distributed.get_rank() == 1:
        raise UserError(text)
    distributed.barrier()


def test_a_mistake_of_the_users_arrives_as_it_was_raised() -> None:
    with pytest.raises(UserError) as caught:
        distributed.run_ranks(make_a_mistake_in_rank_1, "a.csv:3: no label", num_local_ranks=2)
    assert str(caught.value) == "a.csv:3: no label"


def fail_in_1_while_0_will_not_end(index: int, *, folder: Path) -> None:
    if index == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (folder / "pid").write_text(str(os.getpid()), encoding="utf-8")
        time.sleep(600)
    while not (folder / "pid").exists():
        time.sleep(0.01)
    raise KeyError("the missing one")


def test_an_exception_keeps_its_traceback_and_leaves_no_process_behind(tmp_path: Path) -> None:
    target = partial(fail_in_1_while_0_will_not_end, folder=tmp_path)
    with pytest.raises(RankError) as caught:
        spawn_ranks(target, num_processes=2, grace_seconds=0.2)
    assert str(caught.value).startswith("local rank 1 raised")
    assert "in fail_in_1_while_0_will_not_end" in str(caught.value)
    assert "KeyError: 'the missing one'" in str(caught.value)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text(encoding="utf-8")), 0)


def be_killed(index: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_rank_is_named() -> None:
    with pytest.raises(RankError, match=r"^local rank 0 was ended by SIGKILL"):
        spawn_ranks(be_killed, num_processes=1)


def place(**changes: object) -> Launch:
    values = {
        "rank": 0,
        "local_rank": 0,
        "world_size": 4,
        "local_world_size": 2,
        "init_method": "",
        "backend": "gloo",
        "device_type": "cpu",
    }
    return Launch(**(values | changes))  # type: ignore[arg-type]


def test_the_ranks_that_do_not_meet_say_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        where = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        launch = place(rank=1, init_method=where)
        with (
            pytest.raises(UserError, match=f"all 4 ranks must meet at {where}, but rank 1 could"),
            join_ranks(launch, timeout=timedelta(seconds=1)),
        ):
            pass
    assert (distributed.get_rank(), distributed.get_world_size()) == (0, 1)


def test_several_machines_need_a_place_to_meet() -> None:
    with pytest.raises(UserError, match="--init_method tcp://HOST:PORT"):
        distributed.run_ranks(print, "", num_local_ranks=1, num_shards=2)


def test_the_ranks_of_a_machine_follow_those_of_the_one_before() -> None:
    second = place(rank=2)
    assert [second.of_local_rank(local).rank for local in (0, 1)] == [2, 3]
    assert second.of_local_rank(1).local_rank == 1
    assert not second.is_on_one_machine
    assert place(world_size=2).is_on_one_machine


def test_torchrun_and_srun_place_this_process() -> None:
    assert place().placed_by({}) is None
    assert place().placed_by({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None
    torchrun = {"RANK": "3", "WORLD_SIZE": "4"}
    expected = place(rank=3, local_rank=1, init_method="env://")
    assert place().placed_by(torchrun) == expected
    assert place().placed_by({**torchrun, "LOCAL_RANK": "1"}) == expected
    srun = {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_JOB_ID": "12007",
        "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
    }
    assert place().placed_by(srun) == place(
        rank=3, local_rank=1, rendezvous=Rendezvous.of_slurm(srun)
    )
    with_cores = place().placed_by({**srun, "SLURM_CPUS_PER_TASK": "5"})
    assert with_cores and with_cores.cpus == 5
    # The ranks that torchrun starts share the cores of its task.
    shared = place().placed_by({**torchrun, "SLURM_CPUS_PER_TASK": "5"})
    assert shared and shared.cpus == 0
    met = place(init_method="tcp://10.0.0.9:9999").placed_by(srun)
    assert met == place(rank=3, local_rank=1, init_method="tcp://10.0.0.9:9999")
    one_a_machine = {**srun, "SLURM_STEP_NUM_TASKS": "2"}
    assert place(init_method="tcp://10.0.0.9:9999").placed_by(one_a_machine) is None
    with pytest.raises(UserError, match="srun must start"):
        place().placed_by(one_a_machine)


@pytest.mark.parametrize(
    "env",
    [
        {"RANK": "0", "WORLD_SIZE": "8"},
        {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    ],
)
def test_a_launcher_must_start_as_many_as_the_config_says(env: dict[str, str]) -> None:
    with pytest.raises(UserError, match="it started 8 where the config asks for 4: set NUM_GPUS"):
        place(init_method="tcp://a:1").placed_by(env)


def test_under_torchrun_this_process_is_a_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    distributed.run_ranks(write_what_this_rank_sees, config(tmp_path), num_local_ranks=1)
    assert seen_by(0, tmp_path)["process"] == os.getpid()
    with pytest.raises(UserError, match="torchrun must start NUM_GPUS x NUM_SHARDS"):
        distributed.run_ranks(write_what_this_rank_sees, config(tmp_path), num_local_ranks=2)


@pytest.mark.parametrize(
    ("device", "num_gpus", "available", "expected"),
    [
        ("cpu", 2, 0, "cpu"),
        ("cpu", 2, 8, "cpu"),
        ("auto", 2, 0, "cpu"),
        ("auto", 2, 2, "cuda"),
        ("cuda", 2, 8, "cuda"),
    ],
)
def test_the_device(
    monkeypatch: pytest.MonkeyPatch, device: str, num_gpus: int, available: int, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    assert resolve_device(device, num_gpus) == expected


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"DEVICE cuda needs a GPU .* add DEVICE cpu"):
        resolve_device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("cuda", "auto"):
        with pytest.raises(UserError, match=r"at most 2, .* it is 3: set NUM_GPUS 2, or add DEVI"):
            resolve_device(device, 3)


@pytest.mark.parametrize(
    ("env", "available", "is_enough"),
    [
        ({"SLURM_STEP_NUM_TASKS": "4"}, 1, True),
        ({"RANK": "3", "WORLD_SIZE": "4"}, 1, True),
        ({"SLURM_STEP_NUM_TASKS": "4"}, 2, False),
        ({"RANK": "3", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "none"}, 1, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, 1, False),
    ],
)
def test_a_rank_may_be_shown_its_own_gpu_alone(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], available: int, is_enough: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    if is_enough:
        assert resolve_device("cuda", 4) == "cuda"
        return
    with pytest.raises(UserError, match=f"NUM_GPUS must be at most {available}"):
        resolve_device("cuda", 4)


@pytest.mark.parametrize(("available", "gpu"), [(1, 0), (4, 3)])
def test_a_rank_takes_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch, available: int, gpu: int
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    launch = place(local_rank=3, world_size=1, local_world_size=1, device_type="cuda")
    with join_ranks(launch, timeout=timedelta(seconds=1)):
        assert distributed.device() == torch.device("cuda", gpu)
    assert taken == [gpu]


def test_ranks_that_are_started_here_need_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the only task of a machine, with one GPU for the task."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    options = {"num_local_ranks": 2, "num_shards": 2, "init_method": "tcp://127.0.0.1:1"}
    with pytest.raises(UserError, match="NUM_GPUS must be at most 1"):
        distributed.run_ranks(print, "", device="cuda", **options)  # type: ignore[arg-type]


def test_the_backend() -> None:
    assert resolve_backend("auto", device="cuda") == "nccl"
    assert resolve_backend("auto", device="cpu") == "gloo"
    assert resolve_backend("gloo", device="cuda") == "gloo"


def test_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert cpu_threads(local_world_size=3) == 2
    assert cpu_threads(local_world_size=16) == 1
    # SLURM has bound each rank to its own cores, or has not bound them.
    assert cpu_threads(local_world_size=3, cpus=8) == 8
    assert cpu_threads(local_world_size=3, cpus=4) == 4
    assert cpu_threads(local_world_size=3, cpus=9) == 8


def test_a_rank_of_srun_uses_all_cores_of_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(3)), raising=False)
    before = torch.get_num_threads()
    rank = place(world_size=1, local_world_size=2, cpus=3)
    try:
        with join_ranks(rank, timeout=timedelta(seconds=1)):
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_cudnn_is_left_out_and_nothing_else():
    backends = torch.backends.cuda
    try:
        backends.enable_cudnn_sdp(True)
        avoid_planned_attention()
        assert not backends.cudnn_sdp_enabled()
        assert backends.flash_sdp_enabled()
        assert backends.mem_efficient_sdp_enabled()
        assert backends.math_sdp_enabled()
    finally:
        backends.enable_cudnn_sdp(True)
