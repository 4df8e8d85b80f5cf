"""Files that are either whole or not there, with a SHA-256 file beside them that proves it."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> str:
    """Write a file so that a crash at any moment leaves the old content or the new, never a part.

    The hash file (``sha256sum`` reads it) is in place before the file itself, so a file that is
    seen always has its hash, and one that was only half replaced never passes verification.

    Args:
        path: where the file goes; its folder is created.
        write: writes the content to an open binary file.

    Returns:
        The SHA-256 of what was written, in hexadecimal, computed before it reached the disk.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            hashing = _HashingFile(file)
            write(hashing)  # type: ignore[arg-type]
            _flush_to_disk(file)
        digest = hashing.digest.hexdigest()
        replace_content(hash_path(path), f"{digest}  {path.name}\n".encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)
    return digest


def replace_content(path: Path, content: bytes) -> None:
    """Write a small file so that a crash leaves the old content or the new; without a hash file."""
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            _flush_to_disk(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file and the hash beside it; a crash in between leaves the hash alone."""
    path.unlink(missing_ok=True)
    hash_path(path).unlink(missing_ok=True)


def hash_path(path: Path) -> Path:
    """Return the path of the hash file that belongs to ``path``."""
    return path.with_name(path.name + ".sha256")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def recorded_hash(path: Path) -> str | None:
    """Return the hash that was written beside ``path``, or None if there is none."""
    try:
        words = hash_path(path).read_text(errors="replace").split()
    except FileNotFoundError:
        return None
    return words[0] if words else ""


class _HashingFile:
    """A file that can only be written, from its beginning to its end, and is hashed on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _temporary(path: Path) -> Path:
    # Beside its target, because a rename is atomic only inside one file system; and always of the
    # same name, so that what a killed run left behind is overwritten by the next one.
    return path.with_name(f".{path.name}.tmp")


def _flush_to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    if hasattr(os, "posix_fadvise"):
        # Out of the cache, so that whoever reads the file next sees what the disk has kept.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _flush_folder(folder: Path) -> None:
    # The rename itself lives in the folder, and is lost in a power cut unless the folder is synced.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
