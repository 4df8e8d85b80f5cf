"""Test ranks: two gloo processes, failures in one of them, and one rank without a group."""

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
from stvit_video.runtime.distributed import disable_cudnn_attention, join_ranks
from stvit_video.runtime.launch import Launch, num_cpu_threads, resolve_backend, resolve_device
from stvit_video.runtime.process import RankError, spawn_ranks
from stvit_video.runtime.rendezvous import Rendezvous

LAUNCHER_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "TORCHELASTIC_RUN_ID",
    "SLURM_STEP_NUM_TASKS",
)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def write_rank_state(cfg: CfgNode) -> None:
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


def state_of_rank(rank: int, tmp_path: Path) -> dict:
    return json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8"))


def test_two_ranks(tmp_path: Path) -> None:
    distributed.run_ranks(write_rank_state, config(tmp_path), num_local_ranks=2)
    ranks = [state_of_rank(0, tmp_path), state_of_rank(1, tmp_path)]
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
        assert seen["threads"] == num_cpu_threads(local_world_size=2)
        assert seen["interface"].startswith("lo")
        assert seen["is_frozen"]


def test_one_rank_runs_in_this_process_without_a_group(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    distributed.run_ranks(write_rank_state, config(tmp_path), num_local_ranks=1)
    seen = state_of_rank(0, tmp_path)
    assert seen["process"] == os.getpid()
    assert not seen["has_group"]
    assert (seen["rank"], seen["world_size"], seen["is_main"]) == (0, 1, True)
    assert seen["sums"] == [1.0, 0.0, 1e-7]
    assert seen["gathered"] == [{"rank": 0, "text": ""}]
    assert seen["broadcast"] == ["from", 0]
    assert torch.get_num_threads() == threads


def raise_user_error_in_rank_1(text: str) -> None:
    if distributed.get_rank() == 1:
        raise UserError(text)
    distributed.barrier()


def test_user_error_of_a_rank_is_reraised() -> None:
    with pytest.raises(UserError) as caught:
        distributed.run_ranks(raise_user_error_in_rank_1, "a.csv:3: no label", num_local_ranks=2)
    assert str(caught.value) == "a.csv:3: no label"


def fail_in_rank_1_while_rank_0_hangs(index: int, *, folder: Path) -> None:
    if index == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (folder / "pid").write_text(str(os.getpid()), encoding="utf-8")
        time.sleep(600)
    while not (folder / "pid").exists():
        time.sleep(0.01)
    raise KeyError("missing")


def test_exception_has_traceback_and_ends_all_processes(tmp_path: Path) -> None:
    target = partial(fail_in_rank_1_while_rank_0_hangs, folder=tmp_path)
    with pytest.raises(RankError) as caught:
        spawn_ranks(target, num_processes=2, grace_seconds=0.2)
    assert str(caught.value).startswith("local rank 1 raised")
    assert "in fail_in_rank_1_while_rank_0_hangs" in str(caught.value)
    assert "KeyError: 'missing'" in str(caught.value)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text(encoding="utf-8")), 0)


def kill_self(index: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_error_names_killed_rank() -> None:
    with pytest.raises(RankError, match=r"^local rank 0 was killed by SIGKILL"):
        spawn_ranks(kill_self, num_processes=1)


def make_launch(**changes: object) -> Launch:
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


def test_rank_that_cannot_connect_raises() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        launch = make_launch(rank=1, init_method=url)
        with (
            pytest.raises(UserError, match=f"all 4 ranks must connect to {url}, but rank 1 could"),
            join_ranks(launch, timeout=timedelta(seconds=1)),
        ):
            pass
    assert (distributed.get_rank(), distributed.get_world_size()) == (0, 1)


def test_several_machines_need_init_method() -> None:
    with pytest.raises(UserError, match="--init_method tcp://HOST:PORT"):
        distributed.run_ranks(print, "", num_local_ranks=1, num_shards=2)


def test_ranks_continue_on_the_next_machine() -> None:
    second = make_launch(rank=2)
    assert [second.with_local_rank(local).rank for local in (0, 1)] == [2, 3]
    assert second.with_local_rank(1).local_rank == 1
    assert not second.is_on_one_machine
    assert make_launch(world_size=2).is_on_one_machine


def test_launch_from_torchrun_and_srun() -> None:
    assert make_launch().from_launcher({}) is None
    assert make_launch().from_launcher({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None
    torchrun = {"RANK": "3", "WORLD_SIZE": "4"}
    expected = make_launch(rank=3, local_rank=1, init_method="env://")
    assert make_launch().from_launcher(torchrun) == expected
    assert make_launch().from_launcher({**torchrun, "LOCAL_RANK": "1"}) == expected
    srun = {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_JOB_ID": "12007",
        "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
    }
    assert make_launch().from_launcher(srun) == make_launch(
        rank=3, local_rank=1, rendezvous=Rendezvous.from_slurm(srun)
    )
    with_cores = make_launch().from_launcher({**srun, "SLURM_CPUS_PER_TASK": "5"})
    assert with_cores and with_cores.cpus == 5
    # The ranks that torchrun starts share the cores of its task.
    shared = make_launch().from_launcher({**torchrun, "SLURM_CPUS_PER_TASK": "5"})
    assert shared and shared.cpus == 0
    with_url = make_launch(init_method="tcp://10.0.0.9:9999").from_launcher(srun)
    assert with_url == make_launch(rank=3, local_rank=1, init_method="tcp://10.0.0.9:9999")
    one_per_machine = {**srun, "SLURM_STEP_NUM_TASKS": "2"}
    assert make_launch(init_method="tcp://10.0.0.9:9999").from_launcher(one_per_machine) is None
    with pytest.raises(UserError, match="srun must start"):
        make_launch().from_launcher(one_per_machine)


@pytest.mark.parametrize(
    "env",
    [
        {"RANK": "0", "WORLD_SIZE": "8"},
        {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    ],
)
def test_launcher_must_start_the_configured_number(env: dict[str, str]) -> None:
    with pytest.raises(UserError, match="NUM_SHARDS = 4 processes, but it started 8: set NUM_GPUS"):
        make_launch(init_method="tcp://a:1").from_launcher(env)


def test_process_is_a_rank_under_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    distributed.run_ranks(write_rank_state, config(tmp_path), num_local_ranks=1)
    assert state_of_rank(0, tmp_path)["process"] == os.getpid()
    with pytest.raises(UserError, match="torchrun must start NUM_GPUS x NUM_SHARDS"):
        distributed.run_ranks(write_rank_state, config(tmp_path), num_local_ranks=2)


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
def test_resolve_device(
    monkeypatch: pytest.MonkeyPatch, device: str, num_gpus: int, available: int, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    assert resolve_device(device, num_gpus) == expected


def test_missing_gpus_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_rank_may_see_only_its_own_gpu(
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
def test_rank_uses_its_own_gpu(monkeypatch: pytest.MonkeyPatch, available: int, gpu: int) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    launch = make_launch(local_rank=3, world_size=1, local_world_size=1, device_type="cuda")
    with join_ranks(launch, timeout=timedelta(seconds=1)):
        assert distributed.device() == torch.device("cuda", gpu)
    assert taken == [gpu]


def test_spawned_ranks_need_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """The case of one srun task per machine with one GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    options = {"num_local_ranks": 2, "num_shards": 2, "init_method": "tcp://127.0.0.1:1"}
    with pytest.raises(UserError, match="NUM_GPUS must be at most 1"):
        distributed.run_ranks(print, "", device="cuda", **options)  # type: ignore[arg-type]


def test_resolve_backend() -> None:
    assert resolve_backend("auto", device="cuda") == "nccl"
    assert resolve_backend("auto", device="cpu") == "gloo"
    assert resolve_backend("gloo", device="cuda") == "gloo"


def test_ranks_share_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert num_cpu_threads(local_world_size=3) == 2
    assert num_cpu_threads(local_world_size=16) == 1
    # With ``cpus``, SLURM may or may not have bound each rank to its own cores.
    assert num_cpu_threads(local_world_size=3, cpus=8) == 8
    assert num_cpu_threads(local_world_size=3, cpus=4) == 4
    assert num_cpu_threads(local_world_size=3, cpus=9) == 8


def test_srun_rank_uses_all_cores_of_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(3)), raising=False)
    before = torch.get_num_threads()
    rank = make_launch(world_size=1, local_world_size=2, cpus=3)
    try:
        with join_ranks(rank, timeout=timedelta(seconds=1)):
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_only_cudnn_attention_is_disabled():
    backends = torch.backends.cuda
    try:
        backends.enable_cudnn_sdp(True)
        disable_cudnn_attention()
        assert not backends.cudnn_sdp_enabled()
        assert backends.flash_sdp_enabled()
        assert backends.mem_efficient_sdp_enabled()
        assert backends.math_sdp_enabled()
    finally:
        backends.enable_cudnn_sdp(True)
