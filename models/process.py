"""How this process uses the machine: settings that must be made before torch is imported."""

import ctypes
import gc
import io
import math
import os
import sys
from pathlib import Path


def prepare_process() -> None:
    """Call first, before anything imports torch. What the user has set in the environment stays.

    - OpenMP threads that wait by spinning keep a core from whoever else needs it (another process, the event loop):
      with one of two cores busy, a step's 90th percentile grew from 6 to 211 ms; let them spin briefly, then sleep.
    - glibc hands large blocks back to the kernel as soon as they are freed, and every training step would fault the
      same pages in again: keep them. Each thread has a heap of its own besides, and what one has freed serves no
      other, nor can it be handed back whole: after large requests a server held 375 MB in several heaps, 243 in one.
    - A terminal that is not UTF-8 shows a replacement for what it has not: no sample may end a training.
    - A thread that wants the interpreter waits up to 5 ms for another that computes, many steps of a network; let it
      have its turn sooner.
    """
    sys.setswitchinterval(0.0005)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if libc := _glibc():
        m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8
        libc.mallopt(m_arena_max, 1)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def release_memory() -> None:
    """Hand back to the system what is free. Call now and then where large blocks of many sizes come and go: they leave
    holes that the next ones do not fit into, and what `prepare_process` keeps grows by tens of MB a minute."""
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def cores() -> int:
    """Cores that this process may use: of those that it may run on, as many as its control group lets it fill."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota())))


def memory_limit(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Bytes that this process may fill: those of the machine, fewer where a control group (version 2) says so; infinity
    where neither is known."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    try:
        group = own.read_text(encoding="utf-8").rpartition("0::/")[2].strip()
    except OSError:
        return machine
    return min(machine, *map(_memory_max, [root / group, *(root / group).parents]))


def _memory_max(folder: Path) -> float:
    try:
        return float((folder / "memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return math.inf


def _quota(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores that the control group of this process may fill (version 2, then version 1); infinity without a limit."""
    try:
        quota, period = (root / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text("ascii") for name in ("quota", "period"))
        except OSError:
            return math.inf
    try:
        cores = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):  # "max": no limit
        return math.inf
    return cores if cores > 0 else math.inf


def settle_process() -> None:
    """Call when everything is loaded that a server needs. What is there by now stays: the collector of cycles need not
    look at it again, which had taken a quarter of a small request's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
