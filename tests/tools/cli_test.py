#!/usr/bin/env python3
"""The command line without a volume: help, usage, exit codes, and what it says when none is mounted."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

BIN = os.environ.get("CLONEFS_BIN", "")
VERBS = ["mount", "umount", "create", "precopy", "activate", "copy", "status", "list", "wait",
         "terminate", "delete", "extents", "rate", "resume", "verify", "fsck",
         "diff", "restore", "exec", "doctor",
         "map", "report",
         "hold", "release", "plan", "recreate"]


def cli(*words, **env):
    environment = dict(os.environ, **env)
    if "CLONEFS_MOUNT" not in env:
        environment.pop("CLONEFS_MOUNT", None)
    return subprocess.run([BIN, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=30, check=False,
                          env=environment, cwd="/")


class Cli(unittest.TestCase):
    def test_help_of_every_command(self):
        done = cli("--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for verb in VERBS:
            self.assertIn(f"  {verb} ", done.stdout)
            for words in ([verb, "--help"], [verb, "-h"], ["-h", verb]):
                of_verb = cli(*words)
                self.assertEqual((of_verb.returncode, of_verb.stderr), (0, ""), words)
            self.assertIn(f"clonefs {verb}", cli(verb, "--help").stdout)

    def test_version(self):
        done = cli("--version")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, r"^clonefs \d+\.\d+\.\d+ \(libfuse 3\.\d+\.\d+, with(out)? passthrough\)\n$")

    def test_wrong_usage(self):
        for words in ([], ["frobnicate"], ["--frob"], ["create"], ["create", "x"],
                      ["create", "bad/name", "."], ["activate"], ["copy", "x"], ["wait"],
                      ["restore", "NA ME"], ["diff", "../x"], ["report", "a/b", "--html", "/tmp/x"],
                      ["report", "a", "--html", ""], ["map", "a", "--svg", ""], ["wait", "x", "../y"],
                      ["status", "--frob"], ["rate", "x", "fast"], ["mount"],
                      ["mount", "a", "b", "c"], ["umount"], ["mount", "-o", "bogus", "/tmp"],
                      ["create", "x", ".", "--track-size", "5000"], ["status", "--mount"]):
            done = cli(*words)
            self.assertEqual(done.returncode, 2, (words, done.stderr))
            self.assertEqual(done.stdout, "", words)
            self.assertTrue(done.stderr.startswith("clonefs: "), (words, done.stderr))
            self.assertIn("Try: clonefs", done.stderr, words)
        self.assertIn("'frobnicate'", cli("frobnicate").stderr)
        message = json.loads(cli("create", "x", "--json").stdout)["error"]["message"]
        self.assertRegex(message, r"required\. Try: clonefs create --help$")

    def test_refused(self):
        with tempfile.TemporaryDirectory() as directory:
            for words in (["status"], ["create", "x", "."], ["list"], ["activate", "x"]):
                done = cli(*words, "--mount", directory)
                self.assertEqual((done.returncode, done.stdout), (1, ""), words)
                self.assertIn(f"no volume is mounted at {directory}", done.stderr)
                self.assertIn("clonefs mount", done.stderr)  # what to do
                before = cli("--mount", directory, *words)
                self.assertEqual(before.stderr, done.stderr)  # options of all stand on either side
                named = cli(*words, CLONEFS_MOUNT=directory)
                self.assertEqual(named.stderr, done.stderr)


if __name__ == "__main__":
    if not BIN:
        sys.exit("set CLONEFS_BIN to the clonefs program")
    unittest.main(verbosity=2)
