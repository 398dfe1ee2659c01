"""Programs that people run on trees of files, as cases beside those of clonefs-bench."""
import os
import shutil
import statistics
import time

from bench_places import Missing, make_tree, run, syncfs

ARCHIVE = "tree.tar"


class Tree:
    """A tree of FILES files of 1 KiB with a git repository, and the archive of its files; made once,
    copied for each system."""

    def __init__(self, work, files):
        self.files = files
        self.path = os.path.join(work.images, "tree")
        self.archive = os.path.join(work.images, ARCHIVE)
        self.why_no_git = ""
        if os.path.isdir(self.path):
            return
        make_tree(self.path, files, 1024, a_directory=20)
        run("tar", "-cf", self.archive, "-C", self.path, ".")
        try:
            self.git(self.path, "init", "-q")
            self.git(self.path, "add", ".")
            self.git(self.path, "-c", "user.name=bench", "-c", "user.email=bench@localhost",
                     "commit", "-q", "-m", "tree")
        except Missing as e:
            self.why_no_git = str(e)

    @staticmethod
    def git(path, *words, **options):
        return run("git", "-c", "safe.directory=*", "-C", path, *words, **options)

    def copy(self, path):
        run("cp", "-a", self.path, f"{path}/tree")


def settle(system):
    for path in (system.path, system.beneath):
        if path:
            syncfs(path)


def drop_caches():
    try:
        with open("/proc/sys/vm/drop_caches", "w", encoding="utf-8") as file:
            file.write("3")
    except OSError as e:
        raise Missing("dropping the kernel's caches needs root") from e


def timed(function):
    begin = time.monotonic()
    function()
    return time.monotonic() - begin


class ToolCase:
    """NAME is that of the case, in `rows` those of its rows. MEASURE(system, tree, p): seconds of
    each row, in which all files of the tree were handled."""

    def __init__(self, name, measure, rows=None, only_reads=False):
        self.name = name
        self.rows = rows or [name]
        self.measure = measure
        self.only_reads = only_reads

    def __call__(self, system, tree, p):
        try:
            found = self.measure(system, tree, p)
        except Missing as e:
            return [{"case": row, "missing": str(e)} for row in self.rows]
        return [{"case": row, "unit": "files/s", "value": tree.files / seconds, "seconds": seconds,
                 "p50_us": seconds / tree.files * 1e6} for row, seconds in zip(self.rows, found)]


def tar(system, tree, _):
    out = f"{system.path}/out"
    os.mkdir(out)
    try:
        settle(system)
        first = timed(lambda: run("tar", "-xf", tree.archive, "-C", out))
        settle(system)
        return first, timed(lambda: run("rm", "-r", out))
    finally:
        shutil.rmtree(out, ignore_errors=True)


def rsync(system, tree, _):
    out = f"{system.path}/out"
    words = ["rsync", "-a", "--exclude=.git", f"{tree.path}/", f"{out}/"]
    try:
        settle(system)
        first = timed(lambda: run(*words))
        settle(system)
        return first, timed(lambda: run(*words))
    finally:
        shutil.rmtree(out, ignore_errors=True)


def reading(command, cold):
    def measure(system, tree, p):
        path = f"{system.path}/tree"
        once = lambda: command(path, tree)
        once()  # git: the index learns the files' attributes
        if cold:
            settle(system)
            drop_caches()
            return [timed(once)]
        end, times = time.monotonic() + p.seconds, []
        while len(times) < 3 or time.monotonic() < end:
            times.append(timed(once))
        return [statistics.median(times)]
    return measure


def git_status(path, tree):
    if tree.why_no_git:
        raise Missing(tree.why_no_git)
    if tree.git(path, "status", "--porcelain"):
        raise Missing("git status finds changes where there are none")


def find(path, _):
    run("find", path)


def du(path, _):
    run("du", "-s", path)


CASES = [
    ToolCase("tar x", tar, ["tar x", "rm -r"]),
    ToolCase("rsync", rsync, ["rsync", "rsync, nothing new"]),
    ToolCase("git status", reading(git_status, False), only_reads=True),
    ToolCase("git status cold", reading(git_status, True), only_reads=True),
    ToolCase("find", reading(find, False), only_reads=True),
    ToolCase("find cold", reading(find, True), only_reads=True),
    ToolCase("du", reading(du, False), only_reads=True),
    ToolCase("du cold", reading(du, True), only_reads=True),
]
