"""Speed and memory of models against each other, in one process, the models alternating.

A machine's speed drifts, so a time alone says little. Each round runs every model once, and
what is reported of two models is the median of their ratios round by round.
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
    """What one model took.

    Attributes:
        seconds: of each round.
        peak_bytes: most memory that one pass needed beyond what was there before it, or None
            where the system does not tell.
    """

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None


def default_size(
    names: Sequence[str], *, overrides: Sequence[str] = (), train: bool = False
) -> tuple[int, int, int]:
    """Give (frames, height, width) of the first config among models, else of the first peer.

    Args:
        names: as :func:`build_contender` takes them.
        overrides: of every config.
        train: take the crop of the training instead of that of the test.

    Raises:
        UserError: there is no such config.
    """
    config = next((name for name in names if not _is_peer(name)), None)
    if config is None:
        return _PEERS[names[0].partition(":")[0]].size
    *frames, height, width = input_size(load_config(config, overrides), train=train)
    return (frames[0] if frames else 1, height, width)


def build_contender(
    name: str, *, overrides: Sequence[str] = (), size: tuple[int, int, int] | None = None
) -> nn.Module:
    """Build a model from a config file, or a peer: ``torchvision:swin3d_t``, ``timm:deit_...``.

    Of a detector it is the backbone, as only that maps images alone, without their sizes.

    Args:
        name: of the config file or the peer.
        overrides: of the config.
        size: (frames, height, width) of what comes, for peers that are built for one size; None
            for their own.

    Raises:
        UserError: there is no such config or peer, or it cannot be built for that size.
    """
    if not _is_peer(name):
        built = build_model(load_config(name, overrides))
        return built.get_submodule("backbone") if isinstance(built, CascadeMaskRCNN) else built
    library, _, model = name.partition(":")
    return _PEERS[library].build(model, size)


def describe_input(video: Tensor) -> str:
    """Write the shape of an input, ``8 x 3 x 224 x 224``."""
    return " x ".join(map(str, video.shape))


def _is_peer(name: str) -> bool:
    library, colon, _ = name.partition(":")
    return bool(colon) and library in _PEERS


def _torchvision_peer(name: str, size: tuple[int, int, int] | None) -> nn.Module:
    known = torchvision.models.list_models(module=torchvision.models.video)
    if name not in known:
        raise UserError(f"torchvision has no video model {name}: it has {', '.join(known)}.")
    return torchvision.models.get_model(name, weights=None)


def _timm_peer(name: str, size: tuple[int, int, int] | None) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise UserError("timm: models need timm: run `pip install timm`.") from error
    if not timm.is_model(name):
        family = timm.list_models(f"{name.partition('_')[0]}*")
        close = f": of that family it has {', '.join(family)}" if family else ""
        raise UserError(f"timm has no model {name}{close}.")
    if size is None:
        return timm.create_model(name, pretrained=False)
    height, width = size[1:]
    try:
        return timm.create_model(name, pretrained=False, img_size=(height, width))
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        # Convolutional networks take images of any size.
        return timm.create_model(name, pretrained=False)
    except Exception as error:
        raise UserError(
            f"timm:{name} cannot be built for images of {height} x {width}{_reason(error)}: give "
            "another --size."
        ) from error


@dataclass(frozen=True)
class _Library:
    """Where peers come from.

    Attributes:
        build: makes one from its name and the size of its inputs, or None.
        size: (frames, height, width) that its models are commonly compared at.
    """

    build: Callable[[str, tuple[int, int, int] | None], nn.Module]
    size: tuple[int, int, int]


_PEERS = {
    "torchvision": _Library(_torchvision_peer, (32, 224, 224)),
    "timm": _Library(_timm_peer, (1, 224, 224)),
}


def compare(
    models: Mapping[str, nn.Module],
    video: Tensor,
    *,
    rounds: int,
    amp: torch.dtype | None = None,
    train: bool = False,
) -> dict[str, Timing]:
    """Time models on one input, all of them in each of ``rounds`` rounds.

    Args:
        models: by name, on the device of ``video``.
        video: float ``[B, 3, T, H, W]``, or images ``[B, 3, H, W]``.
        rounds: rounds that count, after one that does not.
        amp: type of automatic mixed precision; None for none.
        train: time forward and backward instead of forward alone.

    Raises:
        UserError: a peer cannot run on that input.
    """
    one_pass = _training_pass if train else _inference_pass
    timings = {name: Timing() for name in models}
    runs = {
        name: partial(one_pass, model.train(train), video, amp) for name, model in models.items()
    }
    for name, run in runs.items():
        _first_pass(name, run, video)
    for name, run in runs.items():
        timings[name].peak_bytes = _peak_memory(run, video.device)
    for _ in range(rounds):
        for name, run in runs.items():
            timings[name].seconds.append(_seconds(run, video.device))
    return timings


def report(timings: Mapping[str, Timing], *, batch: int) -> str:
    """Write timings as a table, and the ratio of each pair of models as a sentence."""
    lines = [f"{'model':<44} {'median':>9} {'min':>8} {'max':>8} {'clips/s':>8} {'peak':>9}"]
    for name, timing in timings.items():
        middle = median(timing.seconds)
        peak = "-" if timing.peak_bytes is None else f"{timing.peak_bytes / 2**20:.0f} MiB"
        lines.append(
            f"{name:<44} {middle * 1e3:>6.0f} ms {min(timing.seconds) * 1e3:>8.0f} "
            f"{max(timing.seconds) * 1e3:>8.0f} {batch / middle:>8.2f} {peak:>9}"
        )
    for first, second in combinations(timings, 2):
        ratios = pair_ratios(timings[first], timings[second])
        lines.append(
            f"{first} is {median(ratios):.2f} times as fast as {second} "
            f"(median of {len(ratios)} rounds, {min(ratios):.2f} to {max(ratios):.2f})"
        )
    return "\n".join(lines)


def pair_ratios(first: Timing, second: Timing) -> list[float]:
    """Give, round by round, how many times as fast the first model was."""
    return [b / a for a, b in zip(first.seconds, second.seconds, strict=True)]


def _first_pass(name: str, run: Callable[[], None], video: Tensor) -> None:
    try:
        run()
    # What another library raises of an input that it cannot take is anything.
    except Exception as error:
        if not _is_peer(name):
            raise
        raise UserError(
            f"{name} cannot run on an input of {describe_input(video)}{_reason(error)}: give "
            "another --size or --batch."
        ) from error


def _reason(error: Exception) -> str:
    """Give the first line of an error in brackets, or nothing where it says nothing."""
    lines = str(error).strip().splitlines()
    return f" ({lines[0].rstrip('.')})" if lines else ""


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


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - start


def _peak_memory(run: Callable[[], None], device: torch.device) -> int | None:
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    trim_memory()
    try:
        # Linux forgets the highest resident size it saw when a 5 is written here.
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        run()
        return _resident("VmHWM") - before
    except OSError:
        return None


def _resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
