"""The description of the machine is correct and complete, and contains no names."""

import getpass
import json
import os
import platform
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from minigpt.training import machine


def test_describes_processor_software_and_threads() -> None:
    facts = machine.describe(threads=3)
    assert {"processor", "cores", "platform", "python", "numpy", "blas", "threads"} <= facts.keys()
    assert facts["threads"] == 3
    assert facts["cores"] == machine.available_cores()
    assert (facts["python"], facts["numpy"]) == (platform.python_version(), np.__version__)
    assert all(value not in ("", None, "unknown") for value in facts.values())
    assert json.loads(json.dumps(facts)) == facts


def test_contains_no_user_host_or_path() -> None:
    text = " ".join(str(value) for value in machine.describe(threads=1).values())
    words = re.split(r"[^\w.-]+", text)
    assert platform.node() not in words
    assert getpass.getuser() not in words
    assert sys.prefix not in text
    assert str(Path(np.__file__).parents[1]) not in text


def test_the_builder_of_the_kernel_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "6.1.0-alice-laptop")
    assert "alice" not in str(machine.describe(threads=1)["platform"])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot bind a process to cores")
def test_cores_are_those_that_the_process_may_use() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert machine.available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert machine.available_cores() == len(before)


def test_blas_threads_are_the_current_limit() -> None:
    if "blas_threads" not in machine.describe(threads=1):
        pytest.skip("threadpoolctl does not know this BLAS")
    with threadpool_limits(1, user_api="blas"):
        assert machine.describe(threads=4)["blas_threads"] == 1


def test_a_blas_that_threadpoolctl_does_not_support_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threadpoolctl.threadpool_info", list)
    facts = machine.describe(threads=1)
    assert facts["blas"]
    assert "blas_threads" not in facts


def test_the_processor_name_is_read_from_cpuinfo_if_it_exists(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Quill 9 @ 2 GHz: fast\nmodel name\t: other\n", encoding="utf-8")
    assert machine._linux_processor(cpuinfo) == "Quill 9 @ 2 GHz: fast"
    cpuinfo.write_text("processor\t: 0\nBogoMIPS\t: 48.00\n", encoding="utf-8")
    assert machine._linux_processor(cpuinfo) == ""
    assert machine._linux_processor(tmp_path / "missing") == ""


def test_unknown_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError("no answer")

    monkeypatch.setattr(machine, "_memory_bytes", refuse)
    assert "memory_gib" not in machine.describe(threads=1)
