#!/usr/bin/env python3
"""Databases on the live mount, under load, are cloned without being told, and started from the clone:
they are whole, and every transaction that was acknowledged before ACTIVATE was called is there.

Writers number their transactions and note in shared memory which was acknowledged last.
"""
import contextlib
import glob
import mmap
import os
import pwd
import shutil
import signal
import sqlite3
import struct
import subprocess
import tempfile
import time
import unittest

from volume import LONG, TEST_DIR, VolumeTest, die_with_parent, main, run, wait_for

WRITERS = 3
PACE = 0.002  # seconds between transactions: a load, not all that the machine can


class Acknowledged:
    """The number of the last acknowledged transaction, by writer."""

    def __init__(self):
        self.memory = mmap.mmap(-1, 8 * WRITERS)

    def set(self, writer, number):
        struct.pack_into("q", self.memory, 8 * writer, number)

    def get(self):
        return struct.unpack_from(f"{WRITERS}q", self.memory)


class Databases(VolumeTest):
    options = ("-o", "track-size=4K")

    def setUp(self):
        super().setUp()
        self.acknowledged = Acknowledged()

    def start_writers(self, write):
        """WRITE(writer, acknowledge) for ever, in WRITERS processes; returns once all have begun."""
        pids = []
        for writer in range(WRITERS):
            pid = os.fork()
            if pid == 0:
                try:
                    die_with_parent()
                    write(writer, lambda number, w=writer: self.acknowledged.set(w, number))
                finally:
                    os._exit(1)
            pids.append(pid)

        def stop():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
            pids.clear()
        self.addCleanup(stop)
        self.wait_for_more(3)
        return stop

    def wait_for_more(self, count):
        """Each writer has COUNT more transactions acknowledged."""
        before = self.acknowledged.get()
        wait_for(lambda: all(now >= then + count
                             for now, then in zip(self.acknowledged.get(), before)),
                 "the writers go on")

    def activate(self, name):
        """What was acknowledged before ACTIVATE was called."""
        known = self.acknowledged.get()
        self.v.ctl(f"activate {name}")
        return known

    def check_numbers(self, rows, known):
        """ROWS (writer, number): each writer's from 1 on without a gap, up to KNOWN at least."""
        numbers = [[] for _ in range(WRITERS)]
        for writer, number in rows:
            numbers[writer].append(number)
        for writer, found in enumerate(numbers):
            self.assertEqual(sorted(found), list(range(1, len(found) + 1)), f"writer {writer}")
            self.assertGreaterEqual(len(found), known[writer], f"writer {writer}: lost in the clone")

    def each_kind_of_clone(self, path, check):
        """CHECK(name, known) on clones that were made with and without precopy: while everything
        that they show is still on the source, or copied on first write, and others when drained."""
        v = self.v
        for round_ in range(6 if LONG else 2):
            name = f"c{round_}"
            precopy = round_ % 2 == 1
            v.ctl(f"create {name} {path} " + ("--precopy" if precopy else "--nocopy"))
            if precopy:
                wait_for(lambda n=name: v.status(n)["bytes_copied"] > 0, "precopy goes on")
                v.stall(name)
            known = self.activate(name)
            self.wait_for_more(3)
            if not precopy:
                wait_for(lambda n=name: v.status(n)["cofw_tracks"] > 0, "tracks are copied on first write")
            with self.subTest(clone=name, when="at once"):
                check(name, known)
            v.ctl(f"delete --force {name}")
            # As it was drained, without anybody looking before.
            name += "d"
            v.ctl(f"create {name} {path}")
            known = self.activate(name)
            v.wait(name)
            with self.subTest(clone=name, when="drained"):
                check(name, known)
            v.ctl(f"delete --force {name}")
            self.wait_for_more(1)  # it all disturbs nobody


class Sqlite(Databases):
    def run_it(self, synchronous):
        v = self.v
        path = v.at("db/data.sqlite")
        os.mkdir(v.at("db"))
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            self.assertEqual(db.execute("PRAGMA journal_mode=WAL").fetchone(), ("wal",))
            db.execute("CREATE TABLE log (writer INTEGER, number INTEGER, text TEXT)")
            db.execute("CREATE INDEX by_text ON log (text)")
            db.execute("CREATE TABLE counter (writer INTEGER PRIMARY KEY, number INTEGER)")
            db.executemany("INSERT INTO counter VALUES (?, 0)", [(w,) for w in range(WRITERS)])

        def write(writer, acknowledge):
            db = sqlite3.connect(path, timeout=60, isolation_level=None)
            db.execute(f"PRAGMA synchronous={synchronous}")
            number = 0
            while True:
                number += 1
                db.execute("BEGIN IMMEDIATE")
                begin = time.monotonic()
                db.execute("INSERT INTO log VALUES (?, ?, ?)",
                           (writer, number, os.urandom(300).hex()))
                db.execute("UPDATE counter SET number=? WHERE writer=?", (number, writer))
                db.execute("COMMIT")
                acknowledge(number)
                # The database itself is written to, and the log stays small, which it does not by
                # itself while somebody always reads it.
                if writer == 0 and number % 20 == 0:
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                # Who waits for the lock looks from time to time only: it is free half of the time at least.
                time.sleep(max(PACE, time.monotonic() - begin))

        def check(name, known):
            with contextlib.closing(sqlite3.connect(v.clone(name, "db/data.sqlite"))) as db, db:
                self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
                rows = db.execute("SELECT writer, number FROM log").fetchall()
                self.check_numbers(rows, known)
                for writer, number in db.execute("SELECT writer, number FROM counter"):
                    self.assertEqual(number, sum(w == writer for w, _ in rows))
                # It is a database of its own.
                db.execute("DELETE FROM log")
        stop = self.start_writers(write)
        self.each_kind_of_clone("db", check)
        stop()
        known = self.acknowledged.get()
        with contextlib.closing(sqlite3.connect(path)) as db:
            self.check_numbers(db.execute("SELECT writer, number FROM log").fetchall(), known)

    def test_synchronous(self):
        self.run_it("FULL")

    def test_not_synchronous(self):
        """What SQLite leaves to the system's caches is in the clone all the same."""
        self.run_it("NORMAL")


class SqliteWritethrough(Sqlite):
    options = (*Databases.options, "--cache", "writethrough")


POSTGRES_BIN = (sorted(glob.glob("/usr/lib/postgresql/*/bin")) or [""])[-1]
ROWS_OF_LOG = "SELECT writer || ' ' || number FROM log"


class Client:
    """One connection: psql that is fed statements, one a time."""

    def __init__(self, words):
        self.psql = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT)

    def run(self, statement):
        """Returns once the server has acknowledged it."""
        self.psql.stdin.write(statement.encode() + b"\n\\echo done\n")
        self.psql.stdin.flush()
        lines = []
        while (line := self.psql.stdout.readline()) != b"done\n":
            if not line:
                raise EOFError(b"".join(lines))
            lines.append(line)
        if any(b"ERROR" in line or b"FATAL" in line for line in lines):
            raise RuntimeError(b"".join(lines))


@unittest.skipUnless(POSTGRES_BIN, "PostgreSQL is not installed")
class Postgres(Databases):
    def setUp(self):
        super().setUp()
        # Short: a socket's path has 107 bytes. The server does not run as root.
        self.place = tempfile.mkdtemp(prefix="clonefs-pg-", dir=TEST_DIR)
        self.addCleanup(shutil.rmtree, self.place, ignore_errors=True)
        self.as_user = []
        os.mkdir(self.v.at("pg"), 0o700)
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            self.as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}",
                            "--clear-groups"]
            for path in (self.place, self.v.at("pg")):
                os.chown(path, user.pw_uid, user.pw_gid)

    def ok(self, program, *words):
        done = run(*self.as_user, f"{POSTGRES_BIN}/{program}", *words, timeout=120,
                   cwd=self.place, env=dict(os.environ, LC_ALL="C", HOME=self.place))
        self.assertEqual(done.returncode, 0, f"{program}: {done.stdout}\n{self.log_of_servers()}")
        return done.stdout

    def log_of_servers(self):
        text = ""
        for path in glob.glob(self.place + "/log-*"):
            with open(path, encoding="utf-8", errors="replace") as file:
                text += path + ":\n" + "".join(file.readlines()[-20:])
        return text

    def start(self, data, port):
        # Few buffers and checkpoints all the time: the tables themselves are written to.
        options = (f"-p {port} -k {self.place} -c listen_addresses= -c shared_buffers=1MB "
                   "-c checkpoint_timeout=30s -c max_wal_size=32MB -c autovacuum_naptime=1")
        # pg_ctl would leave its output open to the server.
        self.ok("pg_ctl", "-D", data, "-o", options, "-l", f"{self.place}/log-{port}", "-w", "start")

    def stop(self, data):
        if os.path.exists(os.path.join(data, "postmaster.pid")):
            self.ok("pg_ctl", "-D", data, "-m", "fast", "-w", "stop")

    def client_words(self, port):
        return ["-h", self.place, "-p", str(port), "-U", "postgres"]

    def query(self, port, text):
        return self.ok("psql", *self.client_words(port), "-XAtqc", text).split("\n")[:-1]

    def test_postgres(self):
        v = self.v
        live = v.at("pg/data")
        self.ok("initdb", "-D", live, "-U", "postgres", "--data-checksums", "--auth=trust",
                "--no-instructions", "--locale=C")
        self.start(live, 1)
        self.addCleanup(self.stop, live)
        self.query(1, "CREATE TABLE log (writer int, number int, text text)")
        self.query(1, "CREATE INDEX ON log (number)")
        self.query(1, "CREATE EXTENSION amcheck")
        self.ok("pgbench", *self.client_words(1), "-i", "-q", "postgres")
        load = subprocess.Popen(
            [*self.as_user, f"{POSTGRES_BIN}/pgbench", *self.client_words(1), "-c", "2", "-T", "3600",
             "postgres"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent)
        self.addCleanup(load.wait)
        self.addCleanup(load.kill)

        def write(writer, acknowledge):
            client = Client([*self.as_user, f"{POSTGRES_BIN}/psql", *self.client_words(1), "-Xq"])
            number = 0
            while True:
                number += 1
                client.run(f"INSERT INTO log VALUES ({writer}, {number}, "
                           f"repeat(md5('{writer} {number}'), 10));")
                acknowledge(number)
                time.sleep(PACE)

        def check(name, known):
            data = v.clone(name, "pg/data")
            # It names the live server, which runs: a server would not start beside it.
            os.unlink(os.path.join(data, "postmaster.pid"))
            self.start(data, 2)
            try:
                rows = [tuple(map(int, line.split())) for line in self.query(2, ROWS_OF_LOG)]
                self.check_numbers(rows, known)
                # pgbench's own rule: what the tellers moved is what the accounts have.
                sums = [self.query(2, f"SELECT coalesce(sum({column}), 0) FROM pgbench_{table}")
                        for column, table in (("abalance", "accounts"), ("tbalance", "tellers"),
                                              ("bbalance", "branches"), ("delta", "history"))]
                self.assertEqual(sums, sums[:1] * 4)
                self.ok("pg_amcheck", *self.client_words(2), "--all", "--heapallindexed")
                self.ok("pg_dumpall", *self.client_words(2), "--no-sync", "-f",
                        "/dev/null")
                self.query(2, "DELETE FROM log")  # it is a database of its own
            finally:
                self.stop(data)
            self.assertIn("Bad checksums:  0", self.ok("pg_checksums", "--check", "-D", data))
        stop_writers = self.start_writers(write)
        self.each_kind_of_clone("pg", check)
        stop_writers()
        known = self.acknowledged.get()
        rows = [tuple(map(int, line.split())) for line in self.query(1, ROWS_OF_LOG)]
        self.check_numbers(rows, known)
        load.kill()


class PostgresWritethrough(Postgres):
    options = (*Databases.options, "--cache", "writethrough")


if __name__ == "__main__":
    main()
