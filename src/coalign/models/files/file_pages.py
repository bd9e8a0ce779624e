"""Pages of memory: those of weights in a file, given back while they are not read, and large ones."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_SMAPS = Path("/proc/self/smaps")
_LARGE = 2**21
_WORTH = 2**24
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25  # Linux's numbers; the second from 6.1 on


Ranges = list[tuple[int, int]]
"""First and last address, the last one left out."""


def release_file_pages(tensors: Iterable[Tensor], files: Ranges) -> int:
    """Give back the memory of tensors that are mapped from files. Returns how many bytes.

    Their contents stay: the next look reads the file's pages, which the system mostly still holds. Nothing happens to other
    tensors.

    Args:
        files: of `unwritten_files` or `files_worth_releasing`; what lies there must not have been written since.
    """
    given_back = 0
    for one in tensors:
        low, high = one.data_ptr(), one.data_ptr() + one.numel() * one.element_size()
        for start, end in files:
            first = -(-max(low, start) // mmap.PAGESIZE) * mmap.PAGESIZE
            last = min(high, end) // mmap.PAGESIZE * mmap.PAGESIZE
            if first < last and _advise(first, last - first, mmap.MADV_DONTNEED):
                given_back += last - first
    return given_back


@contextlib.contextmanager
def frugal(model: nn.Module) -> Iterator[None]:
    """Inside the block every module of `model` gives the pages of its own weights back once it has computed."""
    files = unwritten_files()

    def give_back(module: nn.Module, *_: Any) -> None:
        release_file_pages(module.parameters(recurse=False), files)

    hooks = [one.register_forward_hook(give_back) for one in model.modules()] if files else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def files_worth_releasing(model: nn.Module) -> Ranges:
    """`unwritten_files`; none for a model below 16 MiB, which has less to give back than the search takes."""
    held = sum(one.numel() * one.element_size() for one in model.parameters())
    return unwritten_files() if held >= _WORTH else []


def unwritten_files() -> Ranges:
    """Addresses of mapped files no page of which is a copy of this process: giving such a copy back would lose it. Empty
    where the system does not say what is mapped (elsewhere than on Linux).
    """
    found: Ranges = []
    try:
        lines = _SMAPS.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return found
    place: tuple[int, int] | None = None
    for line in lines:
        name, *values = line.split(maxsplit=5)
        if name.endswith(":"):
            if name == "Anonymous:" and place is not None and values[0] == "0":
                found.append(place)
        else:
            start, _, end = name.partition("-")
            in_file = len(values) == 5 and values[4].startswith("/") and not values[4].endswith("(deleted)")
            place = (int(start, 16), int(end, 16)) if in_file and "x" not in values[0] else None
    return found


def gather_pages(ranges: Ranges) -> None:
    """Let memory of this process that is not mapped from a file lie in pages of 2 MiB where Linux can gather it: what is read
    from end to end is read faster. Its contents and addresses stay.
    """
    joined: Ranges = []
    for start, end in sorted(ranges):
        if joined and start - joined[-1][1] <= mmap.PAGESIZE:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    for start, end in joined if sys.platform == "linux" else []:
        first, last = -(-start // _LARGE) * _LARGE, end // _LARGE * _LARGE
        if first < last and _advise(first, last - first, _MADV_HUGEPAGE):
            _advise(first, last - first, _MADV_COLLAPSE)


def _advise(address: int, length: int, advice: int) -> bool:
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is None:
        return False
    return madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), advice) == 0
