"""Write files atomically, with a SHA-256 file next to them to verify their content."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> str:
    """Write a file atomically: after a crash it has either its old content or the new.

    The hash file, in the format of ``sha256sum``, is written before the file itself. So every
    visible file has a hash, and a file whose replacement was interrupted fails verification.

    Args:
        path: file to write; its folder is created.
        write: writes the content to an open binary file.

    Returns:
        SHA-256 of the written content in hexadecimal, computed before it reached the disk.

    Raises:
        OSError: the disk is full or the folder is not writable. No partial file remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_path(path)
    try:
        with temporary.open("wb") as file:
            hashing = _HashingWriter(file)
            write(hashing)  # type: ignore[arg-type]
            _flush_to_disk(file)
        digest = hashing.digest.hexdigest()
        write_bytes_atomically(hash_path(path), f"{digest}  {path.name}\n".encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)
    return digest


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write a small file atomically, without a hash file."""
    temporary = _temporary_path(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            _flush_to_disk(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file and its hash file. A crash in between leaves only the hash file."""
    path.unlink(missing_ok=True)
    hash_path(path).unlink(missing_ok=True)


def hash_path(path: Path) -> Path:
    """Return the path of the hash file of ``path``."""
    return path.with_name(path.name + ".sha256")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def recorded_hash(path: Path) -> str | None:
    """Return the hash stored in the hash file of ``path``, or None if there is no hash file."""
    try:
        words = hash_path(path).read_text(errors="replace").split()
    except FileNotFoundError:
        return None
    return words[0] if words else ""


class _HashingWriter:
    """A write-only sequential file that hashes its content."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _temporary_path(path: Path) -> Path:
    # In the same folder, because a rename is atomic only within one file system. The name is
    # fixed, so the next run overwrites the leftover of a killed run.
    return path.with_name(f".{path.name}.tmp")


def _flush_to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    if hasattr(os, "posix_fadvise"):
        # Drop the file from the page cache, so the next reader sees what is on the disk.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _flush_folder(folder: Path) -> None:
    # A rename changes the folder, and is lost in a power failure unless the folder is synced.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
