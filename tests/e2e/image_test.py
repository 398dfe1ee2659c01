#!/usr/bin/env python3
"""Power cuts on real file systems: the image of a disk is cut off (a reflink copy, taken at a random
moment under load, without any sync), mounted, recovered. Volume and pool lie on the disk. Each clone
whose activation had been acknowledged is exact, and what was durable is in the source.
"""
import os
import random
import shutil
import tempfile
import threading
import time
import unittest

from records import BEGUN, DONE, Buffered, Durable, Mapped, Names
from volume import LONG, SEED, TEST_DIR, Refused, Volume, main, run, wait_for

ROUNDS = 100 if LONG else 3
GIB = 1 << 30


def must(*command):
    done = run(*command)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stdout}")
    return done.stdout.strip()


class Disk:
    """A file as a block device, mounted at PATH."""

    def __init__(self, image, path, options=()):
        self.path, self.device = path, must("losetup", "--find", "--show", image)
        os.makedirs(path, exist_ok=True)
        try:
            must("mount", *options, self.device, path)
        except AssertionError:
            run("losetup", "-d", self.device)
            raise

    def gone(self):
        if run("umount", self.path).returncode != 0:
            run("umount", "-l", self.path)
        run("losetup", "-d", self.device)


@unittest.skipUnless(os.geteuid() == 0 and shutil.which("mkfs.xfs") and shutil.which("mkfs.ext4"),
                     "needs root, mkfs.xfs and mkfs.ext4, to mount disks")
class Images(unittest.TestCase):
    def setUp(self):
        self.random = random.Random(SEED)
        self.base = tempfile.mkdtemp(prefix="clonefs-e2e-image-", dir=TEST_DIR)
        self.addCleanup(shutil.rmtree, self.base, True)
        outer = os.path.join(self.base, "outer.img")
        with open(outer, "wb") as file:
            file.truncate(4 * GIB)
        must("mkfs.xfs", "-q", "-m", "reflink=1", outer)
        try:
            self.outer = Disk(outer, os.path.join(self.base, "outer"))
        except AssertionError as e:
            self.skipTest(f"no loop device can be mounted: {e}")
        self.addCleanup(self.outer.gone)

    def start(self, *mkfs):
        self.image = os.path.join(self.outer.path, "disk.img")
        with open(self.image, "wb") as file:
            file.truncate(GIB)
        must(*mkfs, self.image)
        self.disk = Disk(self.image, os.path.join(self.base, "disk"))
        self.addCleanup(self.disk.gone)
        base = os.path.join(self.disk.path, "base")
        os.mkdir(base)
        self.v = Volume(base=base, pool="pool")
        self.addCleanup(self.v.clean_up)
        self.v.mount()

    def commands(self, turn, stop):
        """Makes clones one after another. acknowledged: what had returned and begun at its activation,
        by name; removed: those of which a removal had begun."""
        i = 0
        try:
            while not stop.is_set():
                clone, i = f"k{turn}-{i}", i + 1
                kind = self.random.randrange(3)
                precopy = " --precopy" if kind == 2 else ""
                self.v.ctl(f"create {clone} round{turn} --track-size 4K" + precopy
                           + (" --nocopy" if kind == 1 else ""))
                if kind == 2 and self.random.random() < 0.5:
                    # (All of it is never precopied while all is written.)
                    wait_for(lambda: self.v.status(clone)["tracks_precopied"], "precopy")
                before = {name: w[DONE] for name, w in self.writers.items()}
                self.v.ctl(f"activate {clone}")
                after = {name: w[BEGUN] for name, w in self.writers.items()}
                self.acknowledged[clone] = (before, after)
                if self.random.random() < 0.3:
                    self.removed.add(clone)
                    self.v.ctl(f"delete {clone} --force")
        except (OSError, Refused) as e:
            self.problems.append(f"{clone}: {e}")

    def check(self, turn, acknowledged, durable, cut):
        for clone, (before, after) in acknowledged.items():
            status = cut.status(clone)
            self.assertIn(status["state"], ("CopyInProgress", "Copied"), status)
            for name, writer in self.writers.items():
                writer.check(cut.clone(clone, f"round{turn}", name), before[name], after[name],
                             f"{clone} of {name} after the cut")
        self.writers["durable"].check(cut.at(f"round{turn}/durable"), durable[0], durable[1],
                                      "the source after the cut")

    def rounds(self, options=()):
        for turn in range(ROUNDS):
            try:
                self.round(turn, options)
            except Exception as e:
                raise AssertionError(f"round {turn}: {e}") from e

    def round(self, turn, options):
        os.mkdir(self.v.at(f"round{turn}"))
        self.writers = {
            kind.__name__.lower(): kind(self.v.at(f"round{turn}", kind.__name__.lower()), **(
                {} if kind is Names else {"files": 2, "slots": 256})).start()
            for kind in (Durable, Buffered, Mapped, Names)}
        for writer in self.writers.values():
            self.addCleanup(writer.stop)
        # The folders are there after the cut, too.
        must("sync", "-f", self.v.path)
        self.acknowledged, self.removed, self.problems = {}, set(), []
        stop = threading.Event()
        self.addCleanup(stop.set)
        commands = threading.Thread(target=self.commands, args=(turn, stop))
        commands.start()
        wait_for(lambda: set(self.acknowledged) - self.removed or self.problems, "a clone", timeout=60)
        # The moment is what the test is about, not a condition that it waits for.
        time.sleep(self.random.uniform(0.5, 2))
        acknowledged, done = dict(self.acknowledged), self.writers["durable"][DONE]
        copy = os.path.join(self.outer.path, "cut.img")
        must("cp", "--reflink=always", self.image, copy)
        begun = self.writers["durable"][BEGUN]
        removed = set(self.removed)
        stop.set()
        commands.join()
        for writer in self.writers.values():
            writer.stop()
        self.assertEqual(self.problems, [])
        disk = Disk(copy, os.path.join(self.base, "cut"), options)
        try:
            cut = Volume(base=os.path.join(disk.path, "base"), pool="pool")
            try:
                cut.mount()
                left = {n: a for n, a in acknowledged.items() if n not in removed}
                self.check(turn, left, (done, begun), cut)
                self.seen += len(left)
            finally:
                cut.clean_up()
        finally:
            disk.gone()
            os.unlink(copy)
        for session in self.v.status_json()["sessions"]:
            self.v.ctl(f"delete {session['name']} --force")
        shutil.rmtree(self.v.at(f"round{turn}"))

    seen = 0

    def test_ext4(self):
        self.start("mkfs.ext4", "-q", "-F")
        self.rounds()
        print(f"{self.seen} clones", end=" ", flush=True)
        self.assertNotEqual(self.seen, 0)

    def test_xfs(self):
        self.start("mkfs.xfs", "-q", "-f")
        self.rounds(("-o", "nouuid"))
        print(f"{self.seen} clones", end=" ", flush=True)
        self.assertNotEqual(self.seen, 0)


if __name__ == "__main__":
    main()
