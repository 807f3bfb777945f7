"""Reads weight files, each in a process of its own: python reading.py MEMORY < paths > one JSON line a file."""
import json
import os
import resource
import sys
from pathlib import Path

import numpy as np

from transferlit.errors import BadFile
from transferlit.formats import open_weights


def outcome(path):
    """What reading everything in a file came to."""
    try:
        with open_weights(path) as weights:
            for stored in weights.values():
                np.asarray(stored)
            repr(weights)
        return "read"
    except BadFile as error:
        return f"refused: {str(error)[:300]}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:300]}"


def read(path, memory):
    """Outcome and seconds of computing, with so much memory beyond what this process has already."""
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory,) * 2)
        os.write(send, outcome(path).encode())
        os._exit(0)
    os.close(send)
    with open(receive, "rb") as pipe:
        said = pipe.read().decode()
    _, status, usage = os.wait4(child, 0)
    return said if status == 0 else f"died: {status}", usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    for path in sys.stdin.read().splitlines():
        said, seconds = read(path, int(sys.argv[1]))
        print(json.dumps([Path(path).name, said, round(seconds, 2)]), flush=True)
