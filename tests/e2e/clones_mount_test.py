#!/usr/bin/env python3
"""The clones mount: the tree of the consistency point with all attributes, while it drains and after;
writing in clones; mapped files; passthrough; inode numbers from one generation to the next.
"""
import errno
import mmap
import os
import signal
import stat
import threading
import unittest

import tree
from volume import BIN, VolumeTest, main, run, stand_still

K = 1024
TRACK = 64 * K


def kernel():
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])


def pattern(seed, size):
    return b"".join(b"%015d\n" % (seed * 1000003 + i) for i in range((size + 15) // 16))[:size]


class Clones(VolumeTest):
    def setUp(self):
        super().setUp()
        v = self.v
        v.write("d/a", pattern(1, 5 * TRACK + 100))
        v.write("d/b", pattern(2, 10))
        v.write("d/sub/c", pattern(3, 3 * TRACK), 0o640)
        v.write("d/empty", b"")
        os.link(v.at("d/a"), v.at("d/sub/a2"))
        os.symlink("../b", v.at("d/sub/link"))
        os.mkfifo(v.at("d/fifo"), 0o620)
        os.mkdir(v.at("d/private"), 0o700)
        with open(v.at("d/sparse"), "wb") as file:
            file.truncate(40 * TRACK)
            file.seek(20 * TRACK)
            file.write(b"in the middle")
        os.setxattr(v.at("d/b"), "user.note", b"some\0value")
        os.utime(v.at("d/b"), ns=(1234567890123456789, 987654321987654321))
        os.utime(v.at("d/sub"), ns=(1111111111222222222, 1333333333444444444))
        if os.geteuid() == 0:
            os.chown(v.at("d/b"), 1234, 5678)
            os.mknod(v.at("d/null"), 0o600 | stat.S_IFCHR, os.makedev(1, 3))

    def pending(self, name="x", paths="d"):
        """A clone that nothing drains."""
        self.v.ctl(f"copy {name} {paths} --nocopy")

    def drained(self, name="x", paths="d"):
        self.v.ctl(f"copy {name} {paths}")
        self.v.wait(name)

    def settle(self):
        """A writeback cache shows its own idea of the ctime of what was just written."""
        self.v.remount()

    def test_the_same_tree_at_every_time(self):
        v = self.v
        self.settle()
        before = tree.capture(v.at("d"))
        v.ctl("create x d")
        self.assert_refused(errno.ENOENT, lambda: os.listdir(v.clone("x")))  # locked
        self.assertEqual(os.listdir(v.at(".clonefs/clones")), [])
        v.ctl("activate x")
        self.assertEqual(tree.capture(v.clone("x", "d")), before)
        v.write("d/a", b"changed")
        os.unlink(v.at("d/b"))
        self.assertEqual(tree.capture(v.clone("x", "d")), before)
        v.wait("x")
        self.assertEqual(tree.capture(v.clone("x", "d")), before)
        v.ctl("terminate x")
        self.assertEqual(tree.capture(v.clone("x", "d")), before)
        v.remount()
        self.assertEqual(tree.capture(v.clone("x", "d")), before)

    def test_holes(self):
        v = self.v
        for name, make in (("p", self.pending), ("q", self.drained)):
            make(name, "d/sparse")
            fd = os.open(v.clone(name, "d/sparse"), os.O_RDONLY)
            try:
                data = os.lseek(fd, 0, os.SEEK_DATA)
                self.assertTrue(0 < data <= 20 * TRACK, data)
                hole = os.lseek(fd, data, os.SEEK_HOLE)
                self.assertTrue(20 * TRACK < hole <= 21 * TRACK, hole)
                self.assertEqual(os.pread(fd, 13, 20 * TRACK), b"in the middle")
                self.assertEqual(os.pread(fd, TRACK, 30 * TRACK), bytes(TRACK))
            finally:
                os.close(fd)

    def test_writes_stay_in_the_clone(self):
        v = self.v
        for name, make in (("p", self.pending), ("q", self.drained)):
            make(name)
            path = v.clone(name, "d/a")
            want = bytearray(pattern(1, 5 * TRACK + 100))
            with open(path, "r+b") as file:
                for offset, text in ((10, b"small"), (TRACK - 3, b"across"), (4 * TRACK, b"y" * TRACK),
                                     (5 * TRACK + 90, b"beyond the end of it")):
                    file.seek(offset)
                    file.write(text)
                    want[offset:offset + len(text)] = text
            with open(path, "rb") as file:
                self.assertEqual(file.read(), bytes(want))
            with open(v.clone(name, "d/sub/a2"), "rb") as file:  # the same file
                self.assertEqual(file.read(), bytes(want))
            os.truncate(path, 2 * TRACK + 5)
            os.truncate(path, 3 * TRACK)
            want = want[:2 * TRACK + 5] + bytes(TRACK - 5)
            with open(path, "rb") as file:
                self.assertEqual(file.read(), bytes(want))
            with open(v.at("d/a"), "rb") as file:
                self.assertEqual(file.read(), pattern(1, 5 * TRACK + 100))
        self.v.ctl("rate p unlimited")

    def test_mapped_files(self):
        v = self.v
        for name, make in (("p", self.pending), ("q", self.drained)):
            make(name)
            path = v.clone(name, "d/a")
            want = bytearray(pattern(1, 5 * TRACK + 100))
            old = os.stat(path)
            with open(path, "r+b") as file:
                with mmap.mmap(file.fileno(), 0) as shared:
                    self.assertEqual(shared[:], bytes(want))
                    shared[100:106] = b"mapped"
                    shared[5 * TRACK + 94:5 * TRACK + 100] = b"ending"
                    shared.flush()
                    shared[3 * TRACK:3 * TRACK + 5] = b"later"
            want[100:106] = b"mapped"
            want[5 * TRACK + 94:] = b"ending"
            want[3 * TRACK:3 * TRACK + 5] = b"later"
            with open(path, "rb") as file:
                self.assertEqual(file.read(), bytes(want))
                with mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as private:
                    self.assertEqual(private[:], bytes(want))
            new = os.stat(path)
            self.assertGreater(new.st_mtime_ns, old.st_mtime_ns, name)
            self.assertGreater(new.st_ctime_ns, old.st_ctime_ns, name)
            with open(v.at("d/a"), "rb") as file:
                self.assertEqual(file.read(), pattern(1, 5 * TRACK + 100))

    def test_own_times_after_a_change(self):
        v = self.v
        self.settle()
        for name, make in (("p", self.pending), ("q", self.drained)):
            make(name)
            path = v.clone(name, "d/b")
            shown = os.stat(path)
            self.assertEqual(shown.st_mtime_ns, 987654321987654321)
            self.assertEqual(shown.st_ctime_ns, os.stat(v.at("d/b")).st_ctime_ns)
            os.chmod(path, 0o600)
            changed = os.stat(path)
            self.assertGreater(changed.st_ctime_ns, shown.st_ctime_ns)
            self.assertEqual(changed.st_mtime_ns, shown.st_mtime_ns)
            os.utime(path, ns=(5, 7000000001))
            self.assertEqual(os.stat(path).st_mtime_ns, 7000000001)
            with open(path, "ab") as file:
                file.write(b"x")
            self.assertGreater(os.stat(path).st_mtime_ns, 987654321987654321)
            self.assertEqual(os.stat(v.at("d/b")).st_mtime_ns, 987654321987654321)

    def test_utime_survives_the_drain(self):
        v = self.v
        v.ctl("copy x d")
        v.ctl("rate x 1")
        os.utime(v.clone("x", "d/a"), ns=(5, 7000000001))
        v.drain("x")
        self.assertEqual(os.stat(v.clone("x", "d/a")).st_mtime_ns, 7000000001)

    def test_names_in_clones(self):
        v = self.v
        for name, make in (("p", self.pending), ("q", self.drained)):
            make(name)
            at = lambda *parts: v.clone(name, "d", *parts)
            os.mkdir(at("new"))
            with open(at("new/file"), "xb") as file:
                file.write(b"hello")
            self.assert_refused(errno.EEXIST, lambda: open(at("new/file"), "xb"))
            os.rename(at("new/file"), at("sub/moved"))
            os.link(at("sub/moved"), at("linked"))
            self.assertEqual(os.stat(at("linked")).st_nlink, 2)
            self.assertEqual(os.stat(at("linked")).st_ino, os.stat(at("sub/moved")).st_ino)
            os.symlink("linked", at("soft"))
            self.assertEqual(os.readlink(at("soft")), "linked")
            os.rename(at("a"), at("b"))  # over another
            with open(at("b"), "rb") as file:
                self.assertEqual(file.read(), pattern(1, 5 * TRACK + 100))
            self.assert_refused(errno.ENOTEMPTY, lambda: os.rmdir(at("sub")))
            os.rmdir(at("new"))
            held = os.open(at("sub/c"), os.O_RDWR)
            os.unlink(at("sub/c"))
            self.assertEqual(os.fstat(held).st_nlink, 0)
            self.assertEqual(os.pread(held, 3 * TRACK, 0), pattern(3, 3 * TRACK))
            os.pwrite(held, b"gone", TRACK)
            self.assertEqual(os.pread(held, 4, TRACK), b"gone")
            os.close(held)
            os.setxattr(at("linked"), "user.mine", b"1")
            self.assertEqual(os.listxattr(at("linked")), ["user.mine"])
            os.removexattr(at("linked"), "user.mine")
            self.assertEqual(os.listxattr(at("linked")), [])
            self.assertEqual(sorted(os.listdir(v.at("d/sub"))), ["a2", "c", "link"])
            self.assertIn("a", os.listdir(v.at("d")))
        self.pending("other")
        self.assert_refused(errno.EXDEV,
                            lambda: os.rename(v.clone("p", "d/soft"), v.clone("other", "d/soft")))
        self.assert_refused(errno.EXDEV,
                            lambda: os.link(v.clone("p", "d/linked"), v.clone("other", "d/l")))

    def test_removed_in_the_clone_before_it_is_drained(self):
        v = self.v
        v.ctl("copy x d")
        v.ctl("rate x 1")
        os.unlink(v.clone("x", "d/sub/c"))
        v.drain("x")
        self.assertEqual(v.status("x")["error"], None)
        self.assertNotIn("c", os.listdir(v.clone("x", "d/sub")))

    def test_a_number_that_the_pool_gives_again(self):
        """A new file is no member because it has the inode number that a removed one had in the pool."""
        v = self.v
        for i in range(20):
            v.write(f"many/{i}", pattern(i, 3 * TRACK))
        v.ctl("create c many")
        v.stall("c")
        v.ctl("activate c")
        tree_ = v.pool("incomplete/c/many")
        numbers = {os.stat(os.path.join(tree_, str(i))).st_ino for i in range(20)}
        live = {os.stat(v.at(f"many/{i}")).st_ino for i in range(20)}
        for i in range(20):
            os.unlink(v.clone("c", f"many/{i}"))
        again = []
        for i in range(5000):
            path = v.clone("c", f"many/new {i}")
            with open(path, "wb") as file:
                file.write(b"mine")
                os.ftruncate(file.fileno(), 2 * TRACK)
                if os.stat(os.path.join(tree_, f"new {i}")).st_ino in numbers:
                    file.write(b" and more")
                    os.fsync(file.fileno())
                    again.append(path)
            if len(again) == 5:
                break
        if not again:
            self.skipTest("this file system does not give numbers again so soon")
        for when in ("at once", "after a restart", "drained"):
            for path in again:
                with open(path, "rb") as file:
                    self.assertEqual(file.read().rstrip(b"\0"), b"mine and more", when)
                st = os.stat(path)
                self.assertEqual(st.st_size, 2 * TRACK, when)
                self.assertNotIn(st.st_ino & (1 << 47) - 1, live, when)
                # Its own times: it is younger than the consistency point.
                self.assertGreater(st.st_ctime_ns, os.stat(v.at("many")).st_ctime_ns, when)
            if when == "at once":
                v.remount()
            elif when == "after a restart":
                v.drain("c")

    def test_inode_numbers_are_stable(self):
        v = self.v

        def numbers():
            top = v.clone("x")
            return {os.path.relpath(os.path.join(at, name), top): os.lstat(os.path.join(at, name)).st_ino
                    for at, folders, names in os.walk(top) for name in folders + names}
        self.drained()
        first = numbers()
        self.assertEqual(first["d/a"], first["d/sub/a2"])
        others = {path: ino for path, ino in first.items() if path != "d/sub/a2"}
        self.assertEqual(len(set(others.values())), len(others))
        for entry in os.scandir(v.clone("x", "d")):
            self.assertEqual(entry.inode(), first["d/" + entry.name])
        v.remount()
        self.assertEqual(numbers(), first)
        v.ctl("delete x --force")
        v.write("d/b", b"other data")
        self.pending()
        self.assertEqual(numbers(), first)
        self.drained("y")
        self.assertNotEqual(os.stat(v.clone("y", "d/a")).st_ino, first["d/a"])

    def test_a_large_directory(self):
        v = self.v
        os.mkdir(v.at("many"))
        names = [f"file-{i:05}" for i in range(5000)]
        for name in names:
            os.close(os.open(v.at("many", name), os.O_CREAT | os.O_WRONLY))
        self.pending("x", "many")
        self.assertEqual(sorted(os.listdir(v.clone("x", "many"))), names)
        self.assertEqual(run("sh", "-c", "ls -l | wc -l", cwd=v.clone("x", "many")).stdout.strip(),
                         "5001")

    def test_deleted_while_in_use(self):
        v = self.v
        self.pending()
        held = os.open(v.clone("x", "d/a"), os.O_RDONLY)
        directory = os.open(v.clone("x", "d"), os.O_RDONLY)
        v.ctl("delete x --force")
        self.assert_refused(errno.ENOENT, lambda: os.stat(v.clone("x")))
        with self.assertRaises(OSError) as caught:
            os.pread(held, 10, 4 * TRACK)
        self.assertIn(caught.exception.errno, (errno.ESTALE, errno.EIO))
        os.close(held)
        os.close(directory)
        self.pending()  # the name is free
        with open(v.clone("x", "d/b"), "rb") as file:
            self.assertEqual(file.read(), pattern(2, 10))

    def test_a_clone_that_is_gone_is_not_found(self):
        """Though the kernel keeps all names and attributes of clones."""
        v = self.v

        def removed_by_its_list():
            os.rmdir(v.at(".clone/x"))
        for n, remove in enumerate((lambda: v.ctl("delete x --force"),
                                    lambda: v.ctl("terminate x --force"),
                                    lambda: os.rmdir(v.clone("x")), removed_by_its_list) * 3):
            v.write("d/b", b"x" * (n + 1))
            self.pending("x", ".")
            self.assertEqual(os.stat(v.clone("x", "d/b")).st_size, n + 1)
            self.assertEqual(os.listdir(v.at(".clonefs/clones")), ["x"])
            remove()
            self.assertFalse(os.path.lexists(v.clone("x", "d/b")), n)
            self.assertFalse(os.path.lexists(v.clone("x")), n)
            self.assertEqual(os.listdir(v.at(".clonefs/clones")), [])

    def test_names_and_attributes_are_kept_by_the_kernel(self):
        v = self.v
        self.drained()
        names = [v.clone("x", name) for name in ("d/a", "d/sub/c", "d/empty")]
        before = [os.lstat(name) for name in names]
        self.assertTrue(self.without_the_daemon(
            lambda: self.assertEqual([os.lstat(name) for name in names], before)))

    def without_the_daemon(self, look):
        """Whether LOOK needs no answer of the daemon. What it has to know of .clonefs/clones itself is good for a
        second only: on a busy machine that may pass."""
        for _ in range(3):
            os.stat(self.v.at(".clonefs/clones"))
            resume = threading.Timer(5, os.kill, (self.v.pid, signal.SIGCONT))
            stand_still(self.v.pid)
            resume.start()
            try:
                look()
                if resume.is_alive():
                    return True
            finally:
                os.kill(self.v.pid, signal.SIGCONT)
                resume.cancel()
        return False

    def test_a_listing_that_the_kernel_keeps_follows_changes(self):
        v = self.v
        self.drained()
        top = v.clone("x", "d")
        names = set(os.listdir(top))
        for _ in range(3):
            self.assertEqual(set(os.listdir(top)), names)
            v.write(".clonefs/clones/x/d/new", b"1")
            self.assertEqual(set(os.listdir(top)), names | {"new"})
            os.rename(f"{top}/new", f"{top}/sub/new")
            self.assertEqual(set(os.listdir(top)), names)
            self.assertIn("new", os.listdir(f"{top}/sub"))
            os.unlink(f"{top}/sub/new")
            self.assertNotIn("new", os.listdir(f"{top}/sub"))

    @unittest.skipUnless(os.geteuid() == 0, "only root gives files away")
    def test_only_who_owns_the_volume_now_makes_and_removes_clones(self):
        v = self.v
        os.chmod(v.path, 0o755)
        os.chown(v.path, 4242, -1)

        def as_user(*command):
            return run("setpriv", "--reuid=4242", "--regid=4243", "--clear-groups", *command)
        for name in (v.at(".clonefs/clones/x"), v.at(".clone/y")):
            os.chown(v.path, 4242, -1)
            self.assertEqual(as_user("mkdir", name).returncode, 0)
            os.stat(os.path.dirname(name))
            os.chown(v.path, 0, -1)
            self.assertNotEqual(as_user("rmdir", name).returncode, 0)
            self.assertNotEqual(as_user("mkdir", name + "2").returncode, 0)
            self.assertTrue(os.path.isdir(name))
            self.assertFalse(os.path.isdir(name + "2"))

    @unittest.skipUnless(os.geteuid() == 0, "passthrough needs root")
    @unittest.skipIf("without passthrough" in run(BIN, "--version").stdout, "an old libfuse")
    @unittest.skipUnless(kernel() >= (6, 9), "an old kernel")
    def test_passthrough_of_drained_files(self):
        """Reads and writes of a drained file need no answer of the daemon."""
        v = self.v
        self.drained()
        fd = os.open(v.clone("x", "d/a"), os.O_RDWR)
        os.pwrite(fd, b"first", 0)  # the kernel asks for security.capability once

        def read_and_write():
            self.assertEqual(os.pread(fd, TRACK, TRACK), pattern(1, 5 * TRACK)[TRACK:2 * TRACK])
            os.pwrite(fd, b"second", 0)
        try:
            self.assertTrue(self.without_the_daemon(read_and_write))
        finally:
            os.close(fd)
        with open(v.clone("x", "d/a"), "rb") as file:
            self.assertEqual(file.read(6), b"second")

    def test_opened_before_it_was_drained(self):
        """An open file stays right while its last tracks are drained and others open it."""
        v = self.v
        want = pattern(1, 5 * TRACK + 100)
        v.ctl("copy x d")
        v.ctl("rate x 1")
        early = os.open(v.clone("x", "d/a"), os.O_RDWR)
        self.assertEqual(os.pread(early, 100, 0), want[:100])
        v.drain("x")
        late = os.open(v.clone("x", "d/a"), os.O_RDWR)
        os.pwrite(early, b"early", 2 * TRACK)
        os.pwrite(late, b"late", 3 * TRACK)
        want = bytearray(want)
        want[2 * TRACK:2 * TRACK + 5] = b"early"
        want[3 * TRACK:3 * TRACK + 4] = b"late"
        for fd in (early, late):
            self.assertEqual(os.pread(fd, len(want), 0), bytes(want))
            os.close(fd)
        again = os.open(v.clone("x", "d/a"), os.O_RDWR)  # by passthrough now
        self.assertEqual(os.pread(again, len(want), 0), bytes(want))
        os.pwrite(again, b"again", 0)
        os.close(again)
        with open(v.clone("x", "d/a"), "rb") as file:
            self.assertEqual(file.read(5), b"again")

    @unittest.skipUnless(os.geteuid() == 0, "acts as another user")
    def test_set_id_bits_go_with_a_write(self):
        v = self.v
        os.chmod(v.path, 0o755)
        for name, make in (("p", self.pending), ("q", self.drained)):
            v.write("suid", pattern(4, TRACK))
            os.chmod(v.at("suid"), 0o6777)
            make(name, "suid")
            done = run("setpriv", "--reuid=4242", "--regid=4242", "--clear-groups", "sh", "-c",
                       f"echo x >> {v.clone(name, 'suid')}")
            self.assertEqual(done.returncode, 0, done.stdout)
            self.assertEqual(stat.S_IMODE(os.stat(v.clone(name, "suid")).st_mode), 0o777, name)
            self.assertEqual(stat.S_IMODE(os.stat(v.at("suid")).st_mode), 0o6777)

    @unittest.skipUnless(os.geteuid() == 0, "acts as another user")
    def test_created_as_the_caller(self):
        v = self.v
        os.chmod(v.path, 0o755)
        os.mkdir(v.at("open"))
        os.chmod(v.at("open"), 0o777)
        self.pending("x", "open")
        done = run("setpriv", "--reuid=4242", "--regid=4243", "--clear-groups", "sh", "-c",
                   "umask 027; touch f; mkdir d; ln -s f l; mkfifo p", cwd=v.clone("x", "open"))
        self.assertEqual(done.returncode, 0, done.stdout)
        for name, mode in (("f", 0o640), ("d", 0o750), ("p", 0o640), ("l", 0o777)):
            st = os.lstat(v.clone("x", "open", name))
            self.assertEqual((st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)), (4242, 4243, mode),
                             name)


if __name__ == "__main__":
    main()
