"""How many CPUs this process may use."""

import math
import os
import sys
from pathlib import Path
from typing import Final

__all__ = ["available_cpus"]

_GROUPS: Final = Path("/sys/fs/cgroup")
_OURS: Final = Path("/proc/self/cgroup")


def available_cpus(groups: Path = _GROUPS, ours: Path = _OURS) -> int:
    """Return how many CPUs this process may use, at least 1; of a quota of 1.5 it is 2. Only Linux tells: else it is 1.

    Counts are those that ``taskset`` and the like leave it, and the quota of its control group, as containers have one.
    """
    if sys.platform != "linux":
        return 1
    return min([len(os.sched_getaffinity(0)), *map(math.ceil, _quotas(groups, ours))])


def _quotas(groups: Path, ours: Path) -> list[float]:
    """Return the quotas, in CPUs, of the process' control group and of those around it."""
    found: list[float] = []
    for line in _read(ours).splitlines():
        number, kinds, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not kinds:
            root, read = groups, _unified
        elif "cpu" in kinds.split(","):
            root, read = groups / "cpu", _divided
        else:
            continue
        # In a container its own group is the root, under whichever path the system outside knows it.
        inside = root / path.strip("/")
        around = [inside, *inside.parents] if inside.is_dir() else [root]
        found += [read(folder) for folder in around if folder.is_relative_to(root)]
    return [quota for quota in found if quota]


def _unified(folder: Path) -> float:
    quota, period = ([*_read(folder / "cpu.max").split(), "", ""])[:2]
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else 0


def _divided(folder: Path) -> float:
    quota, period = (_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else 0


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
