"""Pages of memory: those of weights in a file, given back while they are not read, and large ones."""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import mmap
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from torch import Tensor, nn

_MAPS, _PAGEMAP = Path("/proc/self/maps"), Path("/proc/self/pagemap")
_PAGE_ENTRY = 8
_FILES_OWN = bytes(kind for kind in range(256) if kind & 0b0010_0000 or not kind & 0b1100_0000)
"""Highest bytes of entries of pages that are the file's, or not there: present 128, swapped out 64, the file's 32."""
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
    files = unwritten_files(model.parameters())

    def give_back(module: nn.Module, *_: Any) -> None:
        release_file_pages(module.parameters(recurse=False), files)

    hooks = [one.register_forward_hook(give_back) for one in model.modules()] if files else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def files_worth_releasing(tensors: Iterable[Tensor]) -> Ranges:
    """`unwritten_files`; none for less than 16 MiB of tensors, which have less to give back than the search takes."""
    tensors = list(tensors)
    held = sum(one.numel() * one.element_size() for one in tensors)
    return unwritten_files(tensors) if held >= _WORTH else []


def unwritten_files(tensors: Iterable[Tensor]) -> Ranges:
    """Addresses of those mapped files in which tensors lie, as long as no page of them is a copy of this process: giving such
    a copy back would lose it. Empty where the system does not say what is mapped (elsewhere than on Linux).
    """
    places = sorted({one.data_ptr() for one in tensors})
    try:
        with _PAGEMAP.open("rb") as pages:
            return [one for one in _files() if _holds(one, places) and not _is_written(pages, *one)]
    except (OSError, UnicodeDecodeError):
        return []


def lies_in(tensor: Tensor, files: Ranges) -> bool:
    """Whether a tensor is mapped from one of these files."""
    return any(start <= tensor.data_ptr() < end for start, end in files)


def _files() -> Iterator[tuple[int, int]]:
    for line in _MAPS.read_text(encoding="utf-8").splitlines():
        place, rights, *rest = line.split(maxsplit=5)
        if (
            len(rest) == 4
            and rest[3].startswith("/")
            and not rest[3].endswith("(deleted)")
            and "x" not in rights
        ):
            start, _, end = place.partition("-")
            yield int(start, 16), int(end, 16)


def _holds(place: tuple[int, int], addresses: list[int]) -> bool:
    start, end = place
    at = bisect.bisect_left(addresses, start)
    return at < len(addresses) and addresses[at] < end


def _is_written(pages: BinaryIO, start: int, end: int) -> bool:
    """Whether a page is there, in memory or swapped out, that is not the file's."""
    pages.seek(start // mmap.PAGESIZE * _PAGE_ENTRY)
    size = (end - start) // mmap.PAGESIZE * _PAGE_ENTRY
    entries = pages.read(size)
    kinds = memoryview(entries)[_PAGE_ENTRY - 1 :: _PAGE_ENTRY].tobytes()  # the highest byte of each
    return len(entries) < size or bool(kinds.translate(None, _FILES_OWN))


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


def return_freed_memory() -> None:
    """Give the system what this process has freed but glibc keeps, which is most of what large tensors leave behind in between
    smaller ones. Takes some milliseconds; does nothing with another C library.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _advise(address: int, length: int, advice: int) -> bool:
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is None:
        return False
    return madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), advice) == 0
