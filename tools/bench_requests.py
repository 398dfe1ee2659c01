"""Part requests: how many requests the kernel sends to the daemon for an operation of a program.

Counted by the kernel's own trace point, in a trace instance of our own, for one mount.
"""
import collections
import os
import re
import shutil

import bench_systems
from bench_live import mount_all
from bench_places import Missing, end_mount, make_tree, run, syncfs
from bench_systems import CLONEFS, FUSE_PEERS, NATIVE, OVERLAYFS
from bench_table import Table, progress

OPERATIONS = 100


class Trace:
    """Requests of the FUSE mount at PATH; for closing in WORK's order."""

    def __init__(self, work):
        self.root = os.path.join(work.images, "trace")
        self.instance = os.path.join(self.root, "instances", f"clonefs-bench-{os.getpid()}")
        os.mkdir(self.root)
        run("mount", "-t", "tracefs", "tracefs", self.root)
        work.open.append(self)
        self.event = os.path.join(self.instance, "events/fuse/fuse_request_send")
        os.mkdir(self.instance)
        if not os.path.isdir(self.event):
            raise Missing("this kernel has no trace point for FUSE requests (it came with 6.12)")
        self.set("buffer_size_kb", "16384")
        self.set(os.path.join(self.event, "enable"), "1")

    def set(self, name, value):
        with open(os.path.join(self.instance, name), "w", encoding="utf-8") as file:
            file.write(value)

    def count(self, path, operation):
        """Requests by name while OPERATION() runs."""
        st = os.stat(path)
        device = os.major(st.st_dev) << 20 | os.minor(st.st_dev)  # as the kernel keeps it
        self.set(os.path.join(self.event, "filter"), f"connection == {device}")
        self.set("tracing_on", "1")
        self.set("trace", "")
        try:
            operation()
        finally:
            self.set("tracing_on", "0")
        found = collections.Counter()
        with open(os.path.join(self.instance, "trace"), encoding="utf-8") as file:
            for line in file:
                if match := re.search(r"\(FUSE_(\w+)\)", line):
                    found[match.group(1)] += 1
        return found

    def close(self):
        if os.path.isdir(self.instance):
            os.rmdir(self.instance)
        end_mount(self.root)


class Program:
    """What is counted, in directory TOP of a system; each is a method, in this order."""

    def __init__(self, top, tree):
        self.top = top
        self.tree = tree

    def each(self, once):
        for n in range(OPERATIONS):
            once(f"{self.top}/{n}")

    def create_write_close(self):
        def once(path):
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            os.write(fd, b"x" * 1024)
            os.close(fd)
        self.each(once)

    def stat_hot(self):
        self.each(os.stat)

    def open_read_close(self):
        def once(path):
            fd = os.open(path, os.O_RDONLY)
            os.read(fd, 4096)
            os.close(fd)
        self.each(once)

    def write_4k(self, then=lambda fd: None):
        fd = os.open(f"{self.top}/0", os.O_WRONLY)
        for n in range(OPERATIONS):
            os.pwrite(fd, b"x" * 4096, n * 4096)
            then(fd)
        os.close(fd)

    def write_4k_fdatasync(self):
        self.write_4k(os.fdatasync)

    def stat_after_write(self):
        self.write_4k(os.fstat)

    def rename(self):
        self.each(lambda path: os.rename(path, path + "r"))

    def unlink(self):
        self.each(lambda path: os.unlink(path + "r"))

    def mkdir(self):
        self.each(os.mkdir)

    def rmdir(self):
        self.each(os.rmdir)

    def tar_x(self):
        run("tar", "-xf", f"{self.tree}.tar", "-C", self.top)

    def find(self):
        run("find", self.top)

    def du_hot(self):
        run("du", "-s", self.top)

    def rsync_nothing_new(self):
        run("rsync", "-a", f"{self.tree}/", f"{self.top}/")

    def rm_r(self):
        shutil.rmtree(f"{self.top}/0")

    def rsync(self):
        run("rsync", "-a", f"{self.tree}/0", f"{self.top}/")

    OPERATIONS = [
        ("create + write 1 KiB + close", create_write_close), ("stat", stat_hot),
        ("open + read + close", open_read_close), ("write 4 KiB", write_4k),
        ("write 4 KiB + fdatasync", write_4k_fdatasync), ("write 4 KiB + stat", stat_after_write),
        ("rename", rename), ("unlink", unlink), ("mkdir", mkdir), ("rmdir", rmdir),
        ("tar x, a file", tar_x), ("find, a file", find), ("du, a file", du_hot),
        ("rsync, nothing new, a file", rsync_nothing_new), ("rm -r, a file", rm_r),
        ("rsync, a file", rsync)]


def part_requests(work, p):
    if os.geteuid() != 0:
        raise Missing("counting requests needs root")
    trace = Trace(work)
    # One directory: what is counted for it is negligible for a file.
    tree = os.path.join(work.images, "counted")
    os.mkdir(tree)
    make_tree(tree, OPERATIONS, 1024)
    run("tar", "-cf", f"{tree}.tar", "-C", tree, ".")
    wanted = [name for name in p.systems if name == CLONEFS or name in FUSE_PEERS]
    systems, missing = mount_all(work, p, wanted, lambda path: os.mkdir(f"{path}/top"))
    table = Table(
        "Requests of the kernel to the daemon for one operation",
        ["operation", *(s.name for s in systems), f"of {systems[0].name}"],
        f"Mean of {OPERATIONS} operations, after the system was idle and flushed; what write-back "
        "sends later is not in it. FORGET is not counted.")
    table.why_missing += missing.values()
    for title, operation in Program.OPERATIONS:
        progress(f"requests: {title}")
        counts = {}
        for system in systems:
            program = Program(f"{system.path}/top", tree)
            try:
                syncfs(system.path)
                counts[system.name] = trace.count(system.path, lambda: operation(program))
            except (Missing, OSError) as e:
                table.why_missing.append(f"{system.name}, {title}: {e}")
        first = counts.get(systems[0].name, collections.Counter())
        table.add([title, *(f"{sum(counts[s.name].values()) / OPERATIONS:.2f}"
                            if s.name in counts else "-" for s in systems),
                   " ".join(f"{name} {count / OPERATIONS:.2g}" for name, count in first.most_common()
                            if count >= OPERATIONS / 20)],
                  case=title, requests={name: dict(c) for name, c in counts.items()},
                  operations=OPERATIONS)
    for system in reversed(systems):
        system.remove(work)
    return [table]
