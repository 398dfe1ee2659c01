#!/usr/bin/env python3
"""A pool that does not answer: it lies on a FUSE file system whose daemon is stopped (SIGSTOP). Programs
on the volume wait no longer than --stall-limit; what happens to the clone goes by --on-error; the
daemon ends, also by SIGKILL, and no restart shows a clone as whole that is not.
"""
import errno
import os
import signal
import threading
import time
import unittest

from volume import BIN, Volume, VolumeTest, main, run, stand_still, wait_for

LIMIT_S = 3
DATA = b"old" * 100000


class Stall(VolumeTest):
    policy = "fail-clone"
    durability = "power"

    def setUp(self):
        # Another clonefs serves the pool's place.
        self.below = Volume()
        self.addCleanup(self.below.clean_up)
        self.addCleanup(self.go_on)
        self.below.mount()
        self.v = Volume(options=("--stall-limit", str(LIMIT_S), "--on-error", self.policy,
                                 "--durability", self.durability))
        self.v.given_pool = self.below.at("pool")
        self.addCleanup(self.v.clean_up)
        self.addCleanup(self.go_on)
        self.v.mount()
        for name in ("file", "other", "third"):
            self.v.write(name, DATA)
        self.v.ctl("copy clone . --nocopy")

    def stop(self):
        stand_still(self.below.pid)

    def go_on(self):
        if self.below.pid is not None:
            os.kill(self.below.pid, signal.SIGCONT)

    def overwrite(self, name, data=b"new", at=0):
        """As an application that wants it on disk; how long it took."""
        begin = time.monotonic()
        fd = os.open(self.v.at(name), os.O_RDWR)
        try:
            os.pwrite(fd, data, at)
            os.fsync(fd)
        finally:
            os.close(fd)
        return time.monotonic() - begin

    def read_source(self, name):
        with open(self.v.at(name), "rb") as file:
            return file.read()

    def assert_failed_for_good(self, name="clone"):
        status = self.v.status(name)
        self.assertEqual(status["state"], "Failed", status)
        with self.assertRaises(OSError) as caught:
            with open(self.v.clone(name, "file"), "rb") as file:
                file.read()
        self.assertEqual(caught.exception.errno, errno.EIO)


class FailClone(Stall):
    def test_programs_go_on(self):
        self.stop()
        self.assertLess(self.overwrite("file"), LIMIT_S * 4)
        # Everybody else, at once.
        self.assertLess(self.overwrite("other"), LIMIT_S)
        self.v.write("created", b"x")
        os.rename(self.v.at("created"), self.v.at("third"))
        self.assertEqual(self.read_source("file"), b"new" + DATA[3:])
        status = self.v.status("clone")
        self.assertEqual(status["state"], "Failed")
        self.assertIn(f"did not answer for {LIMIT_S} s", status["error"])
        self.assertIn("did not answer", self.v.cli("status", "clone"))
        self.go_on()
        wait_for(lambda: self.v.cli("list") is not None, "the pool answers")
        self.v.remount()
        self.assert_failed_for_good()
        self.v.ctl("delete clone --force")
        self.v.ctl("copy again .")
        self.v.wait("again")
        self.assertEqual(self.read_source("file"), b"new" + DATA[3:])

    def test_killed_while_it_hangs(self):
        self.stop()
        self.overwrite("file")
        os.kill(self.v.pid, signal.SIGKILL)
        self.go_on()  # the kernel keeps threads that wait for write-back
        self.v.wait_end(-signal.SIGKILL)
        self.v.mount()
        self.assert_failed_for_good()
        self.assertIn("did not answer", self.v.status("clone")["error"])
        self.assertEqual(self.read_source("file"), b"new" + DATA[3:])

    def test_unmounted_while_it_hangs(self):
        self.stop()
        self.overwrite("file")
        done = run(BIN, "umount", self.v.path, timeout=60)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("does not answer", done.stdout)
        wait_for(lambda: not os.path.ismount(self.v.path), "the end of the mount")
        self.assertEqual(self.read_source("file"), b"new" + DATA[3:])
        self.go_on()
        self.v.wait_end(1)
        self.v.mount()
        self.assert_failed_for_good()

    def test_terminated_while_it_hangs(self):
        self.stop()
        self.overwrite("file")
        os.kill(self.v.pid, signal.SIGTERM)
        wait_for(lambda: not os.path.ismount(self.v.path), "the end of the mount")
        self.go_on()
        self.v.wait_end(1)
        self.v.mount()
        self.assert_failed_for_good()


class FailCloneRelaxed(FailClone):
    durability = "relaxed"


class FailWrite(Stall):
    policy = "fail-write"

    def test_the_writer_gets_the_error(self):
        self.stop()
        with self.assertRaises(OSError) as caught:
            self.overwrite("file")
        self.assertEqual(caught.exception.errno, errno.EIO)
        begin = time.monotonic()
        with self.assertRaises(OSError):
            self.overwrite("other")
        self.assertLess(time.monotonic() - begin, LIMIT_S)
        self.go_on()

        def written():
            try:
                return self.overwrite("file") >= 0
            except OSError:
                return False
        wait_for(written, "a write goes through")
        for name in ("file", "other", "third"):
            with open(self.v.clone("clone", name), "rb") as file:
                self.assertEqual(file.read(), DATA)
        self.assertEqual(self.read_source("file"), b"new" + DATA[3:])


@unittest.skipUnless(os.geteuid() == 0, "mounts and freezes a file system, as root")
class SourceStall(VolumeTest):
    """The source (an ext4 that is frozen) takes no changes: who changes it waits, nobody else does."""

    def setUp(self):
        self.v = Volume(pool="pool")
        self.addCleanup(self.v.clean_up)
        image = os.path.join(self.v.base, "image")
        self.disk = os.path.join(self.v.base, "disk")
        os.mkdir(self.disk)
        with open(image, "wb") as file:
            file.truncate(64 << 20)
        for command in (("mkfs.ext4", "-q", image), ("mount", "-o", "loop", image, self.disk)):
            done = run(*command)
            if done.returncode != 0:
                self.skipTest(done.stdout)
        self.frozen = False
        self.addCleanup(self.thaw)
        self.v.source = self.v.path = os.path.join(self.disk, "source")
        os.mkdir(self.v.source)
        self.v.mount()

    def freeze(self):
        self.assertEqual(run("fsfreeze", "-f", self.disk).returncode, 0)
        self.frozen = True

    def thaw(self):
        if self.frozen:
            self.frozen = False
            run("fsfreeze", "-u", self.disk)

    def test_nobody_else_waits(self):
        self.v.write("file", b"old")
        os.mkdir(self.v.at("d"))  # while a name is made in a directory, the kernel looks up none that is new
        self.freeze()
        made = []

        def make(n):
            os.close(os.open(self.v.at(f"d/new{n}"), os.O_CREAT | os.O_WRONLY))
            made.append(n)
        threads = [threading.Thread(target=make, args=(n,), daemon=True) for n in range(8)]
        for thread in threads:
            thread.start()
        begin = time.monotonic()
        for _ in range(20):
            self.assertEqual(self.v.status_json()["sessions"], [])
            with open(self.v.at("file"), "rb") as file:
                self.assertEqual(file.read(), b"old")
        self.assertLess(time.monotonic() - begin, 15)  # a fifth of a second for each that hangs
        self.assertEqual(made, [])
        self.thaw()
        for thread in threads:
            thread.join(30)
        self.assertEqual(sorted(made), list(range(8)))


if __name__ == "__main__":
    main()
