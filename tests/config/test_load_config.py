"""Test load_config and dump_config."""

import pickle
from pathlib import Path

import pytest

from stvit_video.config import dump_config, load_config
from stvit_video.config.defaults import default_config
from stvit_video.errors import UserError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    return write(tmp_path / "empty.yaml", "")


def error_message(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_empty_file_gives_valid_defaults(empty: Path) -> None:
    assert load_config(empty) == default_config()


def test_file_overrides_base_and_overrides_win(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "NUM_GPUS: 1\nTRAIN:\n  BATCH_SIZE: 2\n  EVAL_PERIOD: 2\n")
    write(tmp_path / "sub/b.yml", "_BASE_: ../a.yaml\nTRAIN: {BATCH_SIZE: 3, EVAL_PERIOD: 3}\n")
    top = write(tmp_path / "c.yaml", "TRAIN:\n  BATCH_SIZE: 4\n_BASE_: sub/b.yml\n")
    assert load_config(top).TRAIN.BATCH_SIZE == 4
    assert load_config(top).TRAIN.EVAL_PERIOD == 3
    assert load_config(str(top), ["TRAIN.BATCH_SIZE", "5"]).TRAIN.BATCH_SIZE == 5


def test_config_is_frozen_and_has_tuples(tmp_path: Path) -> None:
    cfg = load_config(write(tmp_path / "a.yaml", "SWIN:\n  WINDOW_SIZE: [4, 7, 7]\n"))
    assert cfg.SWIN.WINDOW_SIZE == (4, 7, 7)
    assert isinstance(cfg.SWIN.WINDOW_SIZE, tuple)
    with pytest.raises(AttributeError):
        cfg.SWIN.EMBED_DIM = 8


def test_configs_share_no_state(empty: Path) -> None:
    assert load_config(empty, ["NUM_GPUS=2"]).NUM_GPUS == 2
    assert load_config(empty).NUM_GPUS == 1


def test_override_syntax(empty: Path) -> None:
    overrides = ["NUM_GPUS", "2", "TRAIN.BATCH_SIZE=8", "TEST.BATCH_SIZE 6", "OUTPUT_DIR", "a=b c"]
    cfg = load_config(empty, overrides)
    assert (cfg.NUM_GPUS, cfg.TRAIN.BATCH_SIZE, cfg.TEST.BATCH_SIZE) == (2, 8, 6)
    assert cfg.OUTPUT_DIR == "a=b c"
    assert load_config(empty, ["OUTPUT_DIR=a=b"]).OUTPUT_DIR == "a=b"
    assert load_config(empty, ["DATA.PATH_LABEL_SEPARATOR", ","]).DATA.PATH_LABEL_SEPARATOR == ","


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("SOLVER.BASE_LR", "1e-3", 1e-3),
        ("SOLVER.BASE_LR", "2", 2.0),
        ("SOLVER.BETAS", "[0.9, 99e-2]", (0.9, 0.99)),
        ("SWIN.WINDOW_SIZE", "(8, 7, 7)", (8, 7, 7)),
        ("SWIN.WINDOW_SIZE", "[8, 7, 7]", (8, 7, 7)),
        ("SOLVER.LRS", "[1]", (1.0,)),
        ("DATA.TRAIN_CROP_SIZE", "112", 112),
        ("TRAIN.ENABLE", "False", False),
        ("TRAIN.ENABLE", "true", True),
        ("TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN", "[backbone., 'module.']", ("backbone.", "module.")),
        ("MODEL.HEAD_ACT", "none", "none"),
    ],
)
def test_text_is_converted_to_the_type_of_the_default(
    tmp_path: Path, empty: Path, key: str, text: str, value: object
) -> None:
    section, name = key.split(".")
    in_file = write(tmp_path / "a.yaml", f"{section}:\n  {name}: {text}\n")
    for cfg in (load_config(empty, [key, text]), load_config(in_file)):
        found = cfg[section][name]
        assert found == value
        assert type(found) is type(value)
        if isinstance(value, tuple):
            assert [type(entry) for entry in found] == [type(entry) for entry in value]


def test_string_key_keeps_numbers_as_text(empty: Path) -> None:
    assert load_config(empty, ["OUTPUT_DIR", "2024"]).OUTPUT_DIR == "2024"


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("DATA.NUM_FRAMES", "2.5", "an integer"),
        ("DATA.NUM_FRAMES", "True", "an integer"),
        ("DATA.NUM_FRAMES", "many", "an integer"),
        ("DATA.NUM_FRAMES", "", "an integer"),
        ("SOLVER.BASE_LR", "True", "a finite number"),
        ("SOLVER.BASE_LR", ".nan", "a finite number"),
        ("SOLVER.BASE_LR", "1e999", "a finite number"),
        ("SOLVER.BASE_LR", "9" * 400, "a finite number"),
        ("SOLVER.BASE_LR", "9" * 5000, "a finite number"),
        ("TRAIN.ENABLE", "1", "true or false"),
        ("DATA.MEAN", "0.5", "a list in which each entry is a finite number"),
        ("DATA.MEAN", "[0.5, true, 0.5]", "a list in which each entry is a finite number"),
        ("SWIN.DEPTHS", "[2, [2], 6, 2]", "a list in which each entry is an integer"),
    ],
)
def test_wrong_type_is_rejected(empty: Path, key: str, text: str, expected: str) -> None:
    message = error_message(empty, key, text)
    assert message.startswith(f"override: {key} must be {expected}, not ")
    assert len(message) < 150


def test_wrong_type_in_a_file_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "TRAIN:\n  # as in the paper\n  BATCH_SIZE: many\n")
    assert error_message(path) == f"{path}:3: TRAIN.BATCH_SIZE must be an integer, not 'many'"
    path = write(tmp_path / "a.yaml", "OUTPUT_DIR: 5\n")
    assert (
        error_message(path)
        == f"{path}:1: OUTPUT_DIR must be a string (in quotes if it looks like a number), not 5"
    )


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("TRAIN.BACTH_SIZE", "did you mean TRAIN.BATCH_SIZE?"),
        ("train.batch_size", "did you mean TRAIN.BATCH_SIZE?"),
        ("TRAIN.NUM_FRAMES", "did you mean DATA.NUM_FRAMES?"),
        ("train.num_frames", "did you mean DATA.NUM_FRAMES?"),
        ("WINDOW_SIZE", "did you mean SWIN.WINDOW_SIZE?"),
        ("TRIAN.EVAL_PERIOD", "did you mean TRAIN.EVAL_PERIOD?"),
        ("BATCH_SIZE", "did you mean TEST.BATCH_SIZE or TRAIN.BATCH_SIZE?"),
        ("NUM_GPU", "did you mean NUM_GPUS?"),
        ("solver.xyz", "the keys of SOLVER are BASE_LR, "),
        ("xyz", "the keys and sections are NUM_GPUS, "),
        ("DEVICE.A", "DEVICE is a key, not a section"),
    ],
)
def test_unknown_key_is_rejected_with_a_suggestion(empty: Path, key: str, suggestion: str) -> None:
    assert error_message(empty, key, "1").startswith(
        f"override: {key} is not a config key; {suggestion}"
    )


def test_section_cannot_be_set(empty: Path) -> None:
    assert error_message(empty, "TEST", "1").startswith("override: TEST is a section: set one of")


def test_unknown_key_in_a_base_names_its_file(tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", "TRAIN:\n  ENABLE: true\n  NUM_FRAMES: 8\n")
    top = write(tmp_path / "top.yaml", "_BASE_: base.yaml\n")
    assert error_message(top) == (
        f"{base}:3, _BASE_ of {top}: TRAIN.NUM_FRAMES is not a config key; "
        "did you mean DATA.NUM_FRAMES?"
    )


@pytest.mark.parametrize("overrides", [["NUM_GPUS"], ["NUM_GPUS", "1", "SHARD_ID"]])
def test_override_without_a_value_is_rejected(empty: Path, overrides: list[str]) -> None:
    assert f'nothing follows "{overrides[-1]}"' in error_message(empty, *overrides)


def test_empty_section_sets_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "TRAIN:\n  # ENABLE: false\nTEST: {}\n")
    assert load_config(path) == default_config()
    assert "TRIAN" in error_message(write(tmp_path / "b.yaml", "TRIAN: {}\n"))


def test_duplicate_key_in_a_file_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "NUM_GPUS: 1\nTRAIN:\n  EVAL_PERIOD: 2\nNUM_GPUS: 2\n")
    assert error_message(path) == (
        f"{path}:4: a file must set a key only once, but NUM_GPUS is also set at {path}:1: "
        "remove one of them"
    )


def test_circular_base_is_rejected(tmp_path: Path) -> None:
    a = write(tmp_path / "a.yaml", "NUM_GPUS: 1\n_BASE_: b.yaml\n")
    b = write(tmp_path / "b.yaml", "_BASE_: ./a.yaml\n")
    message = error_message(a)
    assert message.startswith(f"{b}:1, _BASE_ of {a}: _BASE_ must not be circular")
    assert f"{a} -> {b} -> {a}" in message
    alone = write(tmp_path / "c.yaml", "_BASE_: c.yaml\n")
    assert f"{alone} -> {alone}" in error_message(alone)


def test_missing_file_lists_existing_ones(tmp_path: Path) -> None:
    write(tmp_path / "swin_t.yaml", "")
    write(tmp_path / "notes.txt", "")
    missing = tmp_path / "swin_s.yaml"
    assert error_message(missing) == f"config {missing} not found; its folder has swin_t.yaml"
    assert "nowhere does not exist" in error_message(tmp_path / "nowhere" / "a.yaml")
    top = write(tmp_path / "top.yaml", "\n_BASE_: swin_tt.yaml\n")
    assert error_message(top).startswith(f"{top}:2: config {tmp_path / 'swin_tt.yaml'} not found; ")
    top.write_text("_BASE_: [swin_t.yaml]\n", encoding="utf-8")
    assert error_message(top).startswith(f"{top}:1: _BASE_ must be one path")


def test_python_code_is_never_executed(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w')\ncfg = {{}}\n"
    program = write(tmp_path / "a.py", code)
    refusal = f"a config must be a .yaml or .yml file, not {program}"
    assert error_message(program) == refusal
    derived = write(tmp_path / "b.yaml", "_BASE_: a.py\n")
    assert error_message(derived) == f"{derived}:1: {refusal}"
    tag = write(tmp_path / "c.yaml", f"OUTPUT_DIR: !!python/object/apply:open [{trace}, w]\n")
    assert error_message(tag).startswith(f"{tag}:1: this is not valid YAML")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("TRAIN:\n  ENABLE: [1\n", ":3: this is not valid YAML"),
        ("TRAIN:\n\tENABLE: 1\n", ":2: this is not valid YAML"),
        ("- 1\n", ":1: a config file must have lines of KEY: VALUE"),
        ("5\n", ":1: a config file must have lines of KEY: VALUE"),
        ("? [1]\n: 2\n", ":1: a key must be a name"),
        ("A: &a\n  B: *a\n", "nested too deeply"),
        ("NUM_GPUS: " + "[" * 5000, "nested too deeply"),
        ("NUM_GPUS: 2024-13-45\n", ":1: NUM_GPUS cannot be read"),
        ("NUM_GPUS: \x00\n", "this is not valid YAML"),
        ("NUM_GPUS:\n", ":1: NUM_GPUS must be an integer, not None"),
    ],
)
def test_invalid_yaml_is_rejected(tmp_path: Path, text: str, part: str) -> None:
    path = write(tmp_path / "a.yaml", text)
    message = error_message(path)
    assert message.startswith(str(path))
    assert part in message


def test_binary_file_and_folder_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"OUTPUT_DIR: \xff\xfe\xfa")
    assert "not valid YAML" in error_message(path)
    assert "a .yaml or .yml file" in error_message(tmp_path)


def test_dumped_config_loads_as_an_equal_one(tmp_path: Path, empty: Path) -> None:
    overrides = [
        "SOLVER.BASE_LR=1e-7",
        "SOLVER.WEIGHT_DECAY=0",
        "OUTPUT_DIR=Ergebnisse: für #1",
        "DATA.TRAIN_JITTER_SCALES_RELATIVE=[]",
        "DATA.TRAIN_JITTER_ASPECT_RELATIVE=()",
        "TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN=['1', 'true']",
        "DATA.PATH_LABEL_SEPARATOR",
        "\t",
        "TEST.CHECKPOINT_FILE_PATH=123",
        "TENSORBOARD.LOG_DIR=yes",
    ]
    cfg = load_config(empty, overrides)
    dump_config(cfg, tmp_path / "new" / "config.yaml")
    loaded = load_config(tmp_path / "new" / "config.yaml")
    assert loaded == cfg
    assert repr(loaded) == repr(cfg)  # 1 and 1.0 are equal, but not the same


def test_config_can_be_pickled(empty: Path) -> None:
    cfg = load_config(empty)
    copy = pickle.loads(pickle.dumps(cfg))
    assert copy == cfg
    assert copy.is_frozen() and copy.TRAIN.is_frozen()
