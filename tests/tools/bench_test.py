#!/usr/bin/env python3
"""tools/bench: its arguments, and every part of it at a small size with the real program."""
import os
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

TOP = os.environ.get("CLONEFS_SOURCE_DIR") or os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("CLONEFS_BIN", "")
sys.path.insert(0, f"{TOP}/tools")
sys.dont_write_bytecode = True
# pylint: disable=wrong-import-position
import bench_live  # noqa: E402
import bench_parts  # noqa: E402
import bench_report  # noqa: E402
from bench_aims import ROWS  # noqa: E402
from bench_places import Missing, Workplace  # noqa: E402
from bench_systems import CLONE, CLONEFS, NATIVE, URING, System  # noqa: E402


class Arguments(unittest.TestCase):
    def bench(self, *words):
        return subprocess.run([f"{TOP}/tools/bench", *words], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=60, check=False)

    def test_help(self):
        done = self.bench("--help")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("usage: tools/bench", done.stdout)

    def test_wrong_usage_builds_nothing(self):
        for words in (["--nonsense"], ["--only", "x"], ["--only"], ["--dir", "/nonexistent"],
                      ["--in", "memory"], ["--systems", "nfs"]):
            done = self.bench(*words)
            self.assertEqual(done.returncode, 2, f"{words}: {done.stdout}")
            self.assertIn("usage: tools/bench", done.stdout)

    def test_build_directory_that_is_none(self):
        with tempfile.TemporaryDirectory() as folder:
            done = self.bench("--build", f"{folder}/none")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("none", done.stdout)


class Comparing(unittest.TestCase):
    """The rules of part c, on figures that are made up."""

    def comparison(self, **values):
        """VALUES: what each system reached in each repetition of `stat hot`."""
        names = {"native": NATIVE, "clonefs": CLONEFS, "uring": URING, "clone": CLONE}
        systems = [System(names.get(name, name), name) for name in values]
        found = bench_live.Comparison(systems)

        def run(system):
            value = values[system.path].pop(0)
            return [{"case": "stat hot", "missing": value} if isinstance(value, str) else
                    {"case": "stat hot", "unit": "op/s", "value": value, "p50_us": 1}]
        case = bench_live.LiveCase("stat hot", run, True)
        for n in range(len(values["native"])):
            found.measure(case, n)
        return found

    def test_a_ratio_is_to_native_in_the_same_turn_and_the_median_counts(self):
        found = self.comparison(native=[100, 200, 400], clonefs=[50, 180, 400])
        self.assertEqual(found.ratios("stat hot", CLONEFS), [0.5, 0.9, 1.0])
        self.assertEqual(found.ratio("stat hot", CLONEFS), 0.9)

    def test_what_is_below_its_aim_is_marked(self):
        text, below, ahead, _ = bench_live.remark(
            self.comparison(native=[100], clonefs=[94], bindfs=[90]), "stat hot", 0.95)
        self.assertEqual((below, ahead), (True, []))
        self.assertIn("below 0.95", text)
        _, below, _, _ = bench_live.remark(
            self.comparison(native=[100], clonefs=[95]), "stat hot", 0.95)
        self.assertFalse(below)

    def test_a_peer_that_is_ahead_is_named(self):
        _, _, ahead, _ = bench_live.remark(
            self.comparison(native=[100], clonefs=[96], bindfs=[110], mergerfs=[97]), "stat hot", 0.95)
        self.assertEqual(ahead, ["bindfs"])
        # The better clonefs counts.
        _, below, ahead, _ = bench_live.remark(
            self.comparison(native=[100], clonefs=[50], uring=[106], bindfs=[110]), "stat hot", 0.95)
        self.assertEqual((below, ahead), (False, []))

    def test_a_system_that_cannot_says_why_and_the_others_are_measured(self):
        found = self.comparison(native=[100], clonefs=[100], mergerfs=["write: Invalid argument"])
        table = bench_live.Table("t", ["case", "native", "unit", *found.names[1:], "aim", "remark"], "")
        bench_live.add_row(table, found, "stat hot", "disk")
        bench_live.add_geomeans(table, found, "memory")
        self.assertIn("mergerfs, stat hot: write: Invalid argument", table.why_missing)
        self.assertEqual(table.rows[0][3:5], ["1.00", "-"])
        self.assertTrue(all(len(row) == len(table.columns) for row in table.rows), table.rows)

    def test_docs(self):
        found = self.comparison(native=[100], clonefs=[90], clone=[80])
        table = bench_live.Table("t", ["case", "native", "unit", CLONEFS, CLONE, "aim", "remark"], "n")
        bench_live.add_row(table, found, "stat hot", "disk")
        table.plot = {"systems": found.names[1:], "where": "on a disk", "name": "disk"}
        result = {"quick": True, "time": "now", "tables": [{"part": "c", **table.as_json()}],
                  "machine": {"cpu": "<x>", "cores": 1, "memory_gib": 1, "kernel": "k",
                              "file_system": "f", "load_at_start": 0}}
        with tempfile.TemporaryDirectory() as folder:
            page = f"{folder}/page.md"
            with open(page, "w", encoding="utf-8") as file:
                file.write(f"before\n{bench_report.BEGIN}\nold\n{bench_report.END}\nafter\n")
            bench_report.save(result, f"{folder}/r.json")
            done = subprocess.run([f"{TOP}/tools/bench", "--render", f"{folder}/r.json", "--docs", page],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  timeout=60, check=False)
            self.assertEqual(done.returncode, 0, done.stdout)
            with open(page, encoding="utf-8") as file:
                text = file.read()
            picture = xml.etree.ElementTree.parse(f"{folder}/benchmark-disk.svg")
        self.assertIn("| stat hot | 100", text)
        self.assertIn("![t](benchmark-disk.svg)", text)
        self.assertNotIn("old", text)
        self.assertTrue(text.startswith("before\n") and text.endswith("\nafter\n"), text)
        bars = [bar.text for bar in picture.iter("{http://www.w3.org/2000/svg}title")]
        self.assertIn("stat hot, clonefs: 0.90", bars)
        self.assertIn("stat hot, drained clone: 0.80", bars)


class Small(bench_parts.Parameters):
    def __init__(self):
        super().__init__(quick=True, systems=(NATIVE, CLONEFS, CLONE, "bindfs"))
        self.reps = 1
        self.shapes = ("sparse", "many")
        self.big = 4 << 20
        self.many = 50
        self.data = 4 << 20
        self.ballast = 8 << 20
        self.files = 20
        self.tree = 20
        self.seconds = 0.05
        self.before_s = self.after_s = 0.05
        self.rewrite_s = 0.1


@unittest.skipUnless(os.access("/dev/fuse", os.R_OK | os.W_OK), "/dev/fuse cannot be opened")
@unittest.skipUnless(BIN and os.path.exists(os.path.join(os.path.dirname(BIN), "clonefs-bench")),
                     "clonefs-bench is not built")
class Parts(unittest.TestCase):
    # Without root or the tools that make these, the row says so.
    MAY_BE_MISSING = ("XFS", "btrfs", "cold", "git")

    def measure(self, part, cases=""):
        parameters = Small()
        parameters.cases = cases
        with tempfile.TemporaryDirectory() as folder:
            with Workplace(folder, os.path.dirname(BIN)) as work:
                tables = bench_parts.PARTS[part](work, parameters)
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
        records = {record["case"]: record for record in self.measure("c")[0].records}
        self.assertEqual([row for row in ROWS if row not in records], [])
        self.assertGreater(records["rewrite 4K random"]["ratios"][CLONEFS], 0)
        self.assertNotIn(CLONE, [name for name, ratio in records["rewrite 4K random"]["ratios"].items()
                                 if ratio is not None])
        for name in (CLONEFS, CLONE):
            self.assertGreater(records["read 1M cached"]["ratios"][name], 0)
            self.assertGreater(records["find"]["ratios"][name], 0)

    def test_live_mount_with_a_clone(self):
        names, beside = self.measure("d", cases="names")
        self.assertEqual([record["case"] for record in names.records],
                         ["create", "rename", "unlink", "mkdir"])
        for record in beside.records:
            self.assertGreater(record["buffered"]["ratio"], 0)
            self.assertGreater(record["durable"]["ratio"], 0)

    def test_requests(self):
        try:
            records = {r["case"]: r for r in self.measure("requests")[0].records}
        except Missing as e:
            self.skipTest(str(e))
        made = records["create + write 1 KiB + close"]
        self.assertEqual(made["requests"][CLONEFS]["CREATE"], made["operations"])
        self.assertEqual(records["rename"]["requests"][CLONEFS].get("RENAME", 0) +
                         records["rename"]["requests"][CLONEFS].get("RENAME2", 0), made["operations"])

    def test_drain(self):
        self.assertEqual(len(self.measure("e")[0].records), 3)


if __name__ == "__main__":
    unittest.main()
