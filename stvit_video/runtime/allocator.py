"""What glibc's allocator does with the memory that a process frees."""

import ctypes

# mallopt(3): blocks above the one size are mapped one by one, and a top of the heap above the
# other is given back.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_SMALL, _LARGE, _LARGEST = 1 << 20, 1 << 30, (1 << 31) - 1


def return_freed_memory() -> bool:
    """Let this process give back at once what it frees in large blocks.

    By default glibc raises its limit of "large" with every block that is freed, and what lies
    below stays in a heap that only grows: a worker that decodes videos of many sizes then takes
    up more and more.

    Returns:
        Whether the C library is one that can be told.
    """
    return _set_limits(_SMALL, _SMALL)


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next tensors.

    By default glibc gives large blocks back to the kernel at once, and the next pass of a model
    faults them in again, page by page: a sixth of the time of a Video Swin on the CPU. A CUDA
    device's memory has an allocator of torch's own, which keeps it anyway.

    Returns:
        Whether the C library is one that can be told.
    """
    return _set_limits(_LARGE, _LARGEST)


def give_back_freed_memory() -> None:
    """Give the kernel back what is free now, so that the process' size shows what it uses."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _set_limits(mapped: int, trimmed: int) -> bool:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    is_told = libc.mallopt(_M_MMAP_THRESHOLD, mapped), libc.mallopt(_M_TRIM_THRESHOLD, trimmed)
    return all(is_told)
