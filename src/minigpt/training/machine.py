"""Describe this machine: processor, cores, memory, NumPy and BLAS, but no names of users, hosts or folders."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np


def available_cores() -> int:
    """Return the number of cores that this process may use. A container or `taskset` can limit it.

    >>> available_cores() >= 1
    True
    """
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe(threads: int) -> dict[str, str | int | float]:
    """Return a description of this machine. `threads` is the number of threads of the run.

    `memory_gib` is missing if the memory is unknown. `blas_threads` is the number of threads that BLAS uses at the moment
    of the call; it is missing if threadpoolctl does not support the BLAS (Apple's Accelerate).

    >>> describe(threads=2)["threads"]
    2
    """
    # After the first hyphen, the release of a kernel can contain the name of its builder ("6.1.0-acme3").
    release = platform.release().split("-")[0]
    return {
        "processor": _processor(),
        "cores": available_cores(),
        **_memory(),
        "platform": f"{platform.system()} {release}, {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        **_blas(),
        "threads": threads,
    }


def _processor() -> str:
    name = _linux_processor() if sys.platform == "linux" else _mac_processor() if sys.platform == "darwin" else ""
    return name or platform.processor() or platform.machine() or "unknown"


def _linux_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the first "model name", or an empty string if there is none (many ARM boards)."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _mac_processor() -> str:
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def machine_memory() -> int:
    """Return the memory of this machine in bytes, or 0 if it is unknown."""
    try:
        return _memory_bytes()
    except (OSError, ValueError, AttributeError):  # the system does not support the call
        return 0


def _memory() -> dict[str, float]:
    memory = machine_memory()
    return {"memory_gib": round(memory / 2**30, 1)} if memory else {}


def _memory_bytes() -> int:
    if sys.platform == "win32":
        import ctypes

        kibibytes = ctypes.c_ulonglong()
        if not ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kibibytes)):
            raise ctypes.WinError()
        return kibibytes.value * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _blas() -> dict[str, str | int]:
    """Return the name of the BLAS that NumPy has loaded or, if threadpoolctl does not support it, was built with."""
    from threadpoolctl import threadpool_info

    # The first BLAS is NumPy's: other packages that bring their own (torch, scipy) are loaded after NumPy.
    for library in threadpool_info():
        if library["user_api"] == "blas":
            kernels = f" ({library['architecture']})" if library.get("architecture") else ""
            version = library["version"] or "(unknown version)"
            return {"blas": f"{library['internal_api']} {version}{kernels}", "blas_threads": library["num_threads"]}
    built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {"blas": f"{built['name']} {built['version']}".replace("unknown", "").strip()}
