"""What holds for the whole process: how many threads compute, with which instructions, and what a fork leaves."""

from __future__ import annotations

import math
import os
import platform
import sys
from functools import cache
from pathlib import Path

from redline.errors import ConfigError, RedlineError

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_computed_in: int | None = None  # the process that first computed, which a forked child remembers too


def available_threads() -> int:
    """CPUs that this process may use: those it may run on, and no more than its cgroups (v1 or v2) grant.

    Half a CPU more is worth no thread: with 2 threads on a quota of 1.5 one would wait for the other most of the time.
    """
    sched_getaffinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    cpus = len(sched_getaffinity(0)) if sched_getaffinity else os.cpu_count() or 1
    return max(1, int(min(cpus, _quota(_CGROUPS, _MEMBERSHIP))))


def use(threads: int | None = None) -> int:
    """Compute with so many threads; with None, with no more than are available. Returns how many that are.

    Raises `ConfigError` for less than one.
    """
    import torch

    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ConfigError(f"threads is {threads!r}; allowed are 1 and above, or None for as many as are available")
    count = threads or min(torch.get_num_threads(), available_threads())
    if count != torch.get_num_threads():
        torch.set_num_threads(count)
    return count


def pin_kernels() -> None:
    """Keep MKL from adding up by the number of rows; call it before the first product, which reads this.

    Its strict mode (Intel's processors only) has one order for all, as fast. What the user has set stays.
    """
    import torch

    instructions = torch.backends.cpu.get_cpu_capability()
    if instructions in ("AVX2", "AVX512") and _is_intel():
        os.environ.setdefault("MKL_CBWR", f"{instructions},STRICT")


def has_bf16() -> bool:
    """Whether oneDNN computes in bfloat16 here; without it products are many times slower than in float32."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def multiplies_bf16() -> bool:
    """Whether the processor itself multiplies bfloat16; for others with AVX-512 oneDNN does, slower than float32."""
    import torch

    return has_bf16() and (platform.machine() not in ("x86_64", "AMD64") or torch.cpu._is_avx512_bf16_supported())


@cache
def has_amx() -> bool:
    """Whether oneDNN multiplies tiles of bfloat16 by AMX, which for some numbers of rows adds up in another order."""
    import torch

    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    return torch.cpu._is_amx_tile_supported() and ("AMX" in allowed or allowed in ("ALL", "DEFAULT"))


def peak_memory_mib() -> int:
    """The most memory that this process has had."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20


def check_fork() -> None:
    """Called wherever computing begins. Raises `RedlineError` in a forked process, where it would wait for ever.

    A fork copies no threads but the calling one, and OpenMP in the child waits for those that it had in the parent.
    One thread waits for nobody.
    """
    global _computed_in
    import torch

    if _computed_in is None:
        _computed_in = os.getpid()
    elif _computed_in != os.getpid() and torch.get_num_threads() > 1:
        raise RedlineError(
            f"this process ({os.getpid()}) was forked from one that had already used a model ({_computed_in}), and "
            "PyTorch's threads do not survive that: start workers with 'spawn', or load the first model after the "
            "fork, or compute with one thread in each worker (torch.set_num_threads(1)); see docs/processes.md"
        )


def _is_intel() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return "GenuineIntel" in (cpuinfo.read_text(errors="replace") if cpuinfo.exists() else platform.processor())


def _quota(root: Path, membership: Path) -> float:
    """The least number of CPUs that a cgroup of this process, or one above it, grants; infinite without a limit."""
    # In a container the membership may name a place outside of what is mounted; the mount is then the group itself.
    groups = {root, root / "unified", root / "cpu", root / "cpu,cpuacct"}
    for line in _lines(membership):
        _, controllers, place = line.split(":", 2) if line.count(":") >= 2 else ("", "-", "")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in [root / controllers, root / "cpu"] if controllers else [root, root / "unified"]:
            folder = mount / place.strip("/")
            groups |= {group for group in (folder, *folder.parents) if group == mount or mount in group.parents}
    return min(map(_granted, groups))


def _granted(folder: Path) -> float:
    """CPUs that one cgroup grants."""
    v2 = " ".join(_lines(folder / "cpu.max")).split()  # quota and period, or max
    v1 = [" ".join(_lines(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period")]  # or -1
    for parts in (v2, v1):
        try:
            quota, period = (int(part) for part in parts)
        except ValueError:
            continue
        if quota > 0 and period > 0:
            return quota / period
    return math.inf


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
