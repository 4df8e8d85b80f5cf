"""Test checkpoint files: writing, verification, search, and restoring the state."""

import random

import numpy as np
import pytest
import torch
from comparing import same

from stvit_video.engine import checkpoint
from stvit_video.engine.build import build_state
from stvit_video.engine.checkpoint import (
    changed_keys,
    checkpoint_path,
    is_full_checkpoint,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from stvit_video.engine.retention import CheckpointSaver
from stvit_video.engine.state import capture_random_state, restore_random_state, seed_generators
from stvit_video.errors import UserError
from stvit_video.runtime import atomic_files

CPU = torch.device("cpu")


def write_two(output_dir):
    paths = [checkpoint_path(output_dir, epochs) for epochs in (1, 2)]
    for path in paths:
        write_checkpoint(path, {"epoch": 0, "model_state": {"w": torch.ones(100)}})
    return paths


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-200])


def cut_short_without_hash(path):
    cut_short(path)
    atomic_files.hash_path(path).unlink()


def test_names_are_pyslowfasts(tmp_path):
    path = checkpoint_path(tmp_path, 1)
    assert path == tmp_path / "checkpoints" / "checkpoint_epoch_00001.pyth"


def test_a_checkpoint_has_a_sha256sum_file(tmp_path):
    path, _ = write_two(tmp_path)
    line = path.with_name(path.name + ".sha256").read_text()
    assert line == f"{atomic_files.sha256(path)}  {path.name}\n"
    assert sorted(file.suffix for file in path.parent.iterdir()) == [
        ".pyth", ".pyth", ".sha256", ".sha256"
    ]  # fmt: skip


@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, cut_short_without_hash])
def test_a_damaged_checkpoint_is_skipped_and_logged(tmp_path, caplog, damage):
    first, second = write_two(tmp_path)
    assert newest_checkpoint(tmp_path) == second
    damage(second)
    assert newest_checkpoint(tmp_path) == first
    assert str(second) in caplog.text
    with pytest.raises(UserError, match=second.name):
        read_checkpoint(second)


def test_an_error_if_all_checkpoints_are_damaged(tmp_path):
    for path in write_two(tmp_path):
        flip_a_byte(path)
    with pytest.raises(UserError, match="None of the 2 checkpoints"):
        newest_checkpoint(tmp_path)


def test_no_newest_checkpoint_in_a_folder_without_checkpoints(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "other.pyth").write_bytes(b"")
    assert newest_checkpoint(tmp_path) is None


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path, _ = write_two(tmp_path)
    before = path.read_bytes()

    def fill_the_disk(contents, file):
        file.write(b"a part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", fill_the_disk)
    with pytest.raises(UserError, match="No space left"):
        write_checkpoint(path, {"epoch": 1})
    assert path.read_bytes() == before
    assert not [file for file in path.parent.iterdir() if "tmp" in file.name]
    assert newest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 2)


def test_a_crash_between_writing_hash_and_file_invalidates_the_old_file(tmp_path, monkeypatch):
    first, second = write_two(tmp_path)
    replace = atomic_files.Path.replace

    def crash(self, target):
        if target == second:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(atomic_files.Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(second, {"epoch": 7})
    assert newest_checkpoint(tmp_path) == first


def test_pickled_objects_are_rejected(tmp_path):
    path = tmp_path / "evil.pyth"
    torch.save({"object": random.Random()}, path)
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(path)
    assert not is_full_checkpoint(path)


def test_random_states_survive_a_round_trip_through_a_file(tmp_path):
    seed_generators(3)
    random.gauss(0, 1)  # caches a second number, as NumPy's generator does
    np.random.standard_normal()
    write_checkpoint(tmp_path / "a.pyth", capture_random_state(CPU))
    expected = (random.gauss(0, 1), np.random.standard_normal(), torch.rand(3).tolist())
    seed_generators(4)
    restore_random_state(read_checkpoint(tmp_path / "a.pyth"), CPU)
    assert (random.gauss(0, 1), np.random.standard_normal(), torch.rand(3).tolist()) == expected


@pytest.fixture
def saved(small_config):
    """A training state after one step and one epoch, and its checkpoint."""
    cfg = small_config()
    state = build_state(cfg, steps_per_epoch=4)
    state.model(torch.rand(1, 3, 8, 32, 32)).sum().backward()
    state.optimizer.step()
    state.finished_epochs, state.validations = 1, {1: {"top1_err": 12.5}}
    CheckpointSaver(cfg.OUTPUT_DIR).save(state)
    return state, checkpoint_path(cfg.OUTPUT_DIR, 1)


def test_a_training_state_is_restored(saved, small_config):
    state, path = saved
    contents = read_checkpoint(path)
    assert contents["epoch"] == 0
    assert is_full_checkpoint(path)
    restored = build_state(small_config(), steps_per_epoch=4)
    restored.load_state_dict(contents, path)
    assert (restored.finished_epochs, restored.finished_steps) == (1, 0)
    assert restored.validations == {1: {"top1_err": 12.5}}
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, restored.model.state_dict()[name]), name
    moments, restored_moments = (s.optimizer.state_dict()["state"] for s in (state, restored))
    assert moments.keys() == restored_moments.keys()
    assert all(
        torch.equal(moments[k]["exp_avg_sq"], restored_moments[k]["exp_avg_sq"]) for k in moments
    )


def test_hyperparameters_come_from_the_config_and_changes_are_logged(saved, small_config, caplog):
    _, path = saved
    changed = build_state(small_config("SOLVER.WEIGHT_DECAY", "0.5"), steps_per_epoch=4)
    changed.load_state_dict(read_checkpoint(path), path)
    assert {group["weight_decay"] for group in changed.optimizer.param_groups} == {0.5, 0.0}
    assert "SOLVER.WEIGHT_DECAY: 0.02 -> 0.5" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("MODEL.NUM_CLASSES", "4"),
            r"another model \(head.fc.bias is \[3\] in the file and \[4\] in the model",
        ),
        (("STVIT.ENABLE", "False"), "another model .* more differences"),
        (("SOLVER.OPTIMIZING_METHOD", "sgd"), "another optimizer"),
        (("SOLVER.ZERO_WD_1D_PARAM", "False"), "other parameter groups"),
    ],
)
def test_an_incompatible_checkpoint_is_rejected(saved, small_config, overrides, message):
    _, path = saved
    with pytest.raises(UserError, match=message):
        build_state(small_config(*overrides), steps_per_epoch=4).load_state_dict(
            read_checkpoint(path), path
        )


def test_a_checkpoint_of_another_program_is_rejected(small_config, tmp_path):
    path = checkpoint_path(tmp_path, 1)
    contents = {"epoch": 0, "model_state": {}, "optimizer_state": {}, "cfg": ""}
    with pytest.raises(UserError, match=r"another program or version \(step is missing in it\)"):
        build_state(small_config(), steps_per_epoch=4).load_state_dict(contents, path)


def test_a_missing_average_starts_from_the_weights(saved, small_config, caplog):
    state, path = saved
    restored = build_state(small_config("EMA.ENABLE", "True"), steps_per_epoch=4)
    restored.load_state_dict(read_checkpoint(path), path)
    assert same(dict(restored.average.model.state_dict()), dict(state.model.state_dict()))
    assert "holds no averaged weights" in caplog.text


def test_sorting_by_name_as_pyslowfast_does_finds_the_newest_checkpoint(tmp_path):
    for epochs, steps in ((9, 0), (10, 0), (10, 20), (10, 100)):
        write_checkpoint(checkpoint_path(tmp_path, epochs, steps), {"epoch": epochs - 1})
    last = max(path.name for path in (tmp_path / "checkpoints").glob("*.pyth"))
    assert last == "checkpoint_epoch_00010_step_000100.pyth"
    assert newest_checkpoint(tmp_path).name == last


def test_changed_keys():
    old, new = "{A: 1, B: {C: [1, 2], D: x}}", "{A: 1, B: {C: [1, 3]}, E: true}"
    assert changed_keys(old, new) == [
        "B.C: [1, 2] -> [1, 3]",
        "B.D: x -> absent",
        "E: absent -> True",
    ]
