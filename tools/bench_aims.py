"""What clonefs has to reach against the native directory, row by row: the one place for it.

DISK: on a file system on a disk; MEMORY: on one in memory, where only the file system's own cost is
seen. WHY: the paragraph of docs/BENCHMARK.md that says what a row below its aim costs.
"""
import math

DATA, METADATA = "data", "metadata"


class Row:
    def __init__(self, kind, why, disk=None, memory=None, read=False):
        self.kind = kind
        self.why = why
        self.aim = {"disk": disk, "memory": memory}
        self.read = read  # also measured on a drained clone


def everywhere(kind, why, aim, read=False):
    return Row(kind, why, aim, aim, read)


ROWS = {
    "write 1M, new file": everywhere(DATA, "pages", 0.9),
    "write 1M, new file + fsync": Row(DATA, "pages", 0.95),
    "write 4K, new file": everywhere(DATA, "pages", 0.9),
    "rewrite 1M": everywhere(DATA, "pages", 0.9),
    "rewrite 1M + fsync": Row(DATA, "pages", 0.95),
    "rewrite 4K random": everywhere(DATA, "pages", 0.9),
    "rewrite 4K random, 4 threads": everywhere(DATA, "pages", 0.9),
    "rewrite 4K random + fsync": Row(DATA, "write-back", 0.8),
    "rewrite 4K random, fdatasync each": Row(DATA, "round trip", 0.8),
    "read 1M cached": everywhere(DATA, "pages", 0.95, read=True),
    "read 4K random cached": everywhere(DATA, "pages", 0.95, read=True),
    "read 4K random cached, 4 threads": everywhere(DATA, "pages", 0.95, read=True),
    "read 1M cold": Row(DATA, "read-ahead", 0.95, read=True),
    "read 4K random cold": Row(DATA, "round trip", read=True),
    "O_DIRECT write 1M": Row(DATA, "round trip", 0.8),
    "O_DIRECT write 4K random": Row(DATA, "round trip", 0.8),
    "O_DIRECT read 1M": Row(DATA, "round trip", 0.8, read=True),
    "O_DIRECT read 4K random": Row(DATA, "round trip", 0.8, read=True),
    "O_DIRECT read 4K random, 4 threads": Row(DATA, "round trip", 0.8, read=True),
    "mmap read 4K random": everywhere(DATA, "faults", 0.95, read=True),
    "mmap write 4K random + msync": Row(DATA, "faults"),
    "create": Row(METADATA, "requests", 0.5),
    "rename": Row(METADATA, "requests", 0.5),
    "unlink": Row(METADATA, "requests", 0.5),
    "mkdir": Row(METADATA, "requests", 0.5),
    "stat hot": everywhere(METADATA, "hot names", 0.95, read=True),
    "stat cold": Row(METADATA, "cold names", 0.5, read=True),
    "open+read+close": Row(METADATA, "requests", read=True),
    "readdir": everywhere(METADATA, "hot names", 0.95, read=True),
    "readdir cold": Row(METADATA, "cold names", 0.5, read=True),
    "tar x": Row(METADATA, "requests"),
    "rm -r": Row(METADATA, "requests"),
    "rsync": Row(METADATA, "requests"),
    "rsync, nothing new": Row(METADATA, "requests"),
    "git status": Row(METADATA, "hot names", read=True),
    "git status cold": Row(METADATA, "cold names", 0.5, read=True),
    "find": Row(METADATA, "hot names", read=True),
    "find cold": Row(METADATA, "cold names", 0.5, read=True),
    "du": Row(METADATA, "hot names", read=True),
    "du cold": Row(METADATA, "cold names", 0.5, read=True),
}
CLONE_AIM = 0.95
GEOMEANS = {DATA: {"disk": None, "memory": 0.7}, METADATA: {"disk": None, "memory": 0.4}}
# A peer is ahead when it is so by more than the noise of a median of three.
AHEAD = 1.05


def geomean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None
