#!/usr/bin/env python3
"""tools/bench: its arguments, and every part of it at a small size with the real program."""
import os
import subprocess
import sys
import tempfile
import unittest

TOP = os.environ.get("CLONEFS_SOURCE_DIR") or os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("CLONEFS_BIN", "")
sys.path.insert(0, f"{TOP}/tools")
sys.dont_write_bytecode = True
import bench_parts  # noqa: E402  pylint: disable=wrong-import-position
from bench_places import Workplace  # noqa: E402  pylint: disable=wrong-import-position


class Arguments(unittest.TestCase):
    def bench(self, *words):
        return subprocess.run([f"{TOP}/tools/bench", *words], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=60, check=False)

    def test_help(self):
        done = self.bench("--help")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("usage: tools/bench", done.stdout)

    def test_wrong_usage_builds_nothing(self):
        for words in (["--nonsense"], ["--only", "x"], ["--only"], ["--dir", "/nonexistent"]):
            done = self.bench(*words)
            self.assertEqual(done.returncode, 2, f"{words}: {done.stdout}")
            self.assertIn("usage: tools/bench", done.stdout)

    def test_build_directory_that_is_none(self):
        with tempfile.TemporaryDirectory() as folder:
            done = self.bench("--build", f"{folder}/none")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("none", done.stdout)


class Small(bench_parts.Parameters):
    def __init__(self):
        super().__init__(quick=True)
        self.reps = 1
        self.shapes = ("sparse", "many")
        self.big = 4 << 20
        self.many = 50
        self.data = 4 << 20
        self.ballast = 8 << 20
        self.files = 20
        self.seconds = 0.05
        self.before_s = self.after_s = 0.05
        self.rewrite_s = 0.1


@unittest.skipUnless(os.access("/dev/fuse", os.R_OK | os.W_OK), "/dev/fuse cannot be opened")
@unittest.skipUnless(BIN and os.path.exists(os.path.join(os.path.dirname(BIN), "clonefs-bench")),
                     "clonefs-bench is not built")
class Parts(unittest.TestCase):
    # Without root or the tools that make these, the row says so.
    MAY_BE_MISSING = ("XFS", "btrfs", "stat cold")

    def measure(self, part):
        with tempfile.TemporaryDirectory() as folder:
            with Workplace(folder, os.path.dirname(BIN)) as work:
                tables = bench_parts.PARTS[part](work, Small())
            self.assertEqual(os.listdir(folder), [], "what it made is gone")
        with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
            self.assertNotIn(folder, mounts.read())
        for table in tables:
            self.assertEqual(len(table.rows), len(table.records))
            self.assertTrue(all(len(row) == len(table.columns) for row in table.rows), table.rows)
            for record in table.records:
                if "missing" in record:
                    self.assertTrue(any(word in record["case"] for word in self.MAY_BE_MISSING),
                                    record)
        return tables

    def test_activation(self):
        for record in self.measure("a")[0].records:
            if "missing" not in record:
                for mode in ("buffered", "durable"):
                    self.assertGreater(record[mode][0]["call"], 0)
                    self.assertGreater(record[mode][0]["during"], 0)

    def test_rewritten_tracks(self):
        for record in self.measure("b")[0].records:
            tracks = record["repetitions"][0]["tracks"]
            self.assertLessEqual(tracks, 1000)
            if "created" in record["case"]:
                self.assertEqual(tracks, 1000)

    def test_live_mount(self):
        for part in "cd":
            cases = [record["case"] for record in self.measure(part)[0].records]
            self.assertIn("rewrite 4K random", cases)
            self.assertIn("unlink", cases)

    def test_drain(self):
        self.assertEqual(len(self.measure("e")[0].records), 3)


if __name__ == "__main__":
    unittest.main()
