#!/usr/bin/env python3
"""`--no-clones`: a volume is mounted though its pool cannot be used, and nothing false comes of it.
`clonefs fsck`: says what is wrong with the pool, and mends what can be.
"""
import errno
import json
import os
import shutil
import unittest

from volume import BIN, Refused, Volume, main, run


class NoClones(unittest.TestCase):
    def setUp(self):
        self.v = Volume()
        self.addCleanup(self.v.clean_up)
        self.v.mount()
        self.v.write("file", b"a" * 300000)
        self.v.write("d/other", b"b")

    def without(self):
        """Mounted in the background, without clones."""
        done = run(BIN, "mount", "--no-clones", self.v.path)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("without its clones", done.stdout)

    def refused(self, code, action):
        with self.assertRaises((Refused, OSError)) as caught:
            action()
        e = caught.exception
        self.assertEqual(e.code if isinstance(e, Refused) else e.errno, code, str(e))
        return str(e)

    def check_live(self):
        v = self.v
        with open(v.at("file"), "r+b") as file:
            self.assertEqual(file.read(), b"a" * 300000)
            file.seek(1000)
            file.write(b"changed")
            os.fsync(file.fileno())
        v.write("d/new", b"new")
        os.rename(v.at("d/new"), v.at("d/newer"))
        os.unlink(v.at("d/newer"))
        self.assertEqual(sorted(os.listdir(v.path)), ["d", "file"])

    def check_refused(self):
        v = self.v
        for command in ("copy c d", "status", "list", "delete c --force", "verify c", "wait c"):
            self.assertIn("--no-clones", self.refused(errno.EOPNOTSUPP, lambda c=command: v.ctl(c)))
        self.assertIn("--no-clones", self.refused(1, lambda: v.cli("copy", "c", "d")))
        self.refused(errno.EOPNOTSUPP, lambda: os.mkdir(v.at("d/.clone/now")))
        self.assertEqual(os.listdir(v.at("d/.clone")), [])
        self.assertEqual(os.listdir(v.at(".clonefs/clones")), [])
        with open(v.at(".clonefs/status"), encoding="utf-8") as file:
            self.assertIn("without its clones", file.read())
        self.assertTrue(v.status_json()["no_clones"])

    def umount(self):
        done = run(BIN, "umount", self.v.path)
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_damaged_pool(self):
        v = self.v
        v.ctl("copy c d")
        v.wait("c")
        v.umount()
        with open(v.pool("catalog.db"), "r+b") as file:
            file.write(b"garbage" * 1000)
        done = run(BIN, "mount", v.path)
        self.assertEqual(done.returncode, 1)
        self.assertIn("--no-clones", done.stdout)
        self.assertIn("clonefs fsck", done.stdout)
        self.without()
        self.check_live()
        self.check_refused()
        self.umount()
        # The drained clone is a plain tree all the same.
        with open(v.pool("clones/c/d/other"), "rb") as file:
            self.assertEqual(file.read(), b"b")

    def fsck(self, code, *options):
        done = run(BIN, "fsck", *options, self.v.pool())
        self.assertEqual(done.returncode, code, done.stdout)
        return done.stdout

    def test_fsck(self):
        v = self.v
        v.ctl("copy c .")
        v.wait("c")
        v.ctl("copy open file --nocopy")
        self.assertIn("in use", self.fsck(1))
        done = run(BIN, "fsck", v.at(".clonefs/pool"))
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"First: clonefs umount {v.path}", done.stdout)
        self.fsck(2, "--wrong")
        v.umount()
        self.assertIn("2 sessions", self.fsck(0))
        self.assertIn("no problem", self.fsck(0, "--data"))
        with open(v.pool("clones/c/file"), "r+b") as file:
            file.seek(200000)
            file.write(b"!")
        self.fsck(0)
        self.assertIn("--repair would: set it Failed", self.fsck(1, "--data"))
        report = json.loads(self.fsck(1, "--data", "--json"))
        self.assertEqual(report["problems"], 1)
        self.assertIn("file: bytes 196608 to 262143 are not what was copied",
                      report["findings"][0]["what"])
        self.assertIn("done: set it Failed", self.fsck(1, "--data", "--repair"))
        self.assertIn("no problem", self.fsck(0, "--data"))
        v.mount()
        self.assertEqual(v.status("c")["state"], "Failed")
        self.assertIn("found by fsck", v.status("c")["error"])
        self.assertEqual(v.status("open")["state"], "CopyInProgress")
        v.umount()
        with open(v.pool("catalog.db"), "r+b") as file:
            file.write(b"garbage" * 1000)
        self.assertIn("done: set it aside as catalog.db.damaged-1", self.fsck(1, "--repair"))
        self.fsck(0)
        v.mount()
        self.assertEqual(v.names(), [])
        with open(v.pool("clones/c/d/other"), "rb") as file:
            self.assertEqual(file.read(), b"b")

    def test_missing_pool(self):
        self.v.umount()
        shutil.rmtree(self.v.pool())
        self.without()
        self.check_live()
        self.umount()
        self.assertFalse(os.path.exists(self.v.pool()))

    def test_killed_then_without_then_with(self):
        v = self.v
        v.ctl("copy done d")
        v.wait("done")
        v.ctl("copy open file --nocopy")
        v.kill()
        self.without()
        self.check_live()
        self.umount()
        v.mount()
        self.assertEqual(v.status("open")["state"], "Failed")
        self.assertIn("--no-clones", v.status("open")["error"])
        self.assertEqual(v.status("done")["state"], "Copied")
        v.cli("verify", "done")


if __name__ == "__main__":
    main()
