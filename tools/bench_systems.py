"""What is compared on the live mount: clonefs, and the other file systems stacked on a directory.

Each gets a directory with the same content, made beneath it before it is mounted. The peers get the
options that are best for them: caches as long-lived as those of clonefs, which owns its directory.
"""
import os
import shutil
import subprocess

from bench_places import Missing, RUN_LIMIT_S, end_mount, run, syncfs, wait_for

NATIVE = "native"
CLONEFS = "clonefs"
URING = "clonefs, io_uring"
CLONE = "drained clone"
OURS = (CLONEFS, URING)
# FUSE peers: name -> command, with SOURCE, MOUNT, EMPTY and WORK to be filled in.
FUSE_PEERS = {
    "bindfs": ["bindfs", "-f", "-o", "default_permissions,kernel_cache,entry_timeout=86400,"
               "attr_timeout=86400,negative_timeout=86400", "SOURCE", "MOUNT"],
    "fuse-overlayfs": ["fuse-overlayfs", "-f", "-o",
                       "lowerdir=EMPTY,upperdir=SOURCE,workdir=WORK", "MOUNT"],
    "mergerfs": ["mergerfs", "-f", "-o", "cache.files=full,cache.writeback=true,cache.entry=86400,"
                 "cache.attr=86400,cache.negative_entry=86400,cache.readdir=true,"
                 "category.create=ff,func.getattr=ff", "SOURCE", "MOUNT"],
}
OVERLAYFS = "overlayfs"
ALL = (NATIVE, CLONEFS, URING, CLONE, *FUSE_PEERS, OVERLAYFS)

ENABLE_URING = "/sys/module/fuse/parameters/enable_uring"


class System:
    """PATH is used, BENEATH leads to the same files past it (None: it is the file system itself).
    THING of the workplace it is: to be removed; it has a `pid` if a daemon serves it."""

    def __init__(self, name, path, beneath=None, only_reads=False, thing=None):
        self.name = name
        self.path = path
        self.beneath = beneath
        self.only_reads = only_reads
        self.thing = thing

    def remove(self, work):
        if self.thing:
            work.remove(self.thing)
        else:
            shutil.rmtree(self.path)


class Peer:
    """A directory with another file system mounted over it."""

    def __init__(self, work, name, fill):
        self.name = name
        self.path = work.directory(f"peer-{name}")
        self.source, self.mountpoint, empty, scratch = (
            os.path.join(self.path, part) for part in ("source", "mount", "empty", "work"))
        for path in (self.source, self.mountpoint, empty, scratch):
            os.mkdir(path)
        self.process = None
        self.mounted = False
        self.log = os.path.join(self.path, "log")
        self.words = {"SOURCE": self.source, "MOUNT": self.mountpoint, "EMPTY": empty, "WORK": scratch}
        fill(self.source)

    def mount(self):
        if os.geteuid() != 0:
            raise Missing(f"{self.name}: mounting it for the comparison needs root")
        syncfs(self.source)
        if self.name == OVERLAYFS:
            run("mount", "-t", "overlay", "overlay", "-o",
                self.fill_in("lowerdir=EMPTY,upperdir=SOURCE,workdir=WORK"), self.mountpoint)
            self.mounted = True
            return
        command = [self.fill_in(word) for word in FUSE_PEERS[self.name]]
        if not shutil.which(command[0]):
            raise Missing(f"{self.name} is not installed (tools/setup --for-bench)")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["timeout", "--kill-after=5", str(RUN_LIMIT_S), *command], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True)

        def answers():
            if self.process.poll() is not None:
                with open(self.log, encoding="utf-8", errors="replace") as log:
                    raise Missing(f"{self.name}: {log.read()[-300:].strip()}")
            return os.path.ismount(self.mountpoint)
        wait_for(answers, f"{self.name} to be mounted")
        self.mounted = True

    def fill_in(self, word):
        for key, value in self.words.items():
            word = word.replace(key, value)
        return word

    def close(self):
        if self.mounted:
            end_mount(self.mountpoint)
        if self.process is not None:
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(timeout=30)


class UringEnabled:
    """The kernel's parameter set for what is mounted within; as it was afterwards."""

    def __enter__(self):
        try:
            with open(ENABLE_URING, encoding="utf-8") as file:
                self.was = file.read().strip()
            self.set("Y")
        except OSError as e:
            raise Missing(f"FUSE over io_uring: {ENABLE_URING}: {e.strerror}") from e

    def __exit__(self, *exc):
        self.set(self.was)

    @staticmethod
    def set(value):
        with open(ENABLE_URING, "w", encoding="utf-8") as file:
            file.write(value)


def mount_clonefs(work, name, fill, uring):
    volume = work.volume(name, fill)
    if (volume.status()["requests"] == "io_uring") != uring:
        work.remove(volume)
        raise Missing("FUSE over io_uring is enabled: there is no clonefs without it" if not uring else
                      "clonefs does not use io_uring here")
    return volume


def mount(work, name, fill, uring):
    """The system NAME, in WORK, with what FILL(path) makes in it. Throws Missing."""
    if name == NATIVE:
        path = work.directory("native")
        fill(path)
        return System(name, path)
    if name in (CLONEFS, URING):
        if name == URING and not uring:
            raise Missing("FUSE over io_uring is measured with --uring only")
        if name == CLONEFS:
            volume = mount_clonefs(work, "live", fill, False)
        else:
            with UringEnabled():
                volume = mount_clonefs(work, "live-uring", fill, True)
        return System(name, volume.path, volume.beneath(), thing=volume)
    if name == CLONE:
        volume = work.volume("cloned", fill)
        volume.control("copy clone .")
        volume.wait("clone")
        volume.control("terminate clone")
        return System(name, f"{volume.path}/.clonefs/clones/clone",
                      volume.beneath(".clonefs/pool/clones/clone"), only_reads=True, thing=volume)
    peer = Peer(work, name, fill)
    work.open.append(peer)
    peer.mount()
    return System(name, peer.mountpoint, peer.source, thing=peer)
