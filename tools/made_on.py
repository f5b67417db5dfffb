"""What a figure is of: the commit of this checkout, and the machine."""

import platform
import subprocess
from pathlib import Path


def made_on():
    here = Path(__file__).resolve().parent

    def git(*words):
        command = ["git", "-C", here, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    commit = git("describe", "--always", "--abbrev=9")
    # Results that were written before are no part of what the next are of.
    if git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/benches/results"):
        commit += "-dirty"
    processor = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    machine = processor[0] if processor else platform.machine()
    return {"commit": commit, "processor": machine}
