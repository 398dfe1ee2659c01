#!/usr/bin/env python3
"""Argument handling of tools/setup, tools/test and tools/quickstart, and the count that .ci/run ends
with. What they do in earnest is tested by running them."""
import os
import shutil
import subprocess
import tempfile
import unittest

TOP = os.environ.get("CLONEFS_SOURCE_DIR") or os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def run(*command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          stdin=subprocess.DEVNULL, timeout=60, check=False, **options)


class Arguments(unittest.TestCase):
    def test_help(self):
        for script in ("setup", "test", "quickstart"):
            for option in ("-h", "--help"):
                done = run(f"{TOP}/tools/{script}", option)
                self.assertEqual(done.returncode, 0, done.stdout)
                self.assertIn(f"usage: tools/{script}", done.stdout)

    def test_wrong_usage(self):
        for command in (["setup", "--nonsense"], ["setup", "x"], ["test", "--nonsense"],
                        ["test", "--label"], ["quickstart", "--nonsense"],
                        ["quickstart", "/tmp", "/tmp"]):
            done = run(f"{TOP}/tools/{command[0]}", *command[1:])
            self.assertEqual(done.returncode, 2, f"{command}: {done.stdout}")
            self.assertIn("usage:", done.stdout)

    def test_quickstart_without_its_directory(self):
        with tempfile.TemporaryDirectory() as folder:
            done = run(f"{TOP}/tools/quickstart", f"{folder}/none")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("none", done.stdout)
        self.assertNotIn("Set up", done.stdout)


class CiCount(unittest.TestCase):
    """.ci/run with stand-ins for the scripts that it calls."""

    def ci(self, test_script):
        with tempfile.TemporaryDirectory() as top:
            os.mkdir(f"{top}/.ci")
            os.mkdir(f"{top}/tools")
            shutil.copy(f"{TOP}/.ci/run", f"{top}/.ci/run")
            for name, text in (("setup", "exit 0"), ("test", test_script)):
                with open(f"{top}/tools/{name}", "w", encoding="utf-8") as file:
                    file.write(f"#!/bin/bash\n{text}\n")
                os.chmod(f"{top}/tools/{name}", 0o755)
            done = run(f"{top}/.ci/run", cwd=top)
        return done.returncode, done.stdout.strip().splitlines()[-1]

    def test_all_pass(self):
        # 4 runs of 5 tests, and the setup.
        self.assertEqual(self.ci('echo "100% tests passed, 0 tests failed out of 5"'),
                         (0, "21 passed, 0 failed"))

    def test_failed_tests_are_counted(self):
        self.assertEqual(self.ci('echo "60% tests passed, 2 tests failed out of 5"; echo more; exit 8'),
                         (1, "13 passed, 8 failed"))

    def test_a_build_that_fails_is_a_failure(self):
        self.assertEqual(self.ci("echo error; exit 1"), (1, "1 passed, 4 failed"))

    def test_a_failure_that_no_test_accounts_for(self):
        self.assertEqual(self.ci('echo "100% tests passed, 0 tests failed out of 5"; exit 124'),
                         (1, "21 passed, 4 failed"))


if __name__ == "__main__":
    unittest.main()
