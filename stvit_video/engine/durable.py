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
        The SHA-256 of the content, in hexadecimal.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            write(file)
            _flush_to_disk(file)
        digest = sha256(temporary)
        _replace(hash_path(path), f"{digest}  {path.name}\n".encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)
    return digest


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


def _replace(path: Path, content: bytes) -> None:
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            _flush_to_disk(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    # Beside its target, because a rename is atomic only inside one file system; and always of the
    # same name, so that what a killed run left behind is overwritten by the next one.
    return path.with_name(f".{path.name}.tmp")


def _flush_to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    # The rename itself lives in the folder, and is lost in a power cut unless the folder is synced.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
