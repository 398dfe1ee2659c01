#!/usr/bin/env python3
"""FUSE over io_uring, where the kernel has it: the test enables it for the mounts made meanwhile, as an
administrator does, and disables it again. Mounts of other tests may use it too then.
"""
import errno
import hashlib
import mmap
import os
import pty
import signal
import subprocess
import sys
import threading
import time
import unittest

from volume import BIN, SKIPPED, Volume, VolumeTest, main, run, wait_for

PARAMETER = "/sys/module/fuse/parameters/enable_uring"


def parameter(value=None):
    if value is None:
        with open(PARAMETER, encoding="ascii") as file:
            return file.read().strip()
    with open(PARAMETER, "w", encoding="ascii") as file:
        file.write(value)
    return value


class Off(unittest.TestCase):
    def test_mount_says_how_to_enable_it(self):
        """To a person at a terminal, and nothing is changed."""
        self.assertEqual(parameter(), "N")
        ours, theirs = pty.openpty()
        with Volume(daemon=True) as v, os.fdopen(ours, "rb", 0) as terminal:
            done = subprocess.run([BIN, "mount", v.source], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=theirs, timeout=60, check=False)
            os.close(theirs)
            self.assertEqual(done.returncode, 0)
            v.pid = v.status_json()["pid"]
            said = b""
            try:
                while part := terminal.read(4096):
                    said += part
            except OSError:  # nobody has the other end
                pass
            self.assertIn(PARAMETER.encode(), said)
            self.assertEqual(v.status_json()["requests"], "dev_fuse")
        self.assertEqual(parameter(), "N")
        with Volume(daemon=True) as v:
            v.mount()
            self.assertNotIn(PARAMETER, v.said)  # a script is told nothing


class On(VolumeTest):
    def setUp(self):
        before = parameter()
        self.addCleanup(parameter, before)
        parameter("Y")
        super().setUp()
        self.assertEqual(self.v.status_json()["requests"], "io_uring")

    def test_data_and_names(self):
        """What was written, by all ways, is in the source when the mount has gone."""
        want = {}
        for n in range(200):
            data = os.urandom(n * 37)
            self.v.write(f"d{n % 7}/name-{n}", data)
            want[f"d{n % 7}/name-{n}"] = data
        big = os.urandom(5 << 20)
        self.v.write("big", big)
        fd = os.open(self.v.at("big"), os.O_RDWR)
        with mmap.mmap(fd, len(big)) as view:
            view[12345:12345 + 4096] = bytes(4096)
        os.pwrite(fd, b"end", len(big))
        os.fsync(fd)
        os.close(fd)
        want["big"] = big[:12345] + bytes(4096) + big[12345 + 4096:] + b"end"
        for n in range(0, 200, 3):
            os.rename(self.v.at(f"d{n % 7}/name-{n}"), self.v.at(f"d0/moved-{n}"))
            want[f"d0/moved-{n}"] = want.pop(f"d{n % 7}/name-{n}")
        for n in range(1, 200, 3):
            os.unlink(self.v.at(f"d{n % 7}/name-{n}"))
            del want[f"d{n % 7}/name-{n}"]
        self.v.ctl("copy clone .")
        self.v.wait("clone")
        with open(self.v.at("big"), "r+b") as file:  # through the cache again
            self.assertEqual(file.read(), want["big"])

        def digests(top):
            found = {}
            for path, _, files in os.walk(top):
                for name in files:
                    at = os.path.join(path, name)
                    with open(at, "rb") as file:
                        found[os.path.relpath(at, top)] = hashlib.sha256(file.read()).hexdigest()
            return {name: d for name, d in found.items() if not name.startswith(".clonefs/")}
        expected = {name: hashlib.sha256(data).hexdigest() for name, data in want.items()}
        self.assertEqual(digests(self.v.clone("clone")), expected)
        self.v.umount()
        self.assertEqual(digests(self.v.source), expected)

    def test_waiting_commands_hold_nobody_up(self):
        """More of them than a queue has places: the rest are refused, applications go on."""
        self.v.write("file", b"old")
        self.v.write("large", os.urandom(8 << 20))
        self.v.ctl("create clone large")
        self.v.stall("clone")
        self.v.ctl("activate clone")
        waiting = [subprocess.Popen([BIN, "wait", "clone", "--timeout", "100"], cwd=self.v.path,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                   for _ in range(150)]
        try:
            def refused():
                return sum(child.poll() is not None for child in waiting) >= 100
            wait_for(refused, "most commands are refused")
            self.assertLess(sum(child.poll() is not None for child in waiting), 150)
            for child in waiting:
                if child.poll() is not None:
                    self.assertIn(b"too many commands", child.stderr.read())
            for processor in os.sched_getaffinity(0):
                done = run("taskset", "-c", str(processor), "sh", "-c",
                           f"echo new > {processor} && cat {processor} file && mkdir d{processor}",
                           cwd=self.v.path, timeout=20)
                self.assertEqual((done.returncode, done.stdout), (0, "new\nold"))
        finally:
            for child in waiting:
                child.kill()
            for child in waiting:  # an interrupt answers the request that they wait for
                child.wait(timeout=20)
                child.stderr.close()

    def test_slow_requests_hold_nobody_up(self):
        """fsyncs, in more threads than the machine has processors, beside requests that are quick."""
        stop = threading.Event()

        def sync(n):
            with open(self.v.at(f"synced{n}"), "wb", 0) as file:
                while not stop.is_set():
                    file.write(b"x" * 4096)
                    os.fsync(file.fileno())
        threads = [threading.Thread(target=sync, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        try:
            for n in range(2000):
                with open(self.v.at("quick"), "wb") as file:
                    file.write(b"%d" % n)
                with self.assertRaises(FileNotFoundError):
                    os.stat(self.v.at(f"nothing{n}"))
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)

    def test_killed_process(self):
        """One that dies while it waits leaves a mount that goes on."""
        self.v.write("file", b"old")
        for _ in range(20):
            writer = subprocess.Popen(["dd", "if=/dev/zero", f"of={self.v.at('killed')}", "bs=4k",
                                       "oflag=sync"], stderr=subprocess.DEVNULL)
            wait_for(lambda: os.path.exists(self.v.at("killed")), "dd writes")
            writer.send_signal(signal.SIGKILL)
            writer.wait(timeout=20)
            os.unlink(self.v.at("killed"))
        with open(self.v.at("file"), "rb") as file:
            self.assertEqual(file.read(), b"old")

    def test_killed_daemon(self):
        """Whoever waits gets an error at once, and the next mount goes on."""
        self.v.write("file", b"old")
        self.v.ctl("copy clone file --nocopy")
        ended = []

        def use(n):
            try:
                while True:
                    fd = os.open(self.v.at(f"f{n}"), os.O_CREAT | os.O_RDWR)
                    os.write(fd, b"x" * 4096)
                    os.fsync(fd)
                    os.close(fd)
                    os.unlink(self.v.at(f"f{n}"))
            except OSError as e:
                ended.append(e.errno)
        threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)  # any moment will do
        self.v.kill()
        for thread in threads:
            thread.join(20)
        self.assertEqual(len(ended), 4)
        self.assertLessEqual(set(ended), {errno.ENOTCONN, errno.ECONNABORTED, errno.ECANCELED})
        self.v.mount()
        self.assertEqual(self.v.status_json()["requests"], "io_uring")
        self.v.write("file", b"new")
        with open(self.v.clone("clone/file"), "rb") as file:
            self.assertEqual(file.read(), b"old")

    def test_unmounted_while_in_use(self):
        """Users who are cut off by the end of the daemon are told so."""
        keep = os.open(self.v.write("file", b"old"), os.O_RDWR)
        try:
            os.kill(self.v.pid, signal.SIGTERM)
            self.v.wait_end(0)
            with self.assertRaises(OSError) as caught:
                os.fsync(keep)
            self.assertIn(caught.exception.errno, (errno.ENOTCONN, errno.ECONNABORTED))
        finally:
            try:
                os.close(keep)
            except OSError:
                pass


if __name__ == "__main__":
    if not os.path.exists(PARAMETER) or not os.access(PARAMETER, os.W_OK):
        print("skipped: no FUSE over io_uring here, or not root")
        sys.exit(SKIPPED)
    main()
