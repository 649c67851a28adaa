"""What a run was measured on: processor, cores, memory, NumPy and its BLAS; never who, which host or which folder."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np


def available_cores() -> int:
    """The number of cores this process may use, which a container or `taskset` can make fewer than the machine has.

    >>> available_cores() >= 1
    True
    """
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe(threads: int) -> dict[str, str | int | float]:
    """Describe this machine in a few plain facts; `threads` is the number of threads the run computes with.

    Memory is in GiB and left out where the system does not tell; `blas_threads` is what BLAS would use at the moment of
    the call, left out for a BLAS that threadpoolctl does not know (Apple's Accelerate).

    >>> describe(threads=2)["threads"]
    2
    """
    # A kernel's release may carry the name of who built it after the first hyphen ("6.1.0-acme3").
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
    """The first "model name"; empty on boards that list none (many ARM ones)."""
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
    """Bytes of memory that this machine has, 0 where it does not tell."""
    try:
        return _memory_bytes()
    except (OSError, ValueError, AttributeError):  # the system has no such call, or does not answer it
        return 0


def _memory() -> dict[str, float]:
    found = machine_memory()
    return {"memory_gib": round(found / 2**30, 1)} if found else {}


def _memory_bytes() -> int:
    if sys.platform == "win32":
        import ctypes

        kibibytes = ctypes.c_ulonglong()
        if not ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kibibytes)):
            raise ctypes.WinError()
        return kibibytes.value * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _blas() -> dict[str, str | int]:
    """NumPy's BLAS as it runs here, or, where threadpoolctl cannot see it, as NumPy was built."""
    from threadpoolctl import threadpool_info

    # NumPy's is the first of several: whatever else brings a BLAS (torch, scipy) is loaded after NumPy.
    for library in threadpool_info():
        if library["user_api"] == "blas":
            kernels = f" ({library['architecture']})" if library.get("architecture") else ""
            version = library["version"] or "of unknown version"
            return {"blas": f"{library['internal_api']} {version}{kernels}", "blas_threads": library["num_threads"]}
    built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {"blas": f"{built['name']} {built['version']}".replace("unknown", "").strip()}
