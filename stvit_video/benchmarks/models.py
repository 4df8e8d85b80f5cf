"""Compare the speed and memory of models by running them alternately in one process.

The speed of a machine drifts, so single times are unreliable. Each round runs every model once,
and two models are compared by the median of their ratios in each round.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import median

import torch
import torchvision
from torch import Tensor, nn

from stvit_video.config import load_config
from stvit_video.engine.build import input_size
from stvit_video.errors import UserError
from stvit_video.models import build_model
from stvit_video.models.detection.detector import CascadeMaskRCNN
from stvit_video.runtime.process import trim_memory


@dataclass
class Timing:
    """Time and memory of one model.

    Attributes:
        seconds: seconds of each round.
        peak_bytes: peak memory of one pass beyond the memory in use before it, or None if the
            system does not report it.
    """

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None


def compare(
    models: Mapping[str, nn.Module],
    video: Tensor,
    *,
    rounds: int,
    amp: torch.dtype | None = None,
    train: bool = False,
) -> dict[str, Timing]:
    """Time models on one input; each of ``rounds`` rounds runs all of them.

    Args:
        models: models by name, on the device of ``video``.
        video: float ``[B, 3, T, H, W]``, or images ``[B, 3, H, W]``.
        rounds: timed rounds, after one warm-up round.
        amp: dtype of automatic mixed precision; None to disable it.
        train: time the forward and backward pass instead of only the forward pass.

    Raises:
        UserError: a library model cannot run on that input.
    """
    run_model = _training_pass if train else _inference_pass
    timings = {name: Timing() for name in models}
    runs = {
        name: partial(run_model, model.train(train), video, amp) for name, model in models.items()
    }
    for name, run in runs.items():
        _warm_up(name, run, video)
    for name, run in runs.items():
        timings[name].peak_bytes = _peak_memory(run, video.device)
    for _ in range(rounds):
        for name, run in runs.items():
            timings[name].seconds.append(_time_run(run, video.device))
    return timings


def _warm_up(name: str, run: Callable[[], None], video: Tensor) -> None:
    try:
        run()
    # Other libraries raise any exception for an unsupported input.
    except Exception as error:
        if not _is_library_model(name):
            raise
        raise UserError(
            f"{name} cannot run on an input of {describe_input(video)}{_reason(error)}: "
            "choose another --size or --batch."
        ) from error


def _inference_pass(model: nn.Module, video: Tensor, amp: torch.dtype | None) -> None:
    with torch.no_grad(), torch.autocast(video.device.type, amp, enabled=amp is not None):
        model(video)


def _training_pass(model: nn.Module, video: Tensor, amp: torch.dtype | None) -> None:
    with torch.autocast(video.device.type, amp, enabled=amp is not None):
        output = model(video)
        maps = output.values() if isinstance(output, dict) else (output,)
        loss = sum(part.float().square().mean() for part in maps)
    loss.backward()
    model.zero_grad(set_to_none=True)


def _time_run(run: Callable[[], None], device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(run: Callable[[], None], device: torch.device) -> int | None:
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    trim_memory()
    try:
        # Writing 5 resets the peak resident set size on Linux.
        Path("/proc/self/clear_refs").write_text("5")
        before = _memory_status("VmRSS")
        run()
        return _memory_status("VmHWM") - before
    except OSError:
        return None


def _memory_status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def format_timings(timings: Mapping[str, Timing], *, batch: int) -> str:
    """Format timings as a table, followed by a line with the ratio of each pair of models."""
    lines = [f"{'model':<44} {'median':>9} {'min':>8} {'max':>8} {'clips/s':>8} {'peak':>9}"]
    for name, timing in timings.items():
        seconds = median(timing.seconds)
        peak = "-" if timing.peak_bytes is None else f"{timing.peak_bytes / 2**20:.0f} MiB"
        lines.append(
            f"{name:<44} {seconds * 1e3:>6.0f} ms {min(timing.seconds) * 1e3:>8.0f} "
            f"{max(timing.seconds) * 1e3:>8.0f} {batch / seconds:>8.2f} {peak:>9}"
        )
    for first, second in combinations(timings, 2):
        ratios = pair_ratios(timings[first], timings[second])
        lines.append(
            f"{first} is {median(ratios):.2f} times as fast as {second} "
            f"(median of {len(ratios)} rounds, {min(ratios):.2f} to {max(ratios):.2f})"
        )
    return "\n".join(lines)


def pair_ratios(first: Timing, second: Timing) -> list[float]:
    """Return the speed of the first model relative to the second in each round."""
    return [b / a for a, b in zip(first.seconds, second.seconds, strict=True)]


def describe_input(video: Tensor) -> str:
    """Format the shape of an input, such as ``8 x 3 x 224 x 224``."""
    return " x ".join(map(str, video.shape))


def default_size(
    names: Sequence[str], *, overrides: Sequence[str] = (), train: bool = False
) -> tuple[int, int, int]:
    """Return (frames, height, width) of the first config, or of the first library without one.

    Args:
        names: names of models, see :func:`create_model`.
        overrides: overrides of every config.
        train: use the crop size of training instead of the test's.

    Raises:
        UserError: a config does not exist.
    """
    config = next((name for name in names if not _is_library_model(name)), None)
    if config is None:
        return _LIBRARIES[names[0].partition(":")[0]].size
    *frames, height, width = input_size(load_config(config, overrides), train=train)
    return (frames[0] if frames else 1, height, width)


def create_model(
    name: str, *, overrides: Sequence[str] = (), size: tuple[int, int, int] | None = None
) -> nn.Module:
    """Create a model from a config file or a library: ``torchvision:swin3d_t``, ``timm:deit_...``.

    For a detector this is the backbone, because the detector also needs the sizes of images.

    Args:
        name: config file, or library and model.
        overrides: overrides of the config.
        size: (frames, height, width) of the input, for library models that are built for a fixed
            size; None for their default.

    Raises:
        UserError: the config or model does not exist, or cannot be built for that size.
    """
    if not _is_library_model(name):
        built = build_model(load_config(name, overrides))
        return built.get_submodule("backbone") if isinstance(built, CascadeMaskRCNN) else built
    library, _, model = name.partition(":")
    return _LIBRARIES[library].create(model, size)


def _is_library_model(name: str) -> bool:
    library, colon, _ = name.partition(":")
    return bool(colon) and library in _LIBRARIES


def _create_torchvision_model(name: str, size: tuple[int, int, int] | None) -> nn.Module:
    known = torchvision.models.list_models(module=torchvision.models.video)
    if name not in known:
        raise UserError(f"torchvision has no video model {name}: choose one of {', '.join(known)}.")
    return torchvision.models.get_model(name, weights=None)


def _create_timm_model(name: str, size: tuple[int, int, int] | None) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise UserError("timm is not installed: run `pip install timm`.") from error
    if not timm.is_model(name):
        family = timm.list_models(f"{name.partition('_')[0]}*")
        hint = f": choose one of {', '.join(family)}" if family else ""
        raise UserError(f"timm has no model {name}{hint}.")
    if size is None:
        return timm.create_model(name, pretrained=False)
    height, width = size[1:]
    try:
        return timm.create_model(name, pretrained=False, img_size=(height, width))
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        # Convolutional networks accept images of any size.
        return timm.create_model(name, pretrained=False)
    except Exception as error:
        raise UserError(
            f"timm:{name} cannot be built for images of {height} x {width}{_reason(error)}: choose "
            "another --size."
        ) from error


def _reason(error: Exception) -> str:
    """Return the first line of an error in parentheses, or an empty string without one."""
    lines = str(error).strip().splitlines()
    return f" ({lines[0].rstrip('.')})" if lines else ""


@dataclass(frozen=True)
class _Library:
    """Library of models.

    Attributes:
        create: function from a model's name and its input size, or None, to the model.
        size: (frames, height, width) at which its models are commonly compared.
    """

    create: Callable[[str, tuple[int, int, int] | None], nn.Module]
    size: tuple[int, int, int]


_LIBRARIES = {
    "torchvision": _Library(_create_torchvision_model, (32, 224, 224)),
    "timm": _Library(_create_timm_model, (1, 224, 224)),
}
