#!/usr/bin/env python3
"""A pool on a small disk of its own (an ext4 on a loop device) that runs full, becomes read-only, is
unmounted while it is in use: each clone is exact or Failed, the source has what was
written, and a writer sees an error only with --on-error fail-write."""
import errno
import os
import random
import shutil
import unittest

import records
from volume import SEED, Refused, Volume, main, run, wait_for

MIB = 1 << 20


class SmallPool:
    """A Volume whose pool is a file system of its own, of SIZE bytes."""

    def __init__(self, size, options):
        self.v = Volume(pool="small/pool", options=options)
        self.small = os.path.join(self.v.base, "small")
        self.image = os.path.join(self.v.base, "image")
        os.mkdir(self.small)
        with open(self.image, "wb") as file:
            file.truncate(size)
        done = run("mkfs.ext4", "-q", "-F", "-m", "0", self.image)
        assert done.returncode == 0, done.stdout
        self.mount_pool()

    def mount_pool(self):
        done = run("mount", "-o", "loop", self.image, self.small)
        if done.returncode != 0:
            self.v.clean_up()
            raise unittest.SkipTest("no loop device can be mounted: " + done.stdout)

    def fill(self, leave):
        """Takes the room in the pool but for LEAVE bytes."""
        room = os.statvfs(self.small)
        size = room.f_bavail * room.f_frsize - leave
        with open(os.path.join(self.small, "ballast"), "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)

    def make_room(self):
        os.unlink(os.path.join(self.small, "ballast"))


class Rewriter(records.Slots):
    """Overwrites at random places, each time durable, until it gets an error."""
    number = 7
    FLAGS = os.O_DSYNC
    PAUSE_S = 0.001

    def place(self, number):
        pick = random.Random(number * 7919 + SEED)
        return pick.randrange(self.files), pick.randrange(self.slots)


@unittest.skipUnless(os.geteuid() == 0 and shutil.which("mkfs.ext4"),
                     "needs root and mkfs.ext4, to mount a small file system")
class PoolErrors(unittest.TestCase):
    def make(self, size, options):
        pool = SmallPool(size, options)
        self.addCleanup(pool.v.clean_up)
        pool.v.mount()
        return pool

    def content(self, folder):
        found = {}
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), "rb") as file:
                found[name] = file.read()
        return found

    def source_is(self, writer, what):
        """Each slot of the source has the newest record that had returned, or one that had begun."""
        first, last = writer[records.DONE], writer[records.BEGUN]
        newest = {}
        for number in range(1, last + 1):
            newest.setdefault(writer.place(number), []).append(number)
        for place, number in writer.read(writer.folder, what).items():
            numbers = newest.get(place, [])
            must = max((n for n in numbers if n <= first), default=0)
            self.assertTrue(number == must or (number > first and number in numbers),
                            f"{what}: slot {place} has record {number}, not {must}")

    def is_exact(self, v, name, expected, what):
        status = v.status(name)
        self.assertEqual(self.content(v.clone(name, "w")), expected, f"{what}: {name} {status}")

    # --- full

    def full(self, policy):
        """The pool runs full while a clone is drained and its source is overwritten."""
        pool = self.make(64 * MIB, ["--on-error", policy, "--cache", "writethrough"])
        v = pool.v
        writer = Rewriter(v.at("w"), files=3, slots=16384)  # 24 MiB
        pool.fill(leave=12 * MIB)
        v.ctl("copy c w --thin --nocopy")
        v.ctl("copy d w --thin")
        expected = self.content(v.at("w"))
        writer.start()
        wait_for(lambda: v.status("d")["op_status"] == "paused" or v.status("d")["state"] == "Failed",
                 "the pool is full", 60)
        wait_for(lambda: v.status_json()["pool_free_bytes"] < 8 * MIB, "the status says so")
        if policy == "fail-write":
            wait_for(lambda: "running out of space" in events(v), "an event says so")
            self.assertIn("full in 0s", v.ctl("status"))
            wait_for(lambda: writer[records.FAILED], "the writer gets the error", 60)
            self.assertEqual(errno.errorcode[writer[records.FAILED]], "ENOSPC")
            writer.wait()
        else:
            wait_for(lambda: {v.status(n)["state"] for n in "cd"} == {"Failed"},
                     "the clones are Failed", 60)
            done = writer[records.DONE]
            wait_for(lambda: writer[records.DONE] > done + 20, "the writer goes on")
            writer.stop()
            self.assertEqual(writer[records.FAILED], 0)
        self.source_is(writer, policy)
        for name in "cd":
            status = v.status(name)
            if policy == "fail-write":
                self.assertEqual(status["state"], "CopyInProgress", status)
                self.is_exact(v, name, expected, "full")
            else:
                with self.assertRaises(OSError) as caught:
                    self.content(v.clone(name, "w"))
                self.assertEqual(caught.exception.errno, errno.EIO)
                v.ctl(f"delete {name} --force")
        if policy == "fail-write":
            self.assertEqual(v.status("d")["op_status"], "paused")
            with self.assertRaises(Refused) as caught:
                v.wait("d")
            self.assertIn("clonefs resume d", caught.exception.text)
            v.ctl("delete c --force")
            pool.make_room()
            v.ctl("resume d")
            v.wait("d")
            self.is_exact(v, "d", expected, "drained")
            self.assertEqual(self.content(v.pool("clones/d/w")), expected)
            v.ctl("delete d")
        else:
            pool.make_room()
        # All is well again.
        v.ctl("copy e w --thin")
        now = self.content(v.at("w"))
        v.wait("e")
        self.is_exact(v, "e", now, "afterwards")

    def test_full_fail_clone(self):
        self.full("fail-clone")

    def test_full_fail_write(self):
        self.full("fail-write")

    # --- read-only

    def read_only(self, policy):
        pool = self.make(96 * MIB, ["--on-error", policy, "--cache", "writethrough"])
        v = pool.v
        writer = Rewriter(v.at("w"), files=2, slots=8192)
        v.ctl("copy idle w --nocopy")
        v.ctl("create pre w --precopy")
        v.wait("pre", "precopied")
        v.ctl("create drains w")
        v.stall("drains")
        v.ctl("activate drains")
        expected = self.content(v.at("w"))
        # As a file system makes itself read-only when its disk has errors.
        done = run("mount", "-o", "remount,abort", pool.small)
        self.assertEqual(done.returncode, 0, done.stdout)
        wait_for(lambda: read_only_now(pool.small), "the pool is read-only")
        self.is_exact(v, "idle", expected, "read-only")
        self.is_exact(v, "drains", expected, "read-only")
        with self.assertRaises((Refused, OSError)):
            v.ctl("copy more w")
        self.assertNotIn("more", v.names())
        writer.start()
        if policy == "fail-write":
            wait_for(lambda: writer[records.FAILED], "the writer gets the error", 60)
            writer.wait()
        else:
            wait_for(lambda: writer[records.DONE] > 50, "the writer goes on", 60)
            writer.stop()
            self.assertEqual(writer[records.FAILED], 0)
        self.source_is(writer, "read-only " + policy)
        states = {name: v.status(name)["state"] for name in ("idle", "drains")}
        for name, state in states.items():
            self.assertEqual(state, "CopyInProgress" if policy == "fail-write" else "Failed", name)
            if policy == "fail-write":
                self.is_exact(v, name, expected, "read-only")
        # Mended: mounted anew. That a clone is Failed is remembered though its pool could not take it.
        v.kill()
        self.assertEqual(run("umount", pool.small).returncode, 0)
        self.assertLess(run("e2fsck", "-p", "-f", pool.image).returncode, 4)
        pool.mount_pool()
        v.mount()
        for name, state in states.items():
            self.assertEqual(v.status(name)["state"] == "Failed", state == "Failed",
                             f"{name}: {v.status(name)}")
            if state != "Failed":
                self.is_exact(v, name, expected, "mended")
        now = self.content(v.at("w"))
        v.ctl("activate pre")
        self.is_exact(v, "pre", now, "precopied before")
        v.drain("pre")
        self.is_exact(v, "pre", now, "drained")

    def test_read_only_fail_clone(self):
        self.read_only("fail-clone")

    def test_read_only_fail_write(self):
        self.read_only("fail-write")

    # --- unmounted

    def test_unmounted_lazily(self):
        """Nobody else sees the pool any more; clonefs goes on with it to the end."""
        pool = self.make(96 * MIB, ["--cache", "writethrough"])
        v = pool.v
        writer = Rewriter(v.at("w"), files=2, slots=8192)
        v.ctl("create c w")
        v.stall("c")
        v.ctl("activate c")
        expected = self.content(v.at("w"))
        writer.start()
        wait_for(lambda: writer[records.DONE] > 50, "the writer has begun")
        self.assertEqual(run("umount", "-l", pool.small).returncode, 0)
        done = writer[records.DONE]
        wait_for(lambda: writer[records.DONE] > done + 50, "the writer goes on")
        self.is_exact(v, "c", expected, "unmounted lazily")
        v.ctl("copy later w --nocopy")
        v.drain("c")
        writer.stop()
        self.assertEqual(writer[records.FAILED], 0)
        self.is_exact(v, "c", expected, "drained")
        later = self.content(v.clone("later", "w"))
        self.source_is(writer, "unmounted lazily")
        v.umount()
        pool.mount_pool()
        v.mount()
        self.is_exact(v, "c", expected, "mounted again")
        self.is_exact(v, "later", later, "mounted again")


def events(v):
    with open(v.at(".clonefs/events"), encoding="utf-8") as file:
        return file.read()


def read_only_now(path):
    try:
        with open(os.path.join(path, "probe"), "wb"):
            pass
    except OSError as e:
        return e.errno == errno.EROFS
    os.unlink(os.path.join(path, "probe"))
    return False


if __name__ == "__main__":
    main()
