"""What was read of an annotation file, kept for the other processes and parts of a run.

Parsing instances_train2017.json takes gigabytes, and every rank would do it, after the checks
before the run did it already. The file here is mapped into memory: ranks and their workers share
its pages, and read of it what they need.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from iopath.common.file_io import file_lock
from safetensors.numpy import save_file
from safetensors.torch import load_file

from stvit_video.data.coco.annotation_file import FileContent
from stvit_video.data.coco.packed import PackedList

# To be raised when the same annotation file is to give another content.
_VERSION = 1


def load_or_parse(path: Path, parse: Callable[[], FileContent], *, folder: Path) -> FileContent:
    """Load what a folder keeps of an annotation file, after parsing it if that is nothing.

    A file that has changed since, in size or time, is parsed again. Of processes that come
    together one parses, and the others wait.
    """
    try:
        status = path.stat()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        # No annotation file, of which parsing tells more, or a folder that cannot be written, of
        # which the run tells more.
        return parse()
    what = f"{_VERSION} {path.resolve()} {status.st_size} {status.st_mtime_ns}"
    key = hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    kept = folder / f"{path.stem}-{key}.safetensors"
    if not kept.is_file():
        with file_lock(str(kept)):
            if not kept.is_file():
                _write(kept, parse())
    return _read(kept)


def _write(kept: Path, content: FileContent) -> None:
    listed, images = content[:-1], content.images
    head = json.dumps(dict(zip(FileContent._fields, listed, strict=False))).encode("ascii")
    arrays: dict[str, np.ndarray] = {"text": images.text, "ends": images.ends}
    arrays["head"] = np.frombuffer(head, np.uint8)
    # Under another name first, as a process may be killed here.
    unfinished = kept.with_suffix(f".{os.getpid()}")
    save_file(arrays, unfinished)
    unfinished.replace(kept)


def _read(kept: Path) -> FileContent:
    # torch's reader maps the file, NumPy's copies it.
    arrays = {name: value.numpy() for name, value in load_file(kept).items()}
    head = json.loads(arrays["head"].tobytes())
    return FileContent(**head, images=PackedList(arrays["text"], arrays["ends"]))
