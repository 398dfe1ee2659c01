#!/usr/bin/env python3
"""The daemon's log: where it goes (--log), how much of it (--log-level, clonefs log-level)."""
import errno
import json
import os
import unittest

from volume import BIN, Volume, VolumeTest, main, run, wait_for


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


class Level(VolumeTest):
    def log(self):
        return read(self.v.log)

    def test_changed_while_it_runs(self):
        v = self.v
        self.assertEqual(v.cli("log-level"), "log level: info\n")
        v.cli("status")
        self.assertNotIn("status", self.log().replace("status.json", ""))
        self.assertEqual(v.cli("log-level", "debug"), "log level: debug\n")
        self.assertEqual(json.loads(v.cli("log-level", "--json")), {"schema": 1, "log_level": "debug"})
        v.cli("status")
        self.assertRegex(self.log(), r"(?m)^\S+ debug command of uid \d+ \(pid \d+\): status --$")
        self.assertNotIn(" trace ", self.log())
        v.ctl("log-level trace")
        os.mkdir(v.at("d"))
        self.assertRegex(self.log(), r"(?m)^\S+ trace MKDIR \(9\), node [0-9a-f]+, \d+ bytes$")
        v.ctl("log-level warn")
        before = self.log()
        os.mkdir(v.at("e"))
        v.ctl("create c .")
        self.assertEqual(self.log()[len(before):], "")
        self.assert_refused(errno.EINVAL, lambda: v.ctl("log-level loud"), "loud", "trace, debug")
        self.assertEqual(v.ctl("log-level"), "log level: warn\n")


class Places(unittest.TestCase):
    def volume(self, *options, daemon=True, **more):
        v = Volume(options=options, daemon=daemon, **more)
        self.addCleanup(v.clean_up)
        return v.mount()

    def test_level_at_the_mount(self):
        v = self.volume("--log-level", "warn", daemon=False)
        self.assertNotIn(" info ", read(v.log))
        v.umount()
        v = self.volume("-o", "log-level=debug", daemon=False)
        self.assertEqual(v.cli("log-level"), "log level: debug\n")

    def test_pool_by_default(self):
        v = self.volume()
        # Where it is out of sight.
        self.assertFalse(os.path.exists(v.at(".clonefs/pool/clonefs.log")))
        wait_for(lambda: " is mounted at " in read(v.at(".clonefs/log")), "the log's end")
        v.cli("create", "a", ".")
        wait_for(lambda: read(v.at(".clonefs/log")).endswith(" info created a\n"), "the log's end")
        v.umount()
        self.assertIn("is mounted", read(v.pool("clonefs.log")))

    def test_file(self):
        for daemon in (True, False):
            v = Volume(daemon=daemon)
            self.addCleanup(v.clean_up)
            path = os.path.join(v.base, "own.log")
            v.options = ["--log", path]
            v.mount()
            v.ctl("create c .")
            v.umount()
            self.assertIn("created c", read(path))
            self.assertIn("ended", read(path))
            if not daemon:
                self.assertNotIn(" info ", read(v.log))
            else:
                self.assertFalse(os.path.exists(v.pool("clonefs.log")))

    def test_refused_places(self):
        v = Volume()
        self.addCleanup(v.clean_up)
        for where, code, words in (("nowhere", 2, "journal"), ("stderr", 1, "--foreground"),
                                   (os.path.join(v.source, "log"), 1, "lies in the volume"),
                                   (v.base, 1, "no log"),
                                   (os.path.join(v.base, "none/log"), 1, "the directory of")):
            done = run(BIN, "mount", "--log", where, v.source)
            self.assertEqual(done.returncode, code, done.stdout)
            self.assertIn(words, done.stdout)
        self.assertFalse(os.path.exists(os.path.join(v.base, "none")))
        done = run(BIN, "mount", "--log-level", "loud", v.source)
        self.assertEqual(done.returncode, 2, done.stdout)
        done = run(BIN, "mount", "--no-clones", "--log", "pool", v.source)
        self.assertIn("not for a log", done.stdout)
        self.assertFalse(os.path.ismount(v.source))

    @unittest.skipUnless(os.geteuid() == 0, "needs a mount namespace of its own")
    def test_journal(self):
        """A socket in the place of systemd's: datagrams of fields, of several lines with their length."""
        v = Volume()
        self.addCleanup(v.clean_up)
        os.mkdir(os.path.join(v.source, "d"))
        env = dict(os.environ, BASE=v.base, BIN=BIN, V=v.source)
        done = run("unshare", "-m", "bash", "-c", JOURNAL, env=env)
        self.assertEqual(done.returncode, 0, done.stdout)
        with open(os.path.join(v.base, "got"), "rb") as file:
            got = [fields(part) for part in file.read().split(b"\0\0end\0\0")[:-1]]
        for message in got:
            self.assertEqual(message["SYSLOG_IDENTIFIER"], b"clonefs")
            self.assertEqual(message["CLONEFS_VOLUME"], os.fsencode(v.source))
        said = {message["MESSAGE"]: message["PRIORITY"] for message in got}
        self.assertEqual(said[b"created c"], b"6")
        self.assertEqual(said[b"ended"], b"6")
        odd, = [text for text in said if b"x\ny" in text]
        self.assertEqual(said[odd], b"4")

    def test_no_journal_is_said(self):
        if os.path.exists("/run/systemd/journal/socket"):
            self.skipTest("systemd runs here")
        v = Volume()
        self.addCleanup(v.clean_up)
        done = run(BIN, "mount", "--log", "journal", v.source)
        self.assertEqual(done.returncode, 1)
        self.assertIn("the journal of systemd does not answer", done.stdout)
        self.assertFalse(os.path.ismount(v.source))


JOURNAL = r"""
set -e
mount -t tmpfs none /run
mkdir -p /run/systemd/journal
python3 - <<'PY' &
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("/run/systemd/journal/socket")
open(os.environ["BASE"] + "/listens", "w").close()
with open(os.environ["BASE"] + "/got", "wb", buffering=0) as file:
    while True:
        message = s.recv(1 << 20)
        file.write(message + b"\0\0end\0\0")
        if b"MESSAGE=ended\n" in message:
            break
PY
listener=$!
for i in $(seq 200); do test -e $BASE/listens && break; sleep 0.05; done
$BIN mount --log journal $V
$BIN --mount $V create c d
mkdir "$V/.clonefs/clones/x
y" 2>/dev/null || true  # refused
# The event is in the log when it can be read.
for i in $(seq 200); do grep -q refused $V/.clonefs/events && break; sleep 0.05; done
$BIN umount $V
wait $listener
"""


def fields(datagram):
    found = {}
    while datagram:
        name, newline, rest = datagram.partition(b"\n")
        if b"=" in name:
            key, _, value = name.partition(b"=")
            datagram = rest
        else:
            key, size = name, int.from_bytes(rest[:8], "little")
            value, datagram = rest[8:8 + size], rest[8 + size:]
            assert datagram[:1] == b"\n", datagram
            datagram = datagram[1:]
        found[key.decode()] = value
    return found


if __name__ == "__main__":
    main()
