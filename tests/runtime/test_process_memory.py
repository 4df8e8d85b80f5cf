"""Test keep_freed_memory and trim_memory in a subprocess, because they affect the whole process."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stvit_video.runtime.process import keep_freed_memory, trim_memory

MEBIBYTES = 64
UNSUPPORTED = 3


def resident_pages():
    return int(Path("/proc/self/statm").read_text().split()[1])


def page_faults_of_large_tensors():
    """Return the page faults of ten successive tensors, after ten that warm up."""
    for index in range(20):
        if index == 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.zeros(MEBIBYTES << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def main():
    pages = (MEBIBYTES << 20) // resource.getpagesize()
    faults = page_faults_of_large_tensors()
    if not keep_freed_memory():
        sys.exit(UNSUPPORTED)
    assert page_faults_of_large_tensors() < 0.5 * faults
    kept = resident_pages()
    trim_memory()
    assert resident_pages() < kept - 0.9 * pages


def test_freed_memory_is_kept_until_trimmed():
    run = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False)
    if run.returncode == UNSUPPORTED:
        pytest.skip("needs glibc")
    assert run.returncode == 0, run.stderr


if __name__ == "__main__":
    main()
