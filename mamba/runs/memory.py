"""How much memory computations may take, and whether a device ran out of it."""

from __future__ import annotations

import math
import os
from pathlib import Path

import jax


def out_of_memory(error: Exception) -> bool:
    """Whether a device says that its memory does not do."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def free_memory() -> float:
    """Bytes that computations may take, over all local devices; infinite where nobody says."""
    told = [device.memory_stats() for device in jax.local_devices()]
    if all(each and "bytes_limit" in each for each in told):
        return float(sum(each["bytes_limit"] - each.get("bytes_in_use", 0) for each in told if each))
    return min(_of_machine(), of_control_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")))


def _of_machine() -> float:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            facts = dict(line.split(":", 1) for line in file)
        return 1024.0 * float(facts["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return math.inf


def of_control_groups(own: Path, mounted: Path) -> float:
    """Bytes that the control groups of this process, a container or a job of a cluster, leave it; infinite where none says.

    Args:
        own: the file that names the groups of this process.
        mounted: where they are mounted.

    References:
        Documentation of the Linux kernel, admin-guide/cgroup-v1/memory.rst and admin-guide/cgroup-v2.rst.
    """
    try:
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return math.inf
    left = [math.inf]
    for controllers, path in (line.split(":", 2)[1:] for line in lines if line.count(":") >= 2):
        if not controllers:
            root, limit, used = mounted, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, used = mounted / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        # A group may take no more than those that it is part of. In a container its path is that of the host, and not there.
        groups = [each for each in (group, *group.parents) if each.is_relative_to(root)]
        left += [_left(each, limit, used) for each in groups]
    return min(left)


def _left(group: Path, limit: str, used: str) -> float:
    """Bytes that one group leaves; infinite where it sets no limit."""
    try:
        most, taken = (float((group / name).read_text(encoding="ascii")) for name in (limit, used))
        facts = dict(line.split(" ", 1) for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        files = float(facts.get("total_inactive_file", facts.get("inactive_file", 0)))
    except (OSError, ValueError):  # `max` is no number either
        return math.inf
    return max(0.0, most - taken + files)  # what was read of files is given up before memory runs out
