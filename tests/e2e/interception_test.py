#!/usr/bin/env python3
"""Every kind of change, at every time that matters: a clone shows the instant of its ACTIVATE.

Each operation below runs on a tree of its own, once before CREATE, once between CREATE and ACTIVATE
(as soon as possible, and after precopy), and once after ACTIVATE while tracks are pending (nocopy,
and a drain that is stalled). The whole tree is compared each time. Taking the engine's entry for an
operation out of fs/ fails the cases of that operation.
"""
import ctypes
import mmap
import os
import stat
import struct

import tree
from volume import LONG, VolumeTest, main

K = 1024
TRACK = 4 * K
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2

AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400

libc = ctypes.CDLL(None, use_errno=True)


def libc_call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        e = ctypes.get_errno()
        raise OSError(e, f"{name}: {os.strerror(e)}")


def fallocate(path, mode, offset, length):
    fd = os.open(path, os.O_RDWR)
    try:
        libc_call("fallocate", fd, mode, ctypes.c_long(offset), ctypes.c_long(length))
    finally:
        os.close(fd)


def renameat2(old, new, flags):
    libc_call("renameat2", AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)


def data(seed, size):
    """Bytes that tell where they come from: no two tracks are alike."""
    unit = 64
    out = bytearray()
    for i in range((size + unit - 1) // unit):
        out += b"%-63d\n" % (seed * 1000003 + i)
    return bytes(out[:size])


def acl(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xffffffff
ACCESS_ACL = acl((0x01, 6, NOBODY), (0x02, 4, 12345), (0x04, 4, NOBODY), (0x10, 4, NOBODY),
                 (0x20, 0, NOBODY))


def put(path, offset, content, flags=0):
    fd = os.open(path, os.O_RDWR | flags)
    try:
        os.pwrite(fd, content, offset)
    finally:
        os.close(fd)


def put_direct(path, offset, content):
    page = mmap.mmap(-1, len(content))
    page[:] = content
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        os.pwritev(fd, [page], offset)
    finally:
        os.close(fd)


def map_write(path, offset, content, sync=True):
    fd = os.open(path, os.O_RDWR)
    mapping = mmap.mmap(fd, 0, mmap.MAP_SHARED)
    os.close(fd)
    mapping[offset:offset + len(content)] = content
    if sync:
        mapping.flush()
        mapping.close()
    return mapping  # held: its pages stay dirty


def write_held(path, offset, content):
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, content, offset)
    return fd


def truncate_open(path):
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


def truncate_and_back(path):
    size = os.path.getsize(path)
    os.truncate(path, 5000)
    os.truncate(path, size)


def copy_range(source, path):
    a, b = os.open(source, os.O_RDONLY), os.open(path, os.O_RDWR)
    try:
        assert os.copy_file_range(a, b, 3 * TRACK, TRACK, 2 * TRACK) > 0
    finally:
        os.close(a)
        os.close(b)


def append(path):
    with open(path, "ab", buffering=0) as file:
        file.write(data(90, 3000))


def write_unlinked(path):
    fd = os.open(path, os.O_RDWR)
    os.unlink(path)
    os.pwrite(fd, data(91, 2 * TRACK), TRACK)
    os.close(fd)


def tmpfile_linked(folder):
    fd = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o640)
    try:
        os.write(fd, data(92, 5000))
        libc_call("linkat", AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD,
                  os.fsencode(folder) + b"/linked", AT_SYMLINK_FOLLOW)
    finally:
        os.close(fd)


def fill(path, size):
    with open(path, "wb") as file:
        file.write(data(93, size))


def suid_lost(path):
    """A write by somebody who must not keep the bits takes them."""
    os.chmod(path, 0o6777)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(4321)
            os.setuid(4321)
            put(path, 100, b"by somebody else")
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


# What may be held open over an activation: closed by the test afterwards.
HELD = ("write_held", "mmap_write_held")

# name -> change(d, out): d the tree that is cloned, out a directory beside it.
OPERATIONS = {
    "write": lambda d, out: put(f"{d}/file", 5000, data(50, 6000)),
    "write_whole_tracks": lambda d, out: put(f"{d}/file", 2 * TRACK, data(51, 2 * TRACK)),
    "write_sync": lambda d, out: put(f"{d}/file", 100, data(52, 100), os.O_DSYNC),
    "write_held": lambda d, out: write_held(f"{d}/file", 9000, data(53, 5000)),
    "write_beyond_end": lambda d, out: put(f"{d}/file", 30 * TRACK, data(54, 100)),
    "write_into_hole": lambda d, out: put(f"{d}/sparse", 3 * TRACK, data(55, 100)),
    "write_to_empty": lambda d, out: put(f"{d}/empty", 0, data(56, 9000)),
    "write_by_hard_link": lambda d, out: put(f"{d}/sub/hard", 0, data(57, 9000)),
    "write_unlinked": lambda d, out: write_unlinked(f"{d}/sub/b"),
    "append": lambda d, out: append(f"{d}/file"),
    "direct_write": lambda d, out: put_direct(f"{d}/file", 2 * TRACK, data(58, TRACK)),
    "mmap_write": lambda d, out: map_write(f"{d}/file", 6000, data(59, 4000)),
    "mmap_write_held": lambda d, out: map_write(f"{d}/file", 6000, data(60, 4000), sync=False),
    "suid_lost": lambda d, out: suid_lost(f"{d}/file"),
    "truncate_down": lambda d, out: os.truncate(f"{d}/file", 6000),
    "truncate_to_0": lambda d, out: os.truncate(f"{d}/file", 0),
    "truncate_up": lambda d, out: os.truncate(f"{d}/file", 100000),
    "truncate_and_back": lambda d, out: truncate_and_back(f"{d}/file"),
    "open_truncate": lambda d, out: truncate_open(f"{d}/file"),
    "rewrite": lambda d, out: fill(f"{d}/file", 11 * TRACK + 5),
    "punch_hole": lambda d, out: fallocate(f"{d}/file", FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE,
                                           TRACK, 3 * TRACK),
    "punch_part": lambda d, out: fallocate(f"{d}/file", FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE,
                                           TRACK + 7, 99),
    "zero_range": lambda d, out: fallocate(f"{d}/file", FALLOC_ZERO_RANGE, 5000, 9000),
    "allocate": lambda d, out: fallocate(f"{d}/file", 0, 14 * TRACK, 4 * TRACK),
    "copy_file_range": lambda d, out: copy_range(f"{d}/sub/hard", f"{d}/file"),
    "create": lambda d, out: fill(f"{d}/new", 9000),
    "create_tmpfile": lambda d, out: tmpfile_linked(f"{d}/sub"),
    "unlink": lambda d, out: os.unlink(f"{d}/file"),
    "unlink_empty": lambda d, out: os.unlink(f"{d}/empty"),
    "rename": lambda d, out: os.rename(f"{d}/file", f"{d}/sub/renamed"),
    "rename_over": lambda d, out: os.rename(f"{d}/sub/b", f"{d}/file"),
    "rename_over_from_outside": lambda d, out: os.rename(f"{out}/there", f"{d}/file"),
    "rename_out": lambda d, out: os.rename(f"{d}/file", f"{out}/gone"),
    "rename_out_over": lambda d, out: os.rename(f"{d}/file", f"{out}/there"),
    "rename_in": lambda d, out: os.rename(f"{out}/there", f"{d}/sub/came"),
    "rename_noreplace": lambda d, out: renameat2(f"{d}/file", f"{d}/n", RENAME_NOREPLACE),
    "rename_exchange": lambda d, out: renameat2(f"{d}/file", f"{d}/sub", RENAME_EXCHANGE),
    "rename_exchange_outside": lambda d, out: renameat2(f"{d}/file", f"{out}/there",
                                                        RENAME_EXCHANGE),
    "rename_directory": lambda d, out: os.rename(f"{d}/sub", f"{d}/other"),
    "rename_directory_out": lambda d, out: os.rename(f"{d}/sub", f"{out}/sub"),
    "rename_directory_in": lambda d, out: os.rename(f"{out}/folder", f"{d}/sub/folder"),
    "link": lambda d, out: os.link(f"{d}/file", f"{d}/sub/linked"),
    "link_outside": lambda d, out: os.link(f"{d}/file", f"{out}/linked"),
    "link_from_outside": lambda d, out: os.link(f"{out}/there", f"{d}/linked"),
    "unlink_link": lambda d, out: os.unlink(f"{d}/sub/hard"),
    "chmod": lambda d, out: os.chmod(f"{d}/file", 0o4751),
    "chmod_directory": lambda d, out: os.chmod(f"{d}/sub", 0o2770),
    "chown": lambda d, out: os.chown(f"{d}/file", 1234, 2345),
    "chown_symlink": lambda d, out: os.lchown(f"{d}/symlink", 1234, 2345),
    "utimens": lambda d, out: os.utime(f"{d}/file", ns=(10**18 + 1, 10**18 + 123456789)),
    "utimens_directory": lambda d, out: os.utime(f"{d}/sub", ns=(10**18 + 1, 10**18 + 987654321)),
    "set_xattr": lambda d, out: os.setxattr(f"{d}/file", "user.color", b"green"),
    "add_xattr": lambda d, out: os.setxattr(f"{d}/sub", "user.new", b"x" * 300),
    "remove_xattr": lambda d, out: os.removexattr(f"{d}/file", "user.color"),
    "set_acl": lambda d, out: os.setxattr(f"{d}/file", "system.posix_acl_access", ACCESS_ACL),
    "default_acl": lambda d, out: os.setxattr(f"{d}/sub", "system.posix_acl_default", ACCESS_ACL),
    "mkdir": lambda d, out: os.mkdir(f"{d}/sub/more"),
    "rmdir": lambda d, out: os.rmdir(f"{d}/void"),
    "symlink": lambda d, out: os.symlink("sub/b", f"{d}/link"),
    "mkfifo": lambda d, out: os.mkfifo(f"{d}/sub/pipe", 0o620),
    "mknod": lambda d, out: os.mknod(f"{d}/device", stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    "change_root": lambda d, out: os.chmod(d, 0o711),
}


def make_tree(d, out):
    os.makedirs(f"{d}/sub/deep")
    os.makedirs(f"{d}/void")
    os.makedirs(f"{out}/folder")
    fill(f"{out}/there", 5 * TRACK)
    fill(f"{out}/folder/inside", 5000)
    with open(f"{d}/file", "wb") as file:
        file.write(data(1, 12 * TRACK + 100))
    with open(f"{d}/sub/hard", "wb") as file:
        file.write(data(2, 7 * TRACK))
    os.link(f"{d}/sub/hard", f"{d}/hard")
    with open(f"{d}/sub/b", "wb") as file:
        file.write(data(3, 3 * TRACK))
    open(f"{d}/empty", "wb").close()
    with open(f"{d}/sparse", "wb") as file:
        file.write(data(4, TRACK))
        file.seek(8 * TRACK)
        file.write(data(5, TRACK))
        file.truncate(16 * TRACK)
    os.symlink("../file", f"{d}/symlink")
    os.mkfifo(f"{d}/sub/fifo")
    os.setxattr(f"{d}/file", "user.color", b"blue")
    if os.geteuid() == 0:
        os.setxattr(f"{d}/file", "trusted.t", b"t")


class Interception(VolumeTest):
    # The pool beside the volume, so that it is looked at without the mount.
    pool = "pool"

    def reference(self, place):
        """What a clone of PLACE must show when it is activated now. With a write-back cache the
        kernel shows a ctime of its own for regular files; theirs is the one on the disk."""
        state = tree.capture(self.v.at(place))
        if "writethrough" not in self.options:
            for path, entry in state.items():
                if entry["kind"] == stat.S_IFREG:
                    below = os.lstat(self.v.beneath(place, os.fsdecode(path)))
                    entry["ctime"] = below.st_ctime_ns
        return state

    def unsettled(self, name):
        """Attributes that what is held open gets only in ACTIVATE: the ctime on the disk, and without
        a write-back cache the mtime of stores to a mapping."""
        if name not in HELD:
            return ()
        return ("ctime", "mtime") if "writethrough" in self.options else ("ctime",)

    def check(self, name, place, expected, where, ignore=()):
        tree.assert_same(self, expected, tree.capture(self.v.clone(name, place)), where, ignore)

    def each(self, phase, body):
        for number, (name, change) in enumerate(OPERATIONS.items()):
            with self.subTest(phase=phase, operation=name):
                place = f"{phase}/{name}/d"
                d, out = self.v.at(place), self.v.at(f"{phase}/{name}/out")
                make_tree(d, out)
                clone = f"{phase}-{number}"
                held = []

                def apply():
                    kept = change(d, out)
                    if name in HELD:
                        held.append(kept)
                try:
                    body(clone, place, apply, name)
                finally:
                    for kept in held:
                        os.close(kept) if isinstance(kept, int) else kept.close()
                    if clone in self.v.names():
                        self.v.ctl(f"delete {clone} --force")

    def finish(self, clone, place, expected, where, ignore=()):
        """Drained, the clone is still the same, through the mount and in the pool."""
        self.v.drain(clone)
        self.check(clone, place, expected, f"{where}, drained", ignore)
        pool = tree.capture(os.path.join(self.v.pool("clones", clone), place))
        tree.assert_same(self, expected, pool, f"{where}, in the pool", (*ignore, "ctime"))

    def test_before_create(self):
        def body(clone, place, apply, name):
            apply()
            ignore = self.unsettled(name)
            expected = self.reference(place)
            self.v.ctl(f"copy {clone} {place} --track-size 4K")
            self.check(clone, place, expected, "at once", ignore)
            self.finish(clone, place, expected, "changed before CREATE", ignore)
        self.each("before", body)

    def changed_between(self, phase, create, ready):
        def body(clone, place, apply, name):
            self.v.ctl(f"create {clone} {place} --track-size 4K {create}")
            ready(clone)
            self.assertFalse(os.path.lexists(self.v.clone(clone)), "visible before ACTIVATE")
            apply()
            ignore = self.unsettled(name)
            expected = self.reference(place)
            self.v.stall(clone)
            self.v.ctl(f"activate {clone}")
            self.check(clone, place, expected, "after ACTIVATE", ignore)
            self.finish(clone, place, expected, f"changed in {phase}", ignore)
        self.each(phase, body)

    def test_created(self):
        self.changed_between("created", "", lambda clone: None)

    def test_precopied(self):
        self.changed_between("precopied", "--precopy",
                             lambda clone: self.v.wait(clone, "precopied"))

    def changed_after(self, phase, activate):
        def body(clone, place, apply, name):
            expected = self.reference(place)
            activate(clone, place)
            self.assertGreater(self.v.status(clone)["tracks_pending"], 0)
            apply()
            if name in HELD:
                os.sync()
            self.check(clone, place, expected, "after the change")
            if phase == "draining":
                self.finish(clone, place, expected, "changed while draining")
                for path in ("file", "sparse"):
                    size = os.path.getsize(self.v.clone(clone, place, path))
                    for begin, end in tree.holes(self.v.clone(clone, place, path)):
                        self.assertLessEqual(end, size)
                self.assertLessEqual(
                    sum(e - b for b, e in tree.holes(self.v.clone(clone, place, "sparse"))),
                    2 * TRACK, "a hole was filled")
        self.each(phase, body)

    def test_nocopy(self):
        self.changed_after("nocopy", lambda clone, place: self.v.ctl(
            f"copy {clone} {place} --nocopy --track-size 4K"))

    def test_draining(self):
        def activate(clone, place):
            self.v.ctl(f"create {clone} {place} --track-size 4K")
            self.v.stall(clone)
            self.v.ctl(f"activate {clone}")
        self.changed_after("draining", activate)


class InterceptionWithoutCache(Interception):
    """The same with every write passing at once. In the short form, the times that differ most."""
    options = ("--cache", "writethrough")
    if not LONG:
        test_before_create = test_created = test_draining = None


if __name__ == "__main__":
    main()
