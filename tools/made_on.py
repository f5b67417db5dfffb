"""What a figure is of: the commit of this checkout, and the machine."""

import platform
import subprocess
from pathlib import Path


def made_on():
    here = Path(__file__).resolve().parent
    command = ["git", "-C", here, "describe", "--always", "--dirty", "--abbrev=9"]
    commit = subprocess.run(command, check=True, capture_output=True, text=True)
    processor = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    machine = processor[0] if processor else platform.machine()
    return {"commit": commit.stdout.strip(), "processor": machine}
