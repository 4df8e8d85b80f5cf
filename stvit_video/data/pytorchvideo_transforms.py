"""The one place that imports PyTorchVideo's transforms, which its last release cannot alone."""

import sys
from functools import cache
from importlib import import_module
from types import ModuleType


@cache
def pytorchvideo_functional() -> ModuleType:
    """Import ``pytorchvideo.transforms.functional``.

    PyTorchVideo 0.1.5 imports ``torchvision.transforms.functional_tensor``, which torchvision
    renamed in 0.17; the old name is lent to it for the time of its import.

    Of its functions only those that move whole pixels are right for uint8 video: `uniform_crop`
    is used, `uniform_temporal_subsample` could be. `short_side_scale` takes float32 alone, which
    costs ten times the time; `random_resized_crop` resizes without antialiasing; and all random
    ones draw from the global generator, so that a sample would depend on the worker it is made in.
    """
    name = "torchvision.transforms.functional_tensor"
    lent = name not in sys.modules
    if lent:
        sys.modules[name] = import_module("torchvision.transforms._functional_tensor")
    try:
        return import_module("pytorchvideo.transforms.functional")
    finally:
        if lent:
            del sys.modules[name]
