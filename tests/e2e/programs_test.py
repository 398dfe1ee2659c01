#!/usr/bin/env python3
"""Programs that people use, on clones and on the live mount: what they find in a clone is what they
would find in a copy that was made at the point in time.
"""
import contextlib
import fcntl
import json
import os
import random
import shutil
import socket
import sqlite3
import stat
import subprocess
import tempfile
import unittest

from persistence_test import change_tree, fill_tree
from volume import LONG, SEED, Volume, VolumeTest, die_with_parent, main, run, wait_for

MIB = 1 << 20


def needs(program):
    return unittest.skipUnless(shutil.which(program), f"{program} is not installed")


class Clones(VolumeTest):
    """Each program on a clone that drains, and on the same when it is drained."""
    pool = "pool"

    def setUp(self):
        super().setUp()
        v = self.v
        fill_tree(v.at("t"), SEED)
        self.copy = os.path.join(v.base, "copy")
        self.ok("cp", "-a", v.at("t"), self.copy)
        v.ctl("create c t")
        v.stall("c")
        v.ctl("activate c")
        change_tree(v.at("t"))
        self.clone = v.clone("c", "t")

    def ok(self, *command, **options):
        done = run(*command, **options)
        self.assertEqual(done.returncode, 0, f"{command}: {done.stdout}")
        return done.stdout

    def both(self, check):
        with self.subTest("draining"):
            check()
        self.v.drain("c")
        with self.subTest("drained"):
            check()

    def same(self, a, b):
        """rsync and diff find nothing to do."""
        self.assertEqual(self.ok("rsync", "-aHAX", "--checksum", "--delete", "-n", "-i", f"{a}/",
                                 f"{b}/"), "")
        # diff would open the pipe.
        self.assertEqual(self.ok("diff", "-r", "--no-dereference", "-x", "fifo", a, b), "")

    def test_rsync_and_diff(self):
        self.both(lambda: self.same(self.copy, self.clone))

    def test_cp(self):
        def check():
            to = os.path.join(self.v.base, "restored")
            self.ok("cp", "-a", self.clone, to)
            self.same(self.copy, to)
            shutil.rmtree(to)
        self.both(check)

    def test_tar(self):
        def listing(folder):
            archive = os.path.join(self.v.base, "x.tar")
            self.ok("tar", "--sort=name", "--numeric-owner", "--xattrs", "--sparse", "-cf", archive,
                    "-C", folder, ".")
            out = tempfile.mkdtemp(dir=self.v.base)
            self.ok("tar", "--xattrs", "-xf", archive, "-C", out)
            self.same(self.copy, out)
            text = self.ok("tar", "-tvvf", archive, "--full-time")
            os.unlink(archive)
            return text
        self.both(lambda: self.assertEqual(listing(self.clone), listing(self.copy)))

    def test_find_and_du(self):
        def listing(folder):
            return sorted(self.ok("find", ".", "-printf", "%P %y %m %U %G %T@ %l %n\n",
                                  cwd=folder).splitlines())
        self.both(lambda: self.assertEqual(listing(self.clone), listing(self.copy)))
        # Drained, it takes no more room than the copy.
        used = [int(self.ok("du", "-s", "--block-size=1", folder).split()[0])
                for folder in (self.clone, self.copy)]
        self.assertLess(abs(used[0] - used[1]), MIB // 2, used)

    def test_one_file_system(self):
        """Programs that stay on one file system leave the clones alone."""
        found = self.ok("find", self.v.path, "-xdev", "-name", "big")
        self.assertEqual(found, self.v.at("t/big") + "\n")

    @needs("restic")
    def test_restic(self):
        v = self.v
        repository = os.path.join(v.base, "restic")
        env = dict(os.environ, RESTIC_PASSWORD="x", RESTIC_REPOSITORY=repository,
                   RESTIC_CACHE_DIR=os.path.join(v.base, "cache"))

        def backup():
            text = self.ok("restic", "backup", "--json", v.clone("c"), env=env, timeout=120)
            return json.loads(text.splitlines()[-1])
        self.ok("restic", "init", env=env, timeout=120)
        first = backup()
        self.assertGreater(first["files_new"], 40)
        out = os.path.join(v.base, "out")
        self.ok("restic", "restore", "latest", "--target", out, env=env, timeout=120)
        self.same(self.copy, os.path.join(out, self.clone.lstrip("/")))
        # The next generation of the name: only what has changed is read.
        v.drain("c")
        v.ctl("delete c")
        v.ctl("copy c t")
        backup()
        v.wait("c")
        v.ctl("delete c")
        v.write("t/a/new", b"new")
        v.ctl("copy c t")
        last = backup()
        self.assertEqual((last["files_new"], last["files_changed"]), (1, 0), last)

    @needs("borg")
    def test_borg(self):
        v = self.v
        env = dict(os.environ, BORG_REPO=os.path.join(v.base, "borg"),
                   BORG_BASE_DIR=os.path.join(v.base, "borg-base"))
        self.ok("borg", "init", "-e", "none", env=env, timeout=120)
        self.ok("borg", "create", "::one", ".", cwd=v.clone("c"), env=env, timeout=120)
        out = os.path.join(v.base, "out")
        os.mkdir(out)
        self.ok("borg", "extract", "::one", cwd=out, env=env, timeout=120)
        self.same(self.copy, os.path.join(out, "t"))
        # The next generations of the name are found unchanged. Borg trusts no file as new as the
        # newest, so that one is none of those that are looked at.
        v.drain("c")
        newest = max(os.lstat(os.path.join(folder, name)).st_ctime_ns
                     for folder, _, names in os.walk(v.beneath("t")) for name in names)

        def newer():
            v.write("t/newest", b"x")
            return os.lstat(v.beneath("t/newest")).st_ctime_ns > newest
        wait_for(newer, "the clock moves on")
        for name in ("two", "three"):
            v.ctl("delete c")
            v.ctl("copy c t")
            v.wait("c")
            text = self.ok("borg", "create", "--list", f"::{name}", ".", cwd=v.clone("c"), env=env,
                           timeout=120)
        states = [line[0] for line in text.splitlines() if "/file " in line]
        self.assertGreater(len(states), 20)
        self.assertEqual(set(states), {"U"})


class Database(VolumeTest):
    options = ("-o", "track-size=4K")

    def test_sqlite(self):
        """A clone of a database in use is a database as it was."""
        v = self.v
        path = v.at("db/data.sqlite")
        os.mkdir(v.at("db"))
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER)")
            db.executemany("INSERT INTO account VALUES (?, ?)", [(i, 1000) for i in range(200)])
        pid = os.fork()
        if pid == 0:
            try:
                die_with_parent()
                r = random.Random(SEED)
                with sqlite3.connect(path, timeout=30) as db:
                    db.execute("PRAGMA synchronous=FULL")
                    while True:
                        a, b, amount = r.randrange(200), r.randrange(200), r.randrange(100)
                        with db:
                            db.execute("UPDATE account SET balance=balance-? WHERE id=?", (amount, a))
                            db.execute("UPDATE account SET balance=balance+? WHERE id=?", (amount, b))
            finally:
                os._exit(1)
        try:
            seen = set()
            for i in range(6):
                v.ctl(f"create s{i} db" + (" --precopy" if i % 2 else ""))
                if i % 2:
                    # The end of precopy need not come while all is written.
                    wait_for(lambda name=f"s{i}": v.status(name)["bytes_copied"] > 0, "precopy goes on")
                v.ctl(f"activate s{i}")
                for when in ("at once", "drained"):
                    copy = os.path.join(v.base, f"copy{i}{when[:2]}")
                    shutil.copytree(v.clone(f"s{i}", "db"), copy)
                    db = sqlite3.connect(os.path.join(copy, "data.sqlite"))
                    self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
                    rows = db.execute("SELECT * FROM account ORDER BY id").fetchall()
                    db.close()
                    self.assertEqual(sum(balance for _, balance in rows), 200 * 1000)
                    seen.add((i, tuple(rows)))
                    v.wait(f"s{i}")
            self.assertEqual(len(seen), 6, "a clone changed, or the writer did nothing")
            # It can be opened where it is, too.
            db = sqlite3.connect(v.clone("s5", "db/data.sqlite"))
            self.assertEqual(db.execute("SELECT sum(balance) FROM account").fetchall(), [(200000,)])
            db.execute("DELETE FROM account")
            db.commit()
            db.close()
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        with contextlib.closing(sqlite3.connect(path)) as db:
            self.assertEqual(db.execute("SELECT sum(balance) FROM account").fetchall(), [(200000,)])


class Live(VolumeTest):
    """On the live mount."""

    def test_git(self):
        v = self.v

        def git(*words, cwd=v.at("repo")):
            done = run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words, cwd=cwd)
            self.assertEqual(done.returncode, 0, done.stdout)
            return done.stdout
        git("init", "-q", "repo", cwd=v.path)
        for i in range(200):
            v.write(f"repo/d{i % 10}/f{i}", b"%d\n" % i * 100)
        git("add", ".")
        git("commit", "-q", "-m", "one")
        self.assertEqual(git("status", "--porcelain"), "")
        v.ctl("copy g repo")
        v.write("repo/d1/f1", b"two")
        self.assertEqual(git("status", "--porcelain"), " M d1/f1\n")
        git("commit", "-q", "-a", "-m", "two")
        git("gc", "-q")
        git("fsck", "--strict")
        clone = v.clone("g", "repo")
        env = ["-c", f"safe.directory={clone}"]
        self.assertEqual(len(git(*env, "log", "--oneline", cwd=clone).splitlines()), 1)
        git(*env, "fsck", "--strict", cwd=clone)

    def test_special_files(self):
        v = self.v
        with open(v.at("locked"), "w", encoding="ascii") as a, \
                open(v.at("locked"), "w", encoding="ascii") as b:
            fcntl.flock(a, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with self.assertRaises(BlockingIOError):
                fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(a, fcntl.LOCK_UN)
            fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.mkfifo(v.at("fifo"))
        with subprocess.Popen(["cat", v.at("fifo")], stdout=subprocess.PIPE) as reader:
            with open(v.at("fifo"), "wb") as fifo:
                fifo.write(b"through the pipe")
            self.assertEqual(reader.communicate(timeout=30)[0], b"through the pipe")
        where = os.getcwd()
        os.chdir(v.path)  # socket paths are short
        try:
            with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
                server.bind("socket")
                server.listen()
                client.connect("socket")
                connection, _ = server.accept()
                with connection:
                    client.send(b"hello")
                    self.assertEqual(connection.recv(10), b"hello")
        finally:
            os.chdir(where)
        if os.geteuid() == 0:
            os.mknod(v.at("null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
            with open(v.at("null"), "wb") as null:
                null.write(b"gone")
        v.ctl("copy c .")
        for name in ("fifo", "socket", "null"):
            if os.path.lexists(v.at(name)):
                live, clone = os.lstat(v.at(name)), os.lstat(v.clone("c", name))
                self.assertEqual((live.st_mode, live.st_rdev), (clone.st_mode, clone.st_rdev))

    def test_large_directory(self):
        v = self.v
        count = 100000 if LONG else 20000
        os.mkdir(v.at("many"))
        for i in range(count):
            os.close(os.open(v.at(f"many/{i}"), os.O_CREAT | os.O_WRONLY))
        self.assertEqual(len(os.listdir(v.at("many"))), count)
        v.ctl("copy c many")
        for i in range(0, count, 2):
            os.unlink(v.at(f"many/{i}"))
        self.assertEqual(len(os.listdir(v.at("many"))), count // 2)
        names = os.listdir(v.clone("c", "many"))
        self.assertEqual(len(names), count)
        self.assertEqual(len(set(names)), count)
        # Entries are found again from a position within.
        with os.scandir(v.at("many")) as entries:
            seen = set()
            for n, entry in enumerate(entries):
                seen.add(entry.name)
                if n == 1000:
                    os.unlink(v.at("many", entry.name))
        self.assertEqual(len(seen), count // 2)
        v.wait("c")
        v.ctl("terminate c")
        self.assertEqual(len(os.listdir(v.clone("c", "many"))), count)

    def test_more_files_than_descriptors(self):
        """No descriptor is held for a file that is only known."""
        v = Volume(prefix=("sh", "-c", 'ulimit -Sn 256 && ulimit -Hn 256 && exec "$@"', "sh"))
        self.addCleanup(v.clean_up)
        v.mount()
        for i in range(1000):
            v.write(f"d{i % 10}/{i}", b"%d" % i)
        v.ctl("copy c . --nocopy")
        for i in range(1000):
            v.write(f"d{i % 10}/{i}", b"changed")
        for i in range(1000):
            with open(v.clone("c", f"d{i % 10}/{i}"), "rb") as file:
                self.assertEqual(file.read(), b"%d" % i)


if __name__ == "__main__":
    main()
