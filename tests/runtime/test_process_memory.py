"""In processes of their own, because the setting is for the whole of one."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stvit_video.runtime.process import keep_freed_memory, trim_memory

MEBIBYTES = 64
OTHER_LIBRARY = 3


def resident_pages():
    return int(Path("/proc/self/statm").read_text().split()[1])


def faults_of_large_tensors():
    """Pages faulted in by ten tensors, one after another, in a process that had ten before."""
    for index in range(20):
        if index == 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.zeros(MEBIBYTES << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def main():
    pages = (MEBIBYTES << 20) // resource.getpagesize()
    faults = faults_of_large_tensors()
    if not keep_freed_memory():
        sys.exit(OTHER_LIBRARY)
    assert faults_of_large_tensors() < 0.5 * faults
    kept = resident_pages()
    trim_memory()
    assert resident_pages() < kept - 0.9 * pages


def test_a_process_keeps_what_it_frees_until_told_otherwise():
    run = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False)
    if run.returncode == OTHER_LIBRARY:
        pytest.skip("another C library than glibc")
    assert run.returncode == 0, run.stderr


if __name__ == "__main__":
    main()
