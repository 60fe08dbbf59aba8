"""Where and with what a run was made: the header of every result."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

FLAGS = ("amx_int8", "amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "avx2", "asimddp", "i8mm", "bf16")
PACKAGES = ("torch", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "pydantic", "tokenizers")


def describe_host() -> dict[str, Any]:
    """Hardware, versions, commit. The load average says whether the machine was quiet."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_field("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in FLAGS if flag in (_cpu_field("flags") or _cpu_field("Features") or "").split()],
        "load_average": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def cpu_slug(cpu: str) -> str:
    """A processor's name in a file name."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)", "", cpu.lower())).strip("-")


def _cpu_field(name: str) -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    found = re.search(rf"^{name}\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else None


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        ).stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + (" with changes" if git("status", "--porcelain") else "")
