#!/usr/bin/env python3
"""clonefs recreate: generations of one name, through the mount."""
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import unittest

import tree
from mount_test import run_as_user
from volume import BIN, Volume, VolumeTest, main, run, wait_for

MIB = 1 << 20

USER_SCRIPT = r"""
$BIN mount $V
echo other > $V/d/other
sleep 0.1
$BIN copy x d
$BIN wait x
echo new > $V/d/file
chmod 600 $V/d/other
$BIN recreate x --precopy
test "$(cat $V/.clonefs/clones/x/d/file)" = old
$BIN wait x --for precopied
$BIN activate x
test "$(cat $V/.clonefs/clones/x/d/file)" = new
test "$(stat -c %a $V/.clonefs/clones/x/d/other)" = 600
$BIN wait x
$BIN umount $V
echo all is well
"""


class Recreate(VolumeTest):
    def setUp(self):
        super().setUp()
        for i in range(40):
            self.v.write(f"d{i % 4}/f{i}", b"%d " % i * 5000)
        self.v.write("big", os.urandom(8 * MIB))
        self.v.write("linked", b"two names")
        os.link(self.v.at("linked"), self.v.at("d0/linked too"))
        os.symlink("big", self.v.at("symlink"))
        os.setxattr(self.v.at("d1/f1"), "user.x", b"y")
        # What changed as short before the consistency point as the clock's grain is copied again.
        time.sleep(0.1)
        self.v.ctl("copy c .")
        self.v.drain("c")

    def change(self):
        with open(self.v.at("big"), "r+b") as file:
            file.seek(3 * MIB)
            file.write(b"changed")
        self.v.write("d1/f5", b"short")
        self.v.write("d2/new", b"new")
        os.chmod(self.v.at("d3/f3"), 0o600)
        os.rename(self.v.at("d2/f6"), self.v.at("d3/f6 renamed"))
        os.unlink(self.v.at("d0/f0"))
        os.setxattr(self.v.at("d1/f1"), "user.x", b"z")

    def look(self, name="c"):
        return tree.capture(self.v.clone(name))

    def now(self):
        return tree.capture(self.v.path)

    def same(self, one, other, what=""):
        # With the writeback cache the kernel shows a later ctime in the volume than its files have.
        self.assertEqual(tree.differences(one, other, ("ctime",)), [], what)

    def test_the_generation_before_until_the_activation(self):
        before, numbers = self.look(), tree.capture(self.v.clone("c"), with_inodes=True)
        self.change()
        self.v.ctl("recreate c --precopy")
        self.assertEqual(tree.differences(self.look(), before), [], "while the next is prepared")
        self.assert_refused(errno.EROFS, lambda: open(self.v.clone("c", "big"), "r+b"))
        self.assert_refused(errno.EROFS, lambda: os.unlink(self.v.clone("c", "big")))
        self.assert_refused(errno.EROFS, lambda: os.chmod(self.v.clone("c", "big"), 0o600))
        self.v.wait("c", "precopied")
        self.same(self.look(), before, "when that is precopied")
        os.unlink(self.v.at("d1/f9"))
        self.v.write("d1/f13", b"changed after it was precopied, inherited before")
        status = self.v.status("c")
        self.assertGreater(status["tracks_inherited"], 30)
        self.assertRegex(self.v.ctl("status c"),
                         rf"taken from before +{status['tracks_inherited']} tracks that did not change\n")
        self.assertIsNotNone(status["previous_at"])
        self.v.ctl("activate c")
        expected = self.now()
        self.same(self.look(), expected, "at once")
        self.v.drain("c")
        self.same(self.look(), expected, "drained")
        self.assertIsNone(self.v.status("c")["previous_at"])
        self.assertIn("no damage", self.v.ctl("verify c"))
        # Inode numbers are those of the sources, in each generation.
        after = tree.capture(self.v.clone("c"), with_inodes=True)
        kept = [p for p in after if p in numbers and b"f6" not in p]
        self.assertGreater(len(kept), 30)
        for path in kept:
            self.assertEqual(after[path]["ino"], numbers[path]["ino"], path)
        self.v.write("d1/f17", b"later")
        self.same(self.look(), expected, "the clone is its own")
        # And it can be changed again, without a trace in anything else.
        with open(self.v.clone("c", "d2/f2"), "r+b") as file:
            file.write(b"mine")
        with open(self.v.at("d2/f2"), "rb") as file:
            self.assertTrue(file.read().startswith(b"2 "))

    def test_what_did_not_change_is_not_copied(self):
        shared = os.stat(self.v.pool("clones/c/d1/f21")).st_ino
        self.change()
        self.v.ctl("recreate c --precopy")
        self.v.wait("c", "precopied")
        self.assertEqual(os.stat(self.v.pool("incomplete/c/d1/f21")).st_ino, shared)
        self.v.ctl("activate c")
        self.v.drain("c")
        st = os.stat(self.v.pool("clones/c/d1/f21"))
        self.assertEqual(st.st_ino, shared)
        wait_for(lambda: os.stat(self.v.pool("clones/c/d1/f21")).st_nlink == 1,
                 "the generation before is gone from the pool")
        # The clone's own change keeps a file from being inherited.
        with open(self.v.clone("c", "d1/f21"), "r+b") as file:
            file.write(b"mine")
        self.v.ctl("recreate c")
        self.v.ctl("activate c")
        self.v.drain("c")
        self.same(self.look(), self.now())
        self.assertNotEqual(os.stat(self.v.pool("clones/c/d1/f21")).st_ino, shared)

    def test_in_place(self):
        with open(self.v.clone("c", "d2/f2"), "r+b") as file:
            file.write(b"mine")
        os.unlink(self.v.clone("c", "d2/f10"))
        os.mkdir(self.v.clone("c", "mine"))
        os.chmod(self.v.clone("c", "d1/f1"), 0o644)
        blocks = os.stat(self.v.pool("clones/c/big")).st_ino
        self.change()
        with open(self.v.clone("c", "big"), "rb"):
            self.assert_refused(errno.EBUSY, lambda: self.v.ctl("recreate c --in-place-refresh"),
                                "open")
        self.v.ctl("recreate c --in-place-refresh --precopy")
        self.assertFalse(os.path.exists(self.v.clone("c")))
        self.v.wait("c", "precopied")
        self.v.write("d1/f9", b"after it was precopied")
        self.v.ctl("activate c")
        expected = self.now()
        self.same(self.look(), expected)
        self.v.drain("c")
        self.same(self.look(), expected)
        self.assertEqual(os.stat(self.v.pool("clones/c/big")).st_ino, blocks)
        self.assertIn("no damage", self.v.ctl("verify c"))

    def test_generations_are_kept(self):
        seen = [self.look()]
        for round_ in range(3):
            self.v.write("round", b"%d" % round_)
            self.v.ctl("recreate c --keep 2")
            self.v.ctl("activate c")
            self.v.drain("c")
            seen.append(self.now())
        for name, expected in (("c", seen[3]), ("c.1", seen[2]), ("c.2", seen[1])):
            self.same(self.look(name), expected, name)
            self.assertTrue(os.path.isdir(self.v.pool("clones", name)))
        self.assertEqual(sorted(os.listdir(self.v.at(".clonefs/clones"))), ["c", "c.1", "c.2"])
        self.v.remount()
        for name, expected in (("c", seen[3]), ("c.1", seen[2]), ("c.2", seen[1])):
            self.same(self.look(name), expected, name)
        self.v.ctl("delete c.1")
        self.v.ctl("recreate c --keep 1")
        self.v.ctl("activate c")
        self.assertEqual(sorted(os.listdir(self.v.at(".clonefs/clones"))), ["c", "c.1"])
        self.same(self.look("c.1"), seen[3])

    def test_who_reads_the_generation_before_is_not_given_a_mixture(self):
        before = self.look()
        self.change()
        with open(self.v.clone("c", "d1/f5"), "rb") as file:
            half = file.read(1000)
            self.v.ctl("recreate c --precopy")
            self.v.wait("c", "precopied")
            self.assert_refused(errno.EBUSY, lambda: self.v.ctl("activate c"), "open", "mixture")
            self.same(self.look(), before)
            self.assertEqual(half + file.read(), b"5 " * 5000)
        fd = os.open(self.v.clone("c", "d1"), os.O_RDONLY)
        self.assert_refused(errno.EBUSY, lambda: self.v.ctl("activate c"))
        os.close(fd)
        self.assert_refused(1, lambda: self.v.cli("exec", "c", "--", BIN, "activate", "c", code=0),
                            "open")
        # Who only stands in it gets an error from then on.
        there = os.open(self.v.clone("c", "d1"), os.O_PATH)
        self.v.ctl("activate c")
        self.assert_refused(errno.ESTALE, lambda: os.open("f5", os.O_RDONLY, dir_fd=there))
        os.close(there)
        self.same(self.look(), self.now())

    def test_a_reader_that_never_stops(self):
        """Who goes through it by paths, with nothing open in between, sees one generation at a time, whole, or
        an error."""
        for i in range(40):
            self.v.write(f"d{i % 4}/f{i}", b"generation 0")
        self.v.ctl("recreate c")
        self.v.ctl("activate c")
        self.v.drain("c")
        script = """
import os, sys, time
place = sys.argv[1]
while True:
    print("go", flush=True)
    seen = set()
    last, longest = time.monotonic(), 0
    for i in range(40):
        try:
            with open(f"{place}/d{i % 4}/f{i}", "rb") as file:
                seen.add(file.read())
        except OSError as e:
            seen.add(b"E")
        time.sleep(0.005)
        longest = max(longest, time.monotonic() - last)
        last = time.monotonic()
    time.sleep(0.4)  # else it is there all the time
    if len(seen - {b"E"}) > 1 and longest < 0.15:  # what is promised to who is not slower than that
        print("MIXTURE", seen, flush=True)
        sys.exit(1)
"""
        reader = subprocess.Popen([sys.executable, "-c", script, self.v.clone("c")],
                                  stdout=subprocess.PIPE, text=True)
        lines = []
        thread = threading.Thread(target=lambda: lines.extend(reader.stdout))
        thread.start()
        try:
            for generation in range(1, 6):
                for i in range(40):
                    self.v.write(f"d{i % 4}/f{i}", b"generation %d" % generation)
                self.v.ctl("recreate c --precopy")
                passes = len(lines)
                wait_for(lambda n=passes: len(lines) > n, "the reader begins again")

                def activated():
                    try:
                        self.v.ctl("activate c")
                        return True
                    except Exception as e:  # pylint: disable=broad-except
                        self.assertEqual(getattr(e, "code", None), errno.EBUSY, str(e))
                        return False
                wait_for(activated, "a moment in which nobody has it open")
                self.v.drain("c")
            self.assertIsNone(reader.poll(), lines[-3:])
        finally:
            reader.send_signal(signal.SIGTERM)
            reader.wait(timeout=30)
            thread.join(timeout=30)
        self.assertNotIn("MIXTURE", "".join(lines))
        self.assertGreaterEqual(len(lines), 5)

    def test_refused(self):
        self.assert_refused(errno.ENOENT, lambda: self.v.ctl("recreate nothing"), "no clone")
        self.assert_refused(errno.EINVAL, lambda: self.v.ctl("recreate c --keep x"), "generations")
        self.assert_refused(errno.EINVAL,
                            lambda: self.v.ctl("recreate c --keep 1 --in-place-refresh"), "leave")
        self.v.ctl("copy c.1 d1")
        self.assert_refused(errno.EEXIST, lambda: self.v.ctl("recreate c --keep 1"), "c.1")
        self.v.ctl("recreate c")
        self.assert_refused(errno.EALREADY, lambda: self.v.ctl("recreate c"), "terminate --force")
        before = self.look()
        self.v.ctl("terminate --force c")
        self.assertEqual(self.v.status("c")["state"], "Copied")
        self.same(self.look(), before)
        with open(self.v.clone("c", "big"), "r+b") as file:  # it can be changed again
            file.write(b"x")
        self.v.ctl("recreate c")
        self.v.ctl("delete --force c")
        self.assertNotIn("c", self.v.names())
        self.assertFalse(os.path.exists(self.v.clone("c")))

    def test_over_the_daemons_end(self):
        before = self.look()
        for end in (self.v.umount, self.v.kill):
            self.change()
            self.v.ctl("recreate c --precopy")
            self.v.wait("c", "precopied")
            end()
            self.v.mount()
            self.same(self.look(), before)
            self.v.wait("c", "precopied")
            self.assertGreater(self.v.status("c")["tracks_inherited"], 30)
            self.v.ctl("activate c")
            before = self.now()
            self.same(self.look(), before)
            self.v.drain("c")
            self.same(self.look(), before)
            self.assertIn("no damage", self.v.ctl("verify c"))
            # So that there is as much to change again.
            os.rename(self.v.at("d3/f6 renamed"), self.v.at("d2/f6"))
            self.v.write("d0/f0", b"back")
            time.sleep(0.1)

    def test_fsck_of_generations(self):
        self.change()
        self.v.ctl("recreate c --precopy")
        self.v.wait("c", "precopied")
        self.v.umount()
        done = run(BIN, "fsck", self.v.pool())
        self.assertEqual(done.returncode, 0, done.stdout)


class FullPool(unittest.TestCase):
    @unittest.skipUnless(os.geteuid() == 0, "mounts a small file system")
    def test_the_generation_before_stays_whole(self):
        with Volume(pool="pool") as v:
            os.mkdir(v.given_pool)
            done = run("mount", "-t", "tmpfs", "-o", "size=40m", "none", v.given_pool)
            self.assertEqual(done.returncode, 0, done.stdout)
            v.given_pool += "/p"
            v.mount()
            v.write("file", os.urandom(24 * MIB))
            time.sleep(0.1)
            v.ctl("copy c .")
            v.drain("c")
            before = tree.capture(v.clone("c"))
            v.write("file", os.urandom(24 * MIB))
            with self.assertRaises(Exception) as caught:
                v.ctl("recreate c")
            self.assertEqual(caught.exception.code, errno.ENOSPC)
            self.assertIn("--in-place-refresh", str(caught.exception))
            self.assertEqual(tree.differences(tree.capture(v.clone("c")), before), [])
            # In place there is room.
            v.ctl("recreate c --in-place-refresh --precopy")
            v.wait("c", "precopied")
            v.ctl("activate c")
            self.assertEqual(tree.differences(tree.capture(v.clone("c")), tree.capture(v.path),
                                              ("ctime",)), [])


class OrdinaryUser(unittest.TestCase):
    @unittest.skipUnless(os.geteuid() == 0, "makes its own ordinary user, as root")
    def test_as_an_ordinary_user(self):
        run_as_user(self, USER_SCRIPT)


@unittest.skipUnless(os.geteuid() == 0 and shutil.which("mkfs.xfs"), "needs root and mkfs.xfs, for a pool on it")
class SharedBlocks(unittest.TestCase):
    """A pool on a file system that shares blocks, and a source on another."""

    def test_generations_share_what_did_not_change(self):
        v = Volume(pool="disk/pool")
        self.addCleanup(v.clean_up)
        disk, image = os.path.join(v.base, "disk"), os.path.join(v.base, "image")
        os.mkdir(disk)
        with open(image, "wb") as file:
            file.truncate(1 << 30)
        for command in (("mkfs.xfs", "-q", "-m", "reflink=1", image), ("mount", "-o", "loop", image, disk)):
            done = run(*command)
            if done.returncode != 0:
                self.skipTest(done.stdout)
        with open(os.path.join(v.source, "image"), "wb") as file:
            file.write(os.urandom(64 * MIB + 1000))
        for i in range(20):
            with open(os.path.join(v.source, f"file{i}"), "wb") as file:
                file.write(os.urandom(2 * MIB))
        time.sleep(0.1)  # the clock's grain, as above
        v.mount()
        v.ctl("copy c .")
        v.drain("c")

        def used():
            os.sync()
            st = os.statvfs(disk)
            return (st.f_blocks - st.f_bfree) * st.f_frsize
        for generation in range(3):
            before, old = used(), tree.capture(v.clone("c"))
            with open(v.at("image"), "r+b") as file:
                file.seek(generation * 20 * MIB)
                file.write(b"changed")
            v.ctl("recreate c --precopy --keep 3")
            v.wait("c", "precopied")
            status = v.status("c")
            self.assertGreater(status["tracks_inherited"], status["tracks_total"] - 10)
            v.ctl("activate c")
            v.drain("c")
            self.assertLess(used() - before, 8 * MIB)
            self.assertEqual(tree.differences(tree.capture(v.clone("c")), tree.capture(v.path), ("ctime",)), [])
            self.assertEqual(tree.differences(tree.capture(v.clone("c.1")), old, ("ctime",)), [])
            self.assertIn("no damage", v.ctl("verify c"))
        v.umount()
        self.assertIn("no problem", run(BIN, "fsck", "--data", os.path.join(disk, "pool")).stdout)


if __name__ == "__main__":
    main()
