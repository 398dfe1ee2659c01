#!/usr/bin/env python3
"""What the kernel promises of a file system, class by class: the same checks on a native directory, on
the live mount with both caches, with a session that is active, and on a drained clone. The native
directory says what is to be expected; where FUSE itself differs, the test names it (fs/SEMANTICS.md).
"""
import ctypes
import errno
import fcntl
import mmap
import os
import random
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import unittest

from volume import LONG, SEED, TEST_DIR, Refused, Volume, die_with_parent, libc, main, run, wait_for

KIB, MIB = 1 << 10, 1 << 20
PAGE = mmap.PAGESIZE
ROOT = os.geteuid() == 0
AT_EMPTY_PATH, AT_SYMLINK_FOLLOW = 0x1000, 0x400
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE, INSERT, UNSHARE = 1, 2, 8, 16, 32, 64
NOREPLACE, EXCHANGE = 1, 2
F_OFD_SETLK = 37
CLOCK_REALTIME_COARSE = 5
SYS_GETDENTS64 = {"x86_64": 217}.get(os.uname().machine, 61)
NAME_TOO_LONG = "n" * 256


def call(function, *arguments):
    """A call of the C library; OSError when it fails."""
    result = function(*arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def linkat(old_fd, old, new, flags):
    call(libc.linkat, old_fd, os.fsencode(old), -100, os.fsencode(new), flags)


def renameat2(old, new, flags):
    call(libc.renameat2, -100, os.fsencode(old), -100, os.fsencode(new), flags)


def fallocate(fd, mode, offset, length):
    call(libc.fallocate, fd, mode, ctypes.c_long(offset), ctypes.c_long(length))


def getdents(fd, size):
    """One call: [(name, offset of the next)]."""
    buffer = ctypes.create_string_buffer(size)
    got = call(libc.syscall, SYS_GETDENTS64, fd, buffer, size)
    entries, at = [], 0
    while at < got:
        _, following, length, _ = struct.unpack_from("<QqHB", buffer.raw, at)
        name = buffer.raw[at + 19:at + length].split(b"\0", 1)[0]
        if name not in (b".", b".."):
            entries.append((name.decode(), following))
        at += length
    return entries if got else None


def spawn(act):
    """ACT in a process of its own; its pid. Exit code 0, or 1 if it raised."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            die_with_parent()
            act()
            code = 0
        except BaseException:  # pylint: disable=broad-except
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def ended(pid, timeout=30):
    """The wait status of a child, within TIMEOUT."""
    return wait_for(lambda: (lambda got: got if got[0] else None)(os.waitpid(pid, os.WNOHANG)),
                    f"the end of process {pid}", timeout)[1]


def longest_link():
    """Of a symbolic link where the volumes are: XFS admits 1,024 bytes, others what a path may have."""
    with tempfile.TemporaryDirectory(dir=TEST_DIR) as folder:
        try:
            os.symlink("t" * 4095, os.path.join(folder, "link"))
            return 4095
        except OSError:
            return 1024


class Behaviour:
    """The checks. self.d: an empty directory to work in."""
    fuse = True
    live = True
    writeback = False
    a_path_holds = True
    volume = None

    def setUp(self):
        self.d = tempfile.mkdtemp(dir=self.root)
        os.chmod(self.d, 0o755)
        self.addCleanup(shutil.rmtree, self.d, True)

    def at(self, *names):
        return os.path.join(self.d, *names)

    def make(self, name, data=b""):
        with open(self.at(name), "wb") as file:
            file.write(data)
        return self.at(name)

    def content(self, name):
        with open(self.at(name), "rb") as file:
            return file.read()

    def open(self, name, flags=os.O_RDWR | os.O_CREAT, mode=0o644):
        fd = os.open(self.at(name), flags, mode)
        self.addCleanup(self.close, fd)
        return fd

    @staticmethod
    def close(fd):
        try:
            os.close(fd)
        except OSError:
            pass

    def fails(self, code, action, *arguments):
        with self.assertRaises(OSError) as caught:
            action(*arguments)
        got = caught.exception.errno
        self.assertEqual(errno.errorcode.get(got, got), errno.errorcode[code])

    def child(self, act):
        self.assertEqual(ended(spawn(act)), 0)

    # --- names and links

    def test_a_file_without_a_name(self):
        fd = self.open("f")
        os.write(fd, b"before" * 1000)
        os.unlink(self.at("f"))
        self.make("f", b"another")  # the name is free
        self.assertEqual(os.fstat(fd).st_nlink, 0)
        self.assertNotEqual(os.fstat(fd).st_ino, os.stat(self.at("f")).st_ino)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if ROOT and LONG:
            with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
                file.write("3")
        self.assertEqual(os.pread(fd, 7000, 0), b"before" * 1000)
        os.pwrite(fd, b"after", 3)
        os.ftruncate(fd, 8)
        os.fchmod(fd, 0o600)
        os.setxattr(fd, "user.a", b"1")
        os.utime(fd, ns=(5, 7))
        st = os.fstat(fd)
        self.assertEqual((st.st_size, stat.S_IMODE(st.st_mode), st.st_mtime_ns), (8, 0o600, 7))
        self.assertEqual(os.getxattr(fd, "user.a"), b"1")
        # Reopened by the process's own way; a second descriptor is the same file.
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        self.assertEqual(os.read(again, 100), b"befafter")
        os.close(again)
        # A file whose last name is gone never gets one again.
        self.fails(errno.ENOENT, linkat, fd, "", self.at("g"), AT_EMPTY_PATH)
        self.fails(errno.ENOENT, linkat, -100, f"/proc/self/fd/{fd}", self.at("g"), AT_SYMLINK_FOLLOW)
        self.assertEqual(self.content("f"), b"another")

    def test_a_directory_without_a_name(self):
        os.mkdir(self.at("d"))
        fd = self.open("d", os.O_RDONLY | os.O_DIRECTORY)
        os.rmdir(self.at("d"))
        self.assertEqual(os.listdir(fd), [])
        with self.assertRaises(FileNotFoundError):
            os.open("x", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd)
        with self.assertRaises(FileNotFoundError):
            os.mkdir("x", dir_fd=fd)
        self.assertEqual(os.fstat(fd).st_nlink, 0)

    def test_a_name_is_given_by_descriptor(self):
        fd = self.open("f")
        os.write(fd, b"x")
        linkat(-100, f"/proc/self/fd/{fd}", self.at("g"), AT_SYMLINK_FOLLOW)
        if ROOT:
            linkat(fd, "", self.at("h"), AT_EMPTY_PATH)
        self.assertEqual(os.fstat(fd).st_nlink, 3 if ROOT else 2)
        self.assertEqual(self.content("g"), b"x")

    def test_tmpfile(self):
        fd = os.open(self.d, os.O_TMPFILE | os.O_RDWR, 0o640)
        self.addCleanup(self.close, fd)
        os.write(fd, b"x" * 70000)
        self.assertEqual(os.listdir(self.d), [])
        self.assertEqual(os.fstat(fd).st_nlink, 0)
        linkat(-100, f"/proc/self/fd/{fd}", self.at("f"), AT_SYMLINK_FOLLOW)
        os.write(fd, b"y")
        self.assertEqual(self.content("f"), b"x" * 70000 + b"y")
        self.assertEqual(os.stat(self.at("f")).st_nlink, 1)
        never = os.open(self.d, os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
        self.addCleanup(self.close, never)
        self.fails(errno.ENOENT, linkat, -100, f"/proc/self/fd/{never}", self.at("g"),
                   AT_SYMLINK_FOLLOW)

    def test_renames_of_what_is_open(self):
        os.makedirs(self.at("a/b"))
        os.mkdir(self.at("c"))
        fd, over = self.open("a/b/f"), self.open("c/g")
        os.write(fd, b"moved")
        os.write(over, b"overwritten")
        ino = os.fstat(fd).st_ino
        os.rename(self.at("a/b/f"), self.at("c/g"))
        os.write(fd, b" on")
        os.rename(self.at("c"), self.at("a/b/c"))
        os.write(fd, b" and on")
        self.assertEqual(os.pread(over, 100, 0), b"overwritten")
        self.assertEqual(os.fstat(over).st_nlink, 0)
        self.assertEqual(self.content("a/b/c/g"), b"moved on and on")
        self.assertEqual(os.stat(self.at("a/b/c/g")).st_ino, ino)
        self.fails(errno.EINVAL, os.rename, self.at("a"), self.at("a/b/a"))
        self.fails(errno.ENOTEMPTY, os.rename, self.at("a/b/c"), self.at("a"))
        # The working directory goes along.
        def in_it():
            os.chdir(self.at("a/b/c"))
            os.rename(self.at("a"), self.at("z"))
            with open("g", "rb") as file:
                assert file.read() == b"moved on and on"
            assert os.getcwd() == self.at("z/b/c"), os.getcwd()
        self.child(in_it)

    def test_rename_flags(self):
        self.make("f", b"f")
        self.make("g", b"g")
        os.mkdir(self.at("d"))
        self.fails(errno.EEXIST, renameat2, self.at("f"), self.at("g"), NOREPLACE)
        renameat2(self.at("f"), self.at("h"), NOREPLACE)
        renameat2(self.at("h"), self.at("d"), EXCHANGE)
        self.assertTrue(os.path.isdir(self.at("h")))
        self.assertEqual(self.content("d"), b"f")
        self.fails(errno.ENOENT, renameat2, self.at("d"), self.at("none"), EXCHANGE)
        self.fails(errno.EINVAL, renameat2, self.at("d"), self.at("g"), NOREPLACE | EXCHANGE)

    def test_hard_links_across_directories(self):
        for name in ("a", "b", "b/c"):
            os.mkdir(self.at(name))
        self.make("a/f", b"1")
        os.link(self.at("a/f"), self.at("b/g"))
        os.link(self.at("b/g"), self.at("b/c/h"))
        with open(self.at("b/c/h"), "ab") as file:
            file.write(b"2")
        os.chmod(self.at("b/g"), 0o600)
        seen = [os.stat(self.at(name)) for name in ("a/f", "b/g", "b/c/h")]
        for st in seen:
            self.assertEqual((st.st_ino, st.st_nlink, st.st_size, stat.S_IMODE(st.st_mode)),
                             (seen[0].st_ino, 3, 2, 0o600))
        self.assertEqual(len({st.st_ctime_ns for st in seen}), 1)
        # A rename onto another name of the same file does nothing.
        os.rename(self.at("a/f"), self.at("b/g"))
        self.assertTrue(os.path.exists(self.at("a/f")))
        os.unlink(self.at("b/g"))
        self.assertEqual(os.stat(self.at("a/f")).st_nlink, 2)
        self.assertEqual(self.content("b/c/h"), b"12")
        os.symlink("f", self.at("a/s"))
        os.link(self.at("a/s"), self.at("b/s"), follow_symlinks=False)
        self.assertEqual(os.readlink(self.at("b/s")), "f")
        self.fails(errno.EPERM, os.link, self.at("a"), self.at("b/dir"))
        self.fails(errno.EEXIST, os.link, self.at("a/f"), self.at("b/s"))

    def test_as_many_links_as_the_source_takes(self):
        """As many as ext4 admits (65,000) with CLONEFS_LONG, and the errno of the one too many."""
        self.make("f")
        made = 1
        try:
            for made in range(1, 70000 if LONG else 1500):
                os.link(self.at("f"), self.at(str(made)))
        except OSError as e:
            self.assertEqual(e.errno, errno.EMLINK)
        else:
            made += 1
        self.assertGreater(made, 32000 if LONG else 1400)
        self.assertEqual(os.stat(self.at("f")).st_nlink, made)
        self.assertEqual(os.stat(self.at("1")).st_nlink, made)

    def test_names_of_any_length_and_bytes(self):
        names = ["n" * 255, "\u00e4" * 127, "a\nb", "\t", " ", "-", "\\", "a" * 254 + "\u007f"]
        raw = [os.fsencode(name) for name in names] + [bytes(range(1, 47)), b"\xff\xfe\x80"]
        for name in raw:
            os.close(os.open(os.path.join(os.fsencode(self.d), name), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        self.assertEqual(sorted(os.listdir(os.fsencode(self.d))), sorted(raw))
        for name in raw:
            path = os.path.join(os.fsencode(self.d), name)
            os.rename(path, path[:-1] + b"~")
            os.unlink(path[:-1] + b"~")
        long = self.at(NAME_TOO_LONG)
        self.make("f")
        for act in (lambda: os.stat(long), lambda: os.mkdir(long), lambda: os.symlink("x", long),
                    lambda: os.rename(self.at("f"), long), lambda: os.link(self.at("f"), long),
                    lambda: os.unlink(long), lambda: os.mkfifo(long),
                    lambda: os.open(long, os.O_CREAT | os.O_WRONLY)):
            self.fails(errno.ENAMETOOLONG, act)

    def test_paths_as_long_as_a_path_may_be(self):
        """4,095 bytes by one call, far more by steps."""
        path = self.d
        while len(path) + 202 < 4095:
            path += "/" + "p" * 200
            os.mkdir(path)
        name = "f" * (4095 - len(path) - 1)
        with open(f"{path}/{name}", "wb") as file:
            file.write(b"deep")
        self.assertEqual(os.stat(f"{path}/{name}").st_size, 4)
        os.rename(f"{path}/{name}", self.at("up"))
        os.rename(self.at("up"), f"{path}/{name}")
        self.fails(errno.ENAMETOOLONG, os.stat, f"{path}/{name}x")
        longest = longest_link()
        os.symlink("t" * longest, self.at("longest"))
        self.assertEqual(os.readlink(self.at("longest")), "t" * longest)
        self.fails(errno.ENAMETOOLONG, os.stat, self.at("longest"))
        self.fails(errno.ENAMETOOLONG, os.symlink, "t" * (longest + 1), self.at("longer"))

        def deeper():
            os.chdir(path)
            for _ in range(20):
                os.mkdir("q" * 255)
                os.chdir("q" * 255)
            with open("bottom", "wb") as file:
                file.write(b"x" * 100)
            assert os.stat("bottom").st_size == 100
            os.stat(".." + "/.." * 25)
        self.child(deeper)
        self.assertEqual(run("rm", "-rf", self.at("p" * 200)).stdout, "")
        self.assertFalse(os.path.exists(self.at("p" * 200)))
        for i in range(45):
            os.symlink(f"l{i + 1}", self.at(f"l{i}"))
        self.fails(errno.ELOOP, os.stat, self.at("l0"))

    # --- directories

    def test_a_directory_that_changes_while_it_is_read(self):
        """What stays is shown once, what comes and goes at most once."""
        count = 5000 if LONG else 1200
        stay = {f"stay-{i:05}" for i in range(count)}
        for name in stay:
            os.close(os.open(self.at(name), os.O_CREAT | os.O_WRONLY))
            if name.endswith("0"):
                os.close(os.open(self.at("gone-" + name), os.O_CREAT | os.O_WRONLY))
        for size in (1024, 4096, 32768):
            fd = os.open(self.d, os.O_RDONLY | os.O_DIRECTORY)
            seen, step = [], 0
            while (entries := getdents(fd, size)) is not None:
                seen += [name for name, _ in entries]
                step += 1
                new = self.at(f"new-{size}-{step}")
                os.close(os.open(new, os.O_CREAT | os.O_WRONLY))
                gone = self.at(f"gone-stay-{step * 10 % count:05}")
                if os.path.exists(gone):
                    os.unlink(gone)
                if step % 3 == 0:
                    os.rename(new, new + "-moved")
                if step % 20 == 0:
                    os.listdir(self.d)  # another reader, who fills caches
            os.close(fd)
            kept = [name for name in seen if name in stay]
            self.assertEqual(len(kept), len(set(kept)), "an entry is shown twice")
            self.assertEqual(set(kept), stay, "an entry is not shown")

    def test_places_in_a_directory(self):
        """seekdir to where telldir was goes on from there, in any order, and whatever was read since."""
        for i in range(600):
            os.mkdir(self.at(f"entry-{i}"))
        fd = self.open(".", os.O_RDONLY | os.O_DIRECTORY)
        order = []
        while (entries := getdents(fd, 2048)) is not None:
            order += entries
        self.assertEqual(len({name for name, _ in order}), 600)
        places = [0] + [following for _, following in order]
        for i in random.Random(SEED).sample(range(600), 60):
            os.lseek(fd, places[i], os.SEEK_SET)
            self.assertEqual(getdents(fd, 2048)[0][0], order[i][0])
        # Each is removed when it is seen, as rm -r does with some libraries.
        os.lseek(fd, 0, os.SEEK_SET)
        while (entries := getdents(fd, 512)) is not None:
            for name, _ in entries:
                os.rmdir(self.at(name))
        self.assertEqual(os.listdir(self.d), [])

    # --- data

    def test_a_hundred_threads_on_one_file(self):
        rounds, size = (200, 4096) if LONG else (20, 1000)
        self.make("f")
        shared = self.open("f")
        problems = []

        def work(i):
            try:
                fd = shared if i % 2 else os.open(self.at("f"), os.O_RDWR)
                append = os.open(self.at("log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                for n in range(rounds):
                    data = struct.pack("<HH", i, n) * (size // 4)
                    os.pwrite(fd, data, i * size)
                    if os.pread(fd, size, i * size) != data:
                        raise AssertionError(f"thread {i} does not read what it wrote")
                    os.write(append, struct.pack("<HHHH", i, n, i, n))
                os.close(append)
                if fd != shared:
                    os.close(fd)
            except Exception as e:  # pylint: disable=broad-except
                problems.append(e)
        threads = [threading.Thread(target=work, args=(i,)) for i in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(problems, [])
        want = b"".join(struct.pack("<HH", i, rounds - 1) * (size // 4) for i in range(100))
        self.assertEqual(self.content("f"), want)
        log = list(struct.iter_unpack("<HHHH", self.content("log")))
        self.assertEqual(sorted(log), [(i, n, i, n) for i in range(100) for n in range(rounds)])
        for i in range(100):  # each thread's in its order
            self.assertEqual([n for t, n, _, _ in log if t == i], list(range(rounds)))

    def test_sigbus_beyond_the_end(self):
        self.make("f", b"x" * (3 * PAGE))

        def touch(page, size):
            fd = os.open(self.at("f"), os.O_RDWR)
            memory = mmap.mmap(fd, 3 * PAGE)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            assert memory[2 * PAGE] == ord("x")
            os.truncate(self.at("f"), size)
            sys.stdout.write(str(memory[page * PAGE]))
        self.assertEqual(ended(spawn(lambda: touch(2, PAGE + 1))), signal.SIGBUS)
        # The rest of the page where the file ends is zero, for who has it mapped as well.
        fd = self.open("f")
        os.pwrite(fd, b"x" * (3 * PAGE), 0)
        with mmap.mmap(fd, PAGE * 2) as memory:
            os.truncate(self.at("f"), PAGE + 1)
            self.assertEqual(memory[PAGE - 1:PAGE + 3], b"xx\0\0")
            if not self.live:  # FUSE's kernel does not clear it when the file grows
                memory[PAGE + 5] = 7  # beyond the end: nobody's
            os.ftruncate(fd, 3 * PAGE)
            self.assertEqual(memory[PAGE + 1:PAGE + 10], bytes(9))
        self.assertEqual(self.content("f"), b"x" * (PAGE + 1) + bytes(2 * PAGE - 1))
        fd = self.open("f", os.O_RDONLY)
        with mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as memory:
            memory[0] = 1
        self.assertEqual(self.content("f")[:1], b"x")

    def test_holes_and_dirty_data(self):
        fd = self.open("f")
        os.ftruncate(fd, 4 * MIB)
        os.pwrite(fd, b"x", MIB + 5)  # not written back yet
        self.assertLessEqual(os.lseek(fd, 0, os.SEEK_DATA), MIB + 5)
        self.assertEqual(os.lseek(fd, MIB + 5, os.SEEK_DATA), MIB + 5)
        self.assertEqual(os.lseek(fd, 3 * MIB, os.SEEK_HOLE) <= 4 * MIB, True)
        self.fails(errno.ENXIO, os.lseek, fd, 4 * MIB, os.SEEK_DATA)
        self.fails(errno.ENXIO, os.lseek, fd, 5 * MIB, os.SEEK_HOLE)
        self.fails(errno.ENXIO, os.lseek, fd, -1, os.SEEK_DATA)
        self.fails(errno.ENXIO, os.lseek, fd, -(1 << 40), os.SEEK_HOLE)
        copied = self.at("copy")
        self.assertEqual(run("cp", "--sparse=auto", self.at("f"), copied).returncode, 0)
        self.assertEqual(self.content("copy"), self.content("f"))
        os.close(fd)
        # Nobody writes any more: the holes are where they are.
        os.sync()
        fd = self.open("f", os.O_RDONLY)
        self.assertEqual(os.lseek(fd, 0, os.SEEK_DATA), MIB)
        self.assertEqual(os.lseek(fd, MIB, os.SEEK_HOLE), MIB + PAGE)
        self.fails(errno.ENXIO, os.lseek, fd, 2 * MIB, os.SEEK_DATA)

    def test_fallocate(self):
        fd = self.open("f")
        os.write(fd, b"x" * (256 * KIB))
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 64 * KIB, 64 * KIB)
        fallocate(fd, ZERO_RANGE, 192 * KIB, 128 * KIB)
        self.assertEqual(os.fstat(fd).st_size, 320 * KIB)
        want = b"x" * (64 * KIB) + bytes(64 * KIB) + b"x" * (64 * KIB) + bytes(128 * KIB)
        self.assertEqual(os.pread(fd, MIB, 0), want)
        fallocate(fd, KEEP_SIZE, 0, MIB)
        self.assertEqual(os.fstat(fd).st_size, 320 * KIB)
        os.fsync(fd)
        if self.fuse:  # st_blocks of what is dirty is not known yet elsewhere either
            self.assertGreaterEqual(os.fstat(fd).st_blocks * 512, 960 * KIB)
        os.posix_fallocate(fd, 0, 512 * KIB)
        self.assertEqual(os.fstat(fd).st_size, 512 * KIB)
        self.assertEqual(os.pread(fd, MIB, 0), want + bytes(192 * KIB))
        fallocate(fd, ZERO_RANGE | KEEP_SIZE, 0, 4096)
        self.assertEqual(os.pread(fd, 8192, 0), bytes(4096) + b"x" * 4096)
        # FUSE itself refuses what moves data.
        for mode, native in ((COLLAPSE, 0), (INSERT, 0), (UNSHARE, errno.EOPNOTSUPP)):
            code = errno.EOPNOTSUPP if self.fuse else native
            if code:
                self.fails(code, fallocate, fd, mode, 0, 64 * KIB)
            else:
                fallocate(fd, mode, 0, 64 * KIB)
        self.fails(errno.EOPNOTSUPP, fallocate, fd, PUNCH_HOLE, 0, 4096)
        self.fails(errno.EINVAL, fallocate, fd, 0, 0, 0)
        self.fails(errno.EBADF, fallocate, self.open("f", os.O_RDONLY), 0, 0, 4096)

    def test_copies_by_the_kernel(self):
        data = random.Random(SEED).randbytes(300 * KIB)
        f, g = self.open("f"), self.open("g")
        os.write(f, data)  # not written back
        os.pwrite(g, b"old" * 1000, 0)
        self.assertEqual(self.copy_all(f, g, 300 * KIB, 0, 1000), 300 * KIB)
        self.assertEqual(os.pread(g, MIB, 0), (b"old" * 1000)[:1000] + data)
        self.assertEqual(os.copy_file_range(f, g, 100, 300 * KIB, 0), 0)  # at the end: nothing
        self.assertEqual(os.copy_file_range(f, f, 1000, 0, 100 * KIB), 1000)
        self.assertEqual(os.pread(f, 1000, 100 * KIB), data[:1000])
        self.fails(errno.EINVAL, os.copy_file_range, f, f, 1000, 0, 500)
        self.fails(errno.EBADF, os.copy_file_range, f, self.open("g", os.O_RDONLY), 10, 0, 0)
        os.ftruncate(g, 0)
        os.lseek(f, 0, os.SEEK_SET)
        os.lseek(g, 0, os.SEEK_SET)
        self.assertEqual(os.sendfile(g, f, 5, 1000), 1000)
        self.assertEqual(os.pread(g, 2000, 0), os.pread(f, 1000, 5))
        # Through a pipe and through a socket.
        out, into = os.pipe()
        h = self.open("h")
        moved = 0
        while moved < 200 * KIB:
            got = os.splice(f, into, 64 * KIB, offset_src=moved)
            while got:
                put = os.splice(out, h, got, offset_dst=moved)
                moved += put
                got -= put
        os.close(out)
        os.close(into)
        self.assertEqual(os.pread(h, moved, 0), os.pread(f, moved, 0))
        a, b = socket.socketpair()
        with a, b:
            self.assertEqual(os.sendfile(a.fileno(), f, 50, 20000), 20000)
            got = b""
            while len(got) < 20000:
                got += b.recv(20000)
        self.assertEqual(got, os.pread(f, 20000, 50))

    @staticmethod
    def copy_all(source, target, length, source_at, target_at):
        done = 0
        while done < length:
            got = os.copy_file_range(source, target, length - done, source_at + done,
                                     target_at + done)
            if got == 0:
                break
            done += got
        return done

    def test_ways_to_write(self):
        """Appends, vectors, direct, synchronous ones, and flags of a single call."""
        fd = self.open("f", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.write(fd, b"one")
        os.writev(fd, [b"two", b"", b"three"])
        self.assertEqual(os.pwrite(fd, b"!", 0), 1)  # Linux appends
        self.assertEqual(self.content("f"), b"onetwothree!")
        other = self.open("f", os.O_RDWR)
        os.pwritev(other, [b"ONE"], 0, os.RWF_DSYNC)
        os.pwritev(other, [b"end"], 0, os.RWF_APPEND)
        self.assertEqual(self.content("f"), b"ONEtwothree!end")
        for flag in (os.O_SYNC, os.O_DSYNC):
            fd = self.open("f", os.O_WRONLY | flag)
            os.write(fd, b"sync")
        fd = self.open("f", os.O_RDWR)
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
        os.write(fd, b"more")
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)
        self.assertEqual(self.content("f"), b"syncwothree!endmore")
        direct = self.open("direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        memory = mmap.mmap(-1, 64 * KIB)
        memory[:] = b"d" * (64 * KIB)
        os.pwritev(direct, [memory], 0)
        buffered = self.open("direct", os.O_RDWR)
        os.pwrite(buffered, b"b" * 4096, 4096)
        os.preadv(direct, [memory], 0)
        self.assertEqual(memory[:], b"d" * 4096 + b"b" * 4096 + b"d" * (56 * KIB))
        with mmap.mmap(buffered, 64 * KIB) as mapped:
            mapped[0:4] = b"mmap"
            os.preadv(direct, [memory], 0)
            self.assertEqual(memory[0:5], b"mmapd")
        self.fails(errno.EBADF, os.write, self.open("f", os.O_RDONLY), b"x")
        self.fails(errno.EBADF, os.read, self.open("f", os.O_WRONLY), 1)
        self.fails(errno.EINVAL, os.pread, fd, 1, -1)

    def test_only_the_path(self):
        os.mkdir(self.at("d"))
        self.make("d/f", b"data")
        os.symlink("f", self.at("d/s"))
        fd = self.open("d/f", os.O_PATH)
        self.fails(errno.EBADF, os.read, fd, 1)
        self.fails(errno.EBADF, os.fchmod, fd, 0o600)
        self.assertEqual(os.fstat(fd).st_size, 4)
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        self.assertEqual(os.read(again, 9), b"data")
        os.close(again)
        link = self.open("d/s", os.O_PATH | os.O_NOFOLLOW)
        self.assertEqual(os.readlink("", dir_fd=link), "f")
        directory = self.open("d", os.O_PATH | os.O_DIRECTORY)
        os.rename(self.at("d"), self.at("e"))
        with open("f", "rb", opener=lambda name, flags: os.open(name, flags, dir_fd=directory)) as file:
            self.assertEqual(file.read(), b"data")
        if self.a_path_holds:  # nothing but such a descriptor, what has no name any more
            self.make("lone", b"alone")
            path = self.open("lone", os.O_PATH)
            os.unlink(self.at("lone"))
            os.setxattr(f"/proc/self/fd/{path}", "user.a", b"1")
            self.assertEqual(os.getxattr(f"/proc/self/fd/{path}", "user.a"), b"1")
            with open(f"/proc/self/fd/{path}", "rb") as file:
                self.assertEqual(file.read(), b"alone")
        self.fails(errno.ELOOP, os.open, self.at("e/s"), os.O_RDONLY | os.O_NOFOLLOW)
        self.fails(errno.ENOTDIR, os.open, self.at("e/f"), os.O_RDONLY | os.O_DIRECTORY)
        self.fails(errno.ENOTDIR, os.stat, self.at("e/f/x"))
        self.fails(errno.EISDIR, os.open, self.at("e"), os.O_WRONLY)

    # --- attributes

    def test_times_in_the_past_and_in_the_future(self):
        """As when a clock is set back: what is newer than now stays, and a write makes it now."""
        fd = self.open("f")
        os.write(fd, b"x")
        for second in (-1, 0, 1, 1 - (1 << 31), (1 << 31) + 5, 4_000_000_000):
            times = (second * 10**9 + 123456789, second * 10**9 + 987654321)
            os.utime(fd, ns=times)
            for st in (os.fstat(fd), os.stat(self.at("f"))):
                self.assertEqual((st.st_atime_ns, st.st_mtime_ns), times)
        os.fsync(fd)
        self.assertEqual(os.stat(self.at("f")).st_mtime_ns, times[1])
        before = time.time_ns() - 20_000_000  # the kernel's clock moves in ticks
        os.write(fd, b"y")
        self.assertTrue(before <= os.fstat(fd).st_mtime_ns <= time.time_ns())
        os.utime(fd, ns=times)
        os.close(fd)
        self.assertEqual(os.stat(self.at("f")).st_mtime_ns, times[1])  # no late write-back moves it
        os.truncate(self.at("f"), 0)
        self.assertTrue(before <= os.stat(self.at("f")).st_mtime_ns <= time.time_ns())
        self.assertGreaterEqual(os.stat(self.at("f")).st_ctime_ns, before)
        os.mkdir(self.at("d"))
        os.utime(self.at("d"), ns=(5, 6))
        os.symlink("x", self.at("s"))
        os.utime(self.at("s"), ns=(7, 8), follow_symlinks=False)
        self.assertEqual(os.stat(self.at("d")).st_mtime_ns, 6)
        self.assertEqual(os.lstat(self.at("s")).st_mtime_ns, 8)
        self.make("d/new")
        self.assertGreaterEqual(os.stat(self.at("d")).st_mtime_ns, before)

    def test_times_move_as_they_should(self):
        """mtime and ctime of a file and its directory, by each kind of change."""
        os.mkdir(self.at("d"))
        self.make("d/f", b"x" * 100)

        def stamps(name):
            st = os.stat(self.at(name))
            return st.st_mtime_ns, st.st_ctime_ns

        def changes(name, mtime, ctime, act):
            os.utime(self.at(name), ns=(5, 5))
            before = stamps(name)
            # The clock of the kernel has gone on a tick.
            wait_for(lambda: time.clock_gettime_ns(CLOCK_REALTIME_COARSE) > before[1], "a tick")
            act()
            after = stamps(name)
            self.assertEqual((after[0] != before[0], after[1] != before[1]), (mtime, ctime))
        f, d = self.at("d/f"), self.at("d")
        changes("d/f", False, True, lambda: os.chmod(f, 0o600))
        changes("d/f", False, True, lambda: os.setxattr(f, "user.x", b"1"))
        changes("d/f", False, True, lambda: os.link(f, self.at("d/g")))
        changes("d/f", False, True, lambda: os.unlink(self.at("d/g")))
        changes("d/f", False, True, lambda: os.rename(f, self.at("d/h")) or
                os.rename(self.at("d/h"), f))
        changes("d/f", True, True, lambda: os.truncate(f, 50))
        if not self.writeback:  # the kernel, which owns the times then, does not move them
            changes("d/f", True, True, lambda: os.truncate(f, 50))  # the same size
        changes("d/f", False, False, lambda: self.content("d/f"))
        changes("d/f", False, False, lambda: open(f, "ab").close())
        changes("d/f", True, True, lambda: open(f, "wb").close())
        changes("d", True, True, lambda: self.make("d/new"))
        changes("d", False, False, lambda: self.make("d/new", b"y"))
        changes("d", True, True, lambda: os.rename(self.at("d/new"), self.at("d/newer")))
        changes("d", True, True, lambda: os.unlink(self.at("d/newer")))
        changes("d", True, True, lambda: os.mkdir(self.at("d/sub")))
        changes("d", True, True, lambda: os.rename(self.at("d/sub"), self.at("out")))
        changes("d", False, True, lambda: os.chmod(d, 0o700))

    def test_special_files(self):
        os.mkfifo(self.at("fifo"), 0o640)

        def send():
            with open(self.at("fifo"), "wb") as file:
                file.write(b"through")
        pid = spawn(send)
        self.assertEqual(self.content("fifo"), b"through")
        self.assertEqual(ended(pid), 0)
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind(self.at("s"))
            server.listen(1)
            client.connect(self.at("s"))
            client.send(b"x")
            self.assertEqual(server.accept()[0].recv(1), b"x")
            self.fails(errno.EADDRINUSE, socket.socket(socket.AF_UNIX).bind, self.at("s"))
        self.assertTrue(stat.S_ISSOCK(os.stat(self.at("s")).st_mode))
        self.fails(errno.ENXIO, os.open, self.at("s"), os.O_RDONLY)
        self.fails(errno.ENXIO, os.open, self.at("fifo"), os.O_WRONLY | os.O_NONBLOCK)
        if ROOT:
            os.mknod(self.at("null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
            os.mknod(self.at("block"), stat.S_IFBLK | 0o600, os.makedev(250, 70000))
            self.assertEqual(os.stat(self.at("block")).st_rdev, os.makedev(250, 70000))
            st = os.stat(self.at("null"))
            self.assertEqual((stat.S_ISCHR(st.st_mode), st.st_rdev), (True, os.makedev(1, 3)))
            with open(self.at("null"), "r+b", buffering=0) as file:
                self.assertEqual((file.write(b"x"), file.read(1)), (1, b""))
        for name in ("fifo", "s"):  # what is special has attributes as well
            os.rename(self.at(name), self.at(name + "2"))
            os.chmod(self.at(name + "2"), 0o600)

    def test_extended_attributes(self):
        self.make("f")
        path = self.at("f")
        os.setxattr(path, "user.a", b"", os.XATTR_CREATE)
        self.fails(errno.EEXIST, os.setxattr, path, "user.a", b"1", os.XATTR_CREATE)
        os.setxattr(path, "user.a", bytes(range(256)) * 4, os.XATTR_REPLACE)
        self.assertEqual(os.getxattr(path, "user.a"), bytes(range(256)) * 4)
        self.fails(errno.ENODATA, os.setxattr, path, "user.b", b"1", os.XATTR_REPLACE)
        self.fails(errno.ENODATA, os.getxattr, path, "user.b")
        self.fails(errno.ENODATA, os.removexattr, path, "user.b")
        self.fails(errno.EOPNOTSUPP, os.setxattr, path, "nosuch.b", b"1")
        self.fails(errno.ERANGE, os.setxattr, path, "user." + "x" * 251, b"1")
        os.setxattr(path, "user." + "x" * 250, b"1")
        self.assertEqual(sorted(os.listxattr(path)), ["user.a", "user." + "x" * 250])
        os.removexattr(path, "user.a")
        self.assertEqual(os.listxattr(path), ["user." + "x" * 250])
        os.symlink("f", self.at("s"))
        with self.assertRaises(PermissionError):
            os.setxattr(self.at("s"), "user.a", b"1", follow_symlinks=False)

    # --- processes

    def test_programs_run_from_it(self):
        shutil.copy("/bin/cat", self.at("cat"))
        self.make("f", b"said\n")
        self.assertEqual(run(self.at("cat"), self.at("f")).stdout, "said\n")
        with open(self.at("script"), "w", encoding="ascii") as file:
            file.write(f"#!{self.at('cat')}\nscript\n")
        self.fails(errno.EACCES, subprocess.Popen, [self.at("script")])
        os.chmod(self.at("script"), 0o755)
        self.assertIn("script\n", run(self.at("script")).stdout)
        # What runs can't be written, what is open for writing can't run.
        running = subprocess.Popen([self.at("cat")], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            self.fails(errno.ETXTBSY, os.open, self.at("cat"), os.O_WRONLY)
            self.fails(errno.ETXTBSY, os.truncate, self.at("cat"), 0)
            os.rename(self.at("cat"), self.at("dog"))  # as an upgrade does
            shutil.copy("/bin/cat", self.at("cat"))
            os.unlink(self.at("dog"))
        finally:
            running.stdin.close()
            self.assertEqual(running.wait(10), 0)
        fd = self.open("cat", os.O_RDWR)
        self.fails(errno.ETXTBSY, subprocess.Popen, [self.at("cat")])
        os.close(fd)
        wait_for(lambda: run_ok(self.at("cat"), self.at("f")), "the program can run again", 5)

    def test_descriptors_over_a_fork(self):
        fd = self.open("f")
        os.write(fd, b"parent ")

        def go_on():
            os.write(fd, b"child ")  # one offset for both
        self.child(go_on)
        os.write(fd, b"parent")
        self.assertEqual(self.content("f"), b"parent child parent")
        with mmap.mmap(fd, 10) as shared, mmap.mmap(fd, 10, mmap.MAP_PRIVATE) as private:
            def change():
                shared[0] = ord("P")
                private[1] = ord("A")
            self.child(change)
            self.assertEqual((shared[:2], private[:2]), (b"Pa", b"Pa"))
        self.assertEqual(self.content("f")[:2], b"Pa")

    def test_locks(self):
        """flock, POSIX, OFD: who holds one keeps others away, until it is dropped, closed, or dead."""
        fd = self.open("f")
        os.write(fd, b"x" * 100)

        def held(take):
            """A child that took a lock and holds it until it is told."""
            told, tell = os.pipe()
            done, did = os.pipe()

            def hold():
                os.close(tell)
                mine = os.open(self.at("f"), os.O_RDWR)
                take(mine)
                os.write(did, b"x")
                os.read(told, 1)
            pid = spawn(hold)
            for end in (told, did):
                os.close(end)
            self.assertEqual(os.read(done, 1), b"x")
            os.close(done)
            return pid, tell

        def ofd(fd, kind, start, length):
            fcntl.fcntl(fd, F_OFD_SETLK, struct.pack("hhqqi4x", kind, 0, start, length, 0))

        ways = {
            "flock": (lambda f: fcntl.flock(f, fcntl.LOCK_EX),
                      lambda f: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)),
            "posix": (lambda f: fcntl.lockf(f, fcntl.LOCK_EX, 10, 5),
                      lambda f: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 50, 0)),
            "ofd": (lambda f: ofd(f, fcntl.F_WRLCK, 5, 10), lambda f: ofd(f, fcntl.F_WRLCK, 0, 0)),
        }
        for name, (take, attempt) in ways.items():
            for end in ("killed", "told"):
                with self.subTest(name, end=end):
                    pid, tell = held(take)
                    self.fails(errno.EAGAIN, attempt, fd)
                    if end == "killed":
                        os.kill(pid, signal.SIGKILL)
                        self.assertEqual(ended(pid), signal.SIGKILL)
                    else:
                        os.write(tell, b"x")
                        self.assertEqual(ended(pid), 0)
                    os.close(tell)
                    attempt(fd)
                    fcntl.flock(fd, fcntl.LOCK_UN)
                    fcntl.lockf(fd, fcntl.LOCK_UN)
                    ofd(fd, fcntl.F_UNLCK, 0, 0)
        # Who waits gets it, and a signal ends the waiting.
        pid, tell = held(ways["posix"][0])
        waiting = spawn(lambda: fcntl.lockf(os.open(self.at("f"), os.O_RDWR), fcntl.LOCK_EX))

        def interrupted():
            signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(InterruptedError))
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            try:
                fcntl.flock(os.open(self.at("f"), os.O_RDWR), fcntl.LOCK_EX)
            except InterruptedError:
                return
            raise AssertionError("the lock was had")
        fcntl.flock(fd, fcntl.LOCK_EX)
        self.child(interrupted)
        os.write(tell, b"x")
        os.close(tell)
        self.assertEqual(ended(pid), 0)
        self.assertEqual(ended(waiting), 0)

    def test_leases(self):
        """Given by the mount's kernel, and broken by who opens the file."""
        self.make("f", b"x")

        def lease(kind, flags):
            fd = os.open(self.at("f"), os.O_RDONLY)
            broken = []
            signal.signal(signal.SIGIO, lambda *_: broken.append(1))
            fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
            assert fcntl.fcntl(fd, fcntl.F_GETLEASE) == kind
            other = os.fork()
            if other == 0:
                try:
                    os.close(os.open(self.at("f"), flags))
                finally:
                    os._exit(0)
            wait_for(lambda: broken, "the lease is broken", 10)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            assert os.waitpid(other, 0)[1] == 0
        self.child(lambda: lease(fcntl.F_RDLCK, os.O_WRONLY))
        self.child(lambda: lease(fcntl.F_WRLCK, os.O_RDONLY))

    def test_processes_killed_in_calls(self):
        """None is stuck, none leaves a file open, and the next one goes on where it was."""
        self.make("f", bytes(MIB))
        for i in range(200):
            self.make(f"entry-{i}")

        def forever(act):
            fd = os.open(self.at("f"), os.O_RDWR)
            other = os.open(self.at("other"), os.O_RDWR | os.O_CREAT)
            n = 0
            while True:
                n += 1
                act(fd, other, n)

        def lock(fd, _, n):
            fcntl.lockf(fd, fcntl.LOCK_EX)
            os.pwrite(fd, b"x", n % MIB)
            fcntl.lockf(fd, fcntl.LOCK_UN)

        def mapped(fd, _, n):
            with mmap.mmap(fd, MIB) as memory:
                memory[n * 4096 % MIB] = 1
                memory.flush()

        def names(_, __, n):
            name = self.at(f"name-{os.getpid()}-{n}")
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
            os.rename(name, name + "-")
            os.unlink(name + "-")
        acts = {
            "write": lambda fd, _, n: os.pwrite(fd, b"w" * 256 * KIB, n * 4096 % MIB),
            "read": lambda fd, _, n: (os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED),
                                      os.pread(fd, MIB, 0)),
            "fsync": lambda fd, _, n: (os.pwrite(fd, b"s" * 8192, n * 8192 % MIB), os.fsync(fd)),
            "lock": lock,
            "mmap": mapped,
            "names": names,
            "list": lambda *_: os.listdir(self.d),
            "size": lambda _, other, n: os.ftruncate(other, n * 50000 % MIB),
            "allocate": lambda _, other, n: fallocate(other, 0, 0, n * 50000 % MIB + 1),
            "copy": lambda fd, other, n: os.copy_file_range(fd, other, MIB, 0, n * 4096 % MIB),
            "open": lambda *_: os.close(os.open(self.at("f"), os.O_RDWR | os.O_TRUNC)),
        }
        pick = random.Random(SEED)
        self.addCleanup(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_DFL))
        for round_number in range(20 if LONG else 2):
            for name, act in acts.items():
                with self.subTest(name, round=round_number):
                    signal_number = pick.choice((signal.SIGKILL, signal.SIGINT))
                    pids = [spawn(lambda act=act: forever(act)) for _ in range(3)]
                    time.sleep(pick.uniform(0.01, 0.08))  # the moment is what varies
                    for pid in pids:
                        os.kill(pid, signal_number)
                    for pid in pids:
                        self.assertEqual(ended(pid, 20), signal_number)
                    os.truncate(self.at("f"), MIB)
                    self.assertEqual(os.stat(self.at("f")).st_size, MIB)
        if self.volume:
            try:
                wait_for(lambda: not self.still_open(), "the daemon closes what the dead had open")
            except AssertionError as e:
                self.fail(f"{e}: {self.still_open()}")
        os.unlink(self.at("f"))

    def still_open(self):
        """What the daemon has open, for reading or writing, of the files in self.d as they lie beneath."""
        base = f"/proc/{self.volume.pid}"
        found = []
        for fd in os.listdir(base + "/fd"):
            try:
                path = os.readlink(f"{base}/fd/{fd}")
                with open(f"{base}/fdinfo/{fd}", encoding="ascii") as file:
                    flags = next(int(line.split()[1], 8) for line in file if line.startswith("flags"))
            except OSError:
                continue
            if (path.startswith(self.beneath + "/") and os.path.basename(self.d) + "/" in path and
                    "/old" not in path and  # what a clone still needs
                    not flags & (os.O_PATH | os.O_DIRECTORY)):
                found.append(path)
        return found


def run_ok(*command):
    try:
        return run(*command).returncode == 0
    except OSError:
        return False


class Native(Behaviour, unittest.TestCase):
    fuse = live = False

    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp(prefix="clonefs-e2e-native-", dir=TEST_DIR)
        cls.addClassCleanup(shutil.rmtree, cls.root, True)


class OnVolume(Behaviour):
    options = ()

    @classmethod
    def setUpClass(cls):
        cls.volume = Volume(pool="pool", options=cls.options)
        cls.addClassCleanup(cls.volume.clean_up)
        cls.volume.mount()
        cls.root = cls.volume.path
        cls.beneath = cls.volume.source  # where its files lie


class Writeback(OnVolume, unittest.TestCase):
    writeback = True


class Writethrough(OnVolume, unittest.TestCase):
    options = ("--cache", "writethrough")


class WithSessions(OnVolume, unittest.TestCase):
    """A session is active that drains slowly, another precopies: what is changed is saved first."""
    writeback = True

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        v = cls.volume
        for i in range(20):
            v.write(f"t/file-{i}", random.Random(i).randbytes(300 * KIB))
        cls.root = v.at("t")

    def setUp(self):
        super().setUp()
        v = self.volume
        self.make("old", b"o" * 200 * KIB)
        v.ctl("create active t")
        v.stall("active")
        v.ctl("activate active")
        v.ctl("create precopied t --precopy")
        self.addCleanup(self.check)
        os.unlink(self.at("old"))

    def check(self):
        """The sessions live, and the clone has what was there."""
        v = self.volume
        with open(v.clone("active", "t", os.path.basename(self.d), "old"), "rb") as file:
            self.assertEqual(file.read(), b"o" * 200 * KIB)
        for name in ("active", "precopied"):
            self.assertNotEqual(v.status(name)["state"], "Failed", v.status(name))
            v.ctl(f"terminate {name} --force")


class DrainedClone(OnVolume, unittest.TestCase):
    """A clone that is an ordinary tree: as root by passthrough."""
    a_path_holds = False  # fs/CONTROL.md

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        v = cls.volume
        v.write("t/f", b"x")
        v.ctl("copy c t")
        v.wait("c")
        cls.root = v.clone("c", "t")
        cls.beneath = v.given_pool


class OnDisk(unittest.TestCase):
    """A file system of its own at self.disk, in a file."""
    make = ()
    size = 256 * MIB

    def setUp(self):
        self.base = tempfile.mkdtemp(prefix="clonefs-e2e-disk-", dir=TEST_DIR)
        self.addCleanup(shutil.rmtree, self.base, True)
        self.disk = os.path.join(self.base, "disk")
        os.mkdir(self.disk)
        image = os.path.join(self.base, "image")
        with open(image, "wb") as file:
            file.truncate(self.size)
        for words in ((*self.make, image), ("mount", "-o", "loop", image, self.disk)):
            done = run(*words)
            if done.returncode != 0:
                self.skipTest(f"{words[0]}: {done.stdout}")
        self.addCleanup(run, "umount", "-l", self.disk)


@unittest.skipUnless(ROOT and shutil.which("mkfs.xfs"), "needs root and XFS")
class HugeFiles(OnDisk):
    """Sparse files of 8 EiB less one byte: XFS admits them."""
    make = ("mkfs.xfs", "-q")
    size = 512 * MIB

    def test_eight_exbibytes(self):
        end = (1 << 63) - 1
        self.grow(os.path.join(self.disk, "native"), end)
        for options in (), ("--cache", "writethrough"):
            place = os.path.join(self.disk, f"options-{len(options)}")
            os.mkdir(place)
            with Volume(base=place, options=options) as v:
                v.mount()
                old = v.write("f", b"old" * 100000)
                v.ctl("create c f")
                v.stall("c")
                v.ctl("activate c")
                v.ctl("create p f --precopy")
                v.wait("p", "precopied")
                os.truncate(old, 0)
                self.grow(old, end)
                # More tracks than a member may have: said so, and the file works.
                for command in ("copy d f", "activate p"):
                    with self.assertRaises(Refused) as caught:
                        v.ctl(command)
                    self.assertEqual(caught.exception.code, errno.EFBIG)
                os.truncate(old, 1000)
                v.ctl("activate p")
                v.wait("p")
                self.assertEqual(os.stat(v.clone("p", "f")).st_size, 1000)
                v.drain("c")
                with open(v.clone("c", "f"), "rb") as file:
                    self.assertEqual(file.read(), b"old" * 100000)

    def grow(self, path, end):
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            os.pwrite(fd, b"begin", 98)
            os.ftruncate(fd, end)
            with self.assertRaises(OSError):
                os.pwrite(fd, b"x", end)
            self.assertEqual(os.pwrite(fd, b"la", end - 2), 2)
            os.fsync(fd)
        finally:
            os.close(fd)
        self.check(path, end)

    def check(self, path, end):
        fd = os.open(path, os.O_RDONLY)
        try:
            self.assertEqual(os.fstat(fd).st_size, end)
            self.assertEqual(os.pread(fd, 10, 96), b"\0\0begin\0\0\0")
            self.assertEqual(os.pread(fd, 10, 5 << 60), bytes(10))
            self.assertEqual(os.pread(fd, 4, end - 4), b"\0\0la")
            self.assertEqual(os.lseek(fd, MIB, os.SEEK_DATA), (end - 2) & -PAGE)
        finally:
            os.close(fd)


@unittest.skipUnless(ROOT and shutil.which("mkfs.btrfs"), "needs root and btrfs, for a quota")
class Quota(OnDisk):
    """EDQUOT comes through; a pool that has used up its quota fails the clone, not the writer."""

    make = ("mkfs.btrfs", "-q")

    def setUp(self):
        super().setUp()
        self.must("quota", "enable", self.disk)
        self.must("subvolume", "create", os.path.join(self.disk, "sub"))
        self.must("qgroup", "limit", "8M", os.path.join(self.disk, "sub"))

    def must(self, *words):
        done = run("btrfs", *words)
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_the_sources(self):
        for options in (("--cache", "writethrough"), ()):
            place = os.path.join(self.disk, "sub", str(len(options)))
            os.mkdir(place)
            with Volume(base=place, pool="../../pool" + str(len(options)), options=options) as v:
                v.mount()
                fd = os.open(v.at("f"), os.O_WRONLY | os.O_CREAT)
                with self.assertRaises(OSError) as caught:
                    for _ in range(64):
                        os.write(fd, os.urandom(256 * KIB))
                        if options:
                            continue
                        os.fsync(fd)  # delayed writes tell it here
                self.assertEqual(caught.exception.errno, errno.EDQUOT)
                try:
                    os.close(fd)
                except OSError as e:
                    self.assertEqual(e.errno, errno.EDQUOT)
                os.unlink(v.at("f"))

                def fits():  # the quota counts what is on disk, and is told late of what went
                    run("btrfs", "filesystem", "sync", self.disk)
                    try:
                        return v.write("g", b"x" * MIB)
                    except OSError as e:
                        self.assertEqual(e.errno, errno.EDQUOT)
                        return None
                wait_for(fits, "room, when the file is gone")
                with open(v.at("g"), "rb") as file:
                    os.fsync(file.fileno())

    def test_the_pools(self):
        with Volume() as v:
            v.given_pool = os.path.join(self.disk, "sub/pool")
            v.mount()
            data = os.urandom(12 * MIB)
            v.write("f", data)
            v.ctl("create c f --thin")
            v.ctl("activate c")
            with open(v.at("f"), "r+b", buffering=0) as file:
                file.write(bytes(12 * MIB))
                os.fsync(file.fileno())
            wait_for(lambda: v.status("c")["state"] == "Failed", "the clone fails")
            self.assertIn("quota", v.status("c")["error"])
            with open(v.at("f"), "rb") as file:
                self.assertEqual(file.read(), bytes(12 * MIB))
            self.must("qgroup", "limit", "none", os.path.join(self.disk, "sub"))
            v.ctl("terminate c --force")


if __name__ == "__main__":
    main()
