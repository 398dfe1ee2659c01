#!/usr/bin/env python3
"""clonefs exec: a command in a clone, and with the clone in the volume's place."""
import json
import os
import shutil
import subprocess
import unittest

from mount_test import run_as_user
from volume import BIN, VolumeTest, main, run

USER_SCRIPT = r"""
$BIN mount $V
$BIN copy x d
echo new > $V/d/file
test "$($BIN exec x -- cat d/file)" = old
test "$($BIN exec --in-place x -- cat $V/d/file)" = old
test "$($BIN exec --in-place x -- id -u)" = 4242
test "$(cat $V/d/file)" = new
# A directory of PATH that may not be searched has no program, as for a shell.
mkdir -m 0 $V/closed
code=0
PATH=$V/closed:$PATH $BIN exec x -- no-such-command || code=$?
test $code = 127
$BIN umount $V
echo all is well
"""


class Exec(VolumeTest):
    def setUp(self):
        super().setUp()
        self.v.write("d/file", b"old")
        self.v.write("other", b"other")
        self.v.ctl("copy clone d")
        self.v.write("d/file", b"new")

    def exec(self, *words, cwd="/"):
        return run(BIN, "exec", *words, cwd=cwd, env=dict(os.environ, CLONEFS_MOUNT=self.v.path))

    def test_in_the_clone(self):
        done = self.exec("clone", "--", "sh", "-c",
                         "cat d/file; echo \" $CLONEFS_NAME $CLONEFS_CLONE\"; pwd; exit 7")
        where = self.v.clone("clone")
        self.assertEqual(done.stdout, f"old clone {where}\n{where}\n")
        self.assertEqual(done.returncode, 7)

    def test_words_are_passed_as_they_are(self):
        done = self.exec("clone", "--", "echo", "--", "-x", "{}", "[a]", "", "two words")
        self.assertEqual(done.stdout, "-- -x {} [a]  two words\n")

    def test_in_place(self):
        script = f"cat {self.v.at('d/file')}; echo \" $CLONEFS_CLONE\"; pwd; ls {self.v.path}; exit 3"
        done = self.exec("--in-place", "clone", "--", "sh", "-c", script, cwd=self.v.at("d"))
        self.assertEqual(done.stdout, f"old {self.v.path}\n{self.v.at('d')}\nd\n")
        self.assertEqual(done.returncode, 3)
        with open(self.v.at("d/file"), "rb") as file:  # everybody else sees the volume
            self.assertEqual(file.read(), b"new")

    def test_refused(self):
        def refused(code, text, *words, cwd="/"):
            done = self.exec(*words, cwd=cwd)
            self.assertEqual(done.returncode, code, done.stdout)
            self.assertIn(text, done.stdout)
        refused(125, "there is no clone nothing", "nothing", "--", "true")
        refused(125, "not the name of a clone", "../clone", "--", "true")
        refused(127, "cannot run no-such-command", "clone", "--", "no-such-command")
        refused(126, "cannot run /etc/passwd", "clone", "--", "/etc/passwd")
        refused(2, "COMMAND", "clone")
        self.v.ctl("create later d")
        refused(125, "clonefs activate later", "later", "--", "true")
        os.mkdir(self.v.at("young"))
        refused(125, "no directory young", "--in-place", "clone", "--", "true",
                cwd=self.v.at("young"))

    @unittest.skipUnless(shutil.which("restic"), "restic is not installed")
    def test_backup_in_place(self):
        """A job that names the volume's path: what did not change is skipped from clone to clone."""
        for n in range(100):
            self.v.write(f"d/{n}", b"%d" % n * 1000)
        env = dict(os.environ, RESTIC_REPOSITORY=os.path.join(self.v.base, "backup"),
                   RESTIC_PASSWORD="test", RESTIC_CACHE_DIR=os.path.join(self.v.base, "cache"),
                   CLONEFS_MOUNT=self.v.path)
        subprocess.run(["restic", "init"], env=env, check=True, stdout=subprocess.DEVNULL)

        def backup():
            self.v.ctl("copy nightly .")
            done = run(BIN, "exec", "--in-place", "nightly", "--", "restic", "backup", "--json",
                       self.v.at("d"), env=env)
            self.v.ctl("wait nightly")
            self.v.ctl("delete nightly --force")
            self.assertEqual(done.returncode, 0, done.stdout)
            return json.loads(done.stdout.splitlines()[-1])
        first = backup()
        self.assertEqual(first["files_new"], 101)
        self.v.write("d/7", b"changed")
        second = backup()
        self.assertEqual((second["files_new"], second["files_changed"], second["files_unmodified"]),
                         (0, 1, 100))


class OrdinaryUser(unittest.TestCase):
    @unittest.skipUnless(os.geteuid() == 0, "makes its own ordinary user, as root")
    def test_own_volume(self):
        run_as_user(self, USER_SCRIPT)


if __name__ == "__main__":
    main()
