"""Test that damaged and other files give a one-sentence error, and run no code."""

import pickle
import re

import pytest
import torch
from small import small_model
from weight_files import saved

from stvit_video.errors import UserError
from stvit_video.models import load_weights, save_weights


class Evil:
    """An object whose pickle creates a file when it is loaded without ``weights_only``."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def good_pickle(folder, **options):
    return saved({"model_state": small_model("swin_t").state_dict()}, folder, **options)


def missing(folder):
    return folder / "weights.pth"


def a_folder(folder):
    return folder


def empty(folder):
    (folder / "weights.pth").touch()
    return folder / "weights.pth"


def text(folder):
    (folder / "weights.pth").write_text("<!DOCTYPE html>\n<p>Not found. Sign in.</p>\n")
    return folder / "weights.pth"


def text_as_safetensors(folder):
    (folder / "weights.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    return folder / "weights.safetensors"


def cut_pickle(folder):
    path = good_pickle(folder)
    cut(path, 0.5)
    return path


def cut_old_pickle(folder):
    path = good_pickle(folder, _use_new_zipfile_serialization=False)
    cut(path, 0.5)
    return path


def cut_safetensors(folder):
    save_weights(small_model("swin_t"), folder / "weights.safetensors")
    cut(folder / "weights.safetensors", 0.9)
    return folder / "weights.safetensors"


def damaged_pickle(folder):
    # The unpickler raises IndexError, because its stack is empty.
    (folder / "weights.pth").write_bytes(b"\x80\x02s.")
    return folder / "weights.pth"


def a_module(folder):
    return saved(torch.nn.Linear(2, 2), folder)


def a_tensor(folder):
    return saved(torch.zeros(3), folder)


def no_tensors(folder):
    return saved({"epoch": 3, "model_state": {}}, folder)


def tensors_without_names(folder):
    return saved({0: torch.zeros(3)}, folder)


def of_another_model(folder):
    return saved({"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(3)}, folder)


FILES = [
    missing,
    a_folder,
    empty,
    text,
    text_as_safetensors,
    cut_pickle,
    cut_old_pickle,
    cut_safetensors,
    damaged_pickle,
    a_module,
    a_tensor,
    no_tensors,
    tensors_without_names,
    of_another_model,
]


def assert_one_sentence(message):
    assert message.endswith(".")
    assert not re.search(r"[.!?]\s|\n", message), message


@pytest.fixture(scope="module")
def model():
    return small_model("swin_t")


@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
def test_what_cannot_be_loaded_is_one_sentence(make, model, tmp_path):
    path = make(tmp_path)
    with pytest.raises(UserError) as error:
        load_weights(model, path)
    assert str(path) in str(error.value)
    assert_one_sentence(str(error.value))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_runs_no_code(zipped, model, tmp_path):
    trace = tmp_path / "trace"
    content = {"model_state": model.state_dict(), "cfg": Evil(trace)}
    path = saved(content, tmp_path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="could run code") as error:
        load_weights(model, path)
    assert_one_sentence(str(error.value))
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # the file is dangerous


def test_a_plain_pickle_runs_no_code(model, tmp_path):
    trace = tmp_path / "trace"
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"model_state": Evil(trace)}, protocol=2))
    with pytest.raises(UserError):
        load_weights(model, path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists()


@pytest.mark.parametrize(
    "name",
    [
        "stages.2.blocks.2.module.pooling.offset.pointwise.weight",
        "stages.2.blocks.1.generation.module.layers.0.norm1.weight",
        "stages.2.downsample.expansion.weight",
    ],
)
def test_files_from_before_the_paper_are_refused(name, tmp_path):
    model = small_model("stvit_swin_t")
    path = tmp_path / "old.pth"
    torch.save({**model.state_dict(), name: torch.ones(3)}, path)
    with pytest.raises(UserError, match="older stvit_video"):
        load_weights(model, path)
