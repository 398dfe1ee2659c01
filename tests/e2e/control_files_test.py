#!/usr/bin/env python3
"""The control files: everything that the command line can do, with echo, cat, mkdir and rmdir."""
import errno
import json
import os
import signal
import stat
import subprocess
import time
import unittest

from volume import Volume, VolumeTest, main, run, wait_for


class ControlFiles(VolumeTest):
    def setUp(self):
        super().setUp()
        self.v.write("d/file", b"old" * 100000)
        self.v.write("other", b"other")

    def shell(self, script):
        return run("bash", "-c", script, cwd=self.v.path)

    def test_directory_is_hidden_and_complete(self):
        v = self.v
        self.assertEqual(sorted(os.listdir(v.path)), ["d", "other"])
        self.assertNotIn(".clone", os.listdir(v.at("d")))
        self.assertEqual(sorted(os.listdir(v.at(".clonefs"))),
                         ["README", "clones", "ctl", "events", "events.json", "log", "metrics", "sessions",
                          "status", "status.json"])
        with self.assertRaises(FileNotFoundError):
            os.stat(v.at(".clonefs/pool"))
        with open(v.at(".clonefs/README"), encoding="utf-8") as file:
            self.assertIn(".clonefs/ctl", file.read())

    def test_echo(self):
        done = self.shell("echo create x d > .clonefs/ctl && echo activate x >> .clonefs/ctl")
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        self.assertEqual(self.v.names(), ["x"])
        done = self.shell("echo create x d > .clonefs/ctl")
        self.assertEqual(done.returncode, 1)
        self.assertIn("File exists", done.stdout)
        done = self.shell("echo nonsense > .clonefs/ctl")
        self.assertIn("Invalid argument", done.stdout)

    def test_reply_on_the_same_descriptor(self):
        done = self.shell("exec 3<>.clonefs/ctl; echo copy x d >&3 && cat <&3; echo list >&3; cat <&3")
        self.assertEqual(done.returncode, 0)
        self.assertIn("x: CopyInProgress, 1 file", done.stdout)
        self.assertIn("CONSISTENCY POINT", done.stdout)
        # A refusal is explained there too, and the next command is not disturbed by it.
        done = self.shell("exec 3<>.clonefs/ctl; echo status nix >&3; cat <&3; echo list >&3; cat <&3")
        self.assertIn("nix", done.stdout)
        self.assertIn("CONSISTENCY POINT", done.stdout)

    def test_help_is_a_reply(self):
        self.assertIn("--precopy", self.v.ctl("create --help"))

    def test_quotes(self):
        self.v.write("with blank/it's", b"x")
        self.v.ctl("""copy x 'with blank'\n""")
        self.v.ctl("""copy y "with blank/it's"\n""")
        self.assertEqual(self.v.status("y")["paths"], ["with blank/it's"])

    def test_long_and_broken_lines(self):
        v = self.v
        self.assert_refused(errno.E2BIG, lambda: v.ctl("copy x " + "d " * 40000), "64 KiB")
        self.assert_refused(errno.EINVAL, lambda: v.ctl(b"copy x d\0"), "NUL")
        self.assert_refused(errno.EINVAL, lambda: v.ctl("copy x 'd"), "quote")
        self.assert_refused(errno.EINVAL, lambda: v.ctl("copy x d\nlist\n"), "one")
        self.assertEqual(v.names(), [])

    def test_sessions(self):
        v = self.v
        v.ctl("create x d")
        self.assertEqual(os.listdir(v.at(".clonefs/sessions")), ["x"])
        self.assertEqual(sorted(os.listdir(v.at(".clonefs/sessions/x"))),
                         ["ctl", "status", "status.json", "verify"])
        with open(v.at(".clonefs/sessions/x/status"), encoding="utf-8") as file:
            self.assertIn("Created", file.read())
        self.assertEqual(v.status("x")["state"], "Created")
        v.ctl("activate", session="x")
        v.ctl("wait --timeout 30", session="x")
        v.ctl("terminate", session="x")
        self.assertEqual(os.listdir(v.at(".clonefs/sessions")), [])
        with self.assertRaises(FileNotFoundError):
            os.stat(v.at(".clonefs/sessions/x"))
        self.assertIn("Terminated", v.ctl("list"))

    def test_status_json(self):
        v = self.v
        v.ctl("copy x d --nocopy")
        whole = v.status_json()
        self.assertEqual((whole["schema"], whole["volume"], whole["pid"]), (1, v.path, v.pid))
        session, = whole["sessions"]
        self.assertEqual(session["state"], "CopyInProgress")
        self.assertRegex(session["activated_at"],
                         r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$")
        self.assertEqual(session["tracks_pending"], session["tracks_total"])
        self.assertEqual(json.loads(v.ctl("status x --json"))["sessions"], [session])

    def test_names_that_are_no_text(self):
        v = self.v
        os.mkdir(os.path.join(os.fsencode(v.path), b"\xff\xfe"))
        v.ctl(b"copy x \xff\xfe")
        self.assertEqual(v.status("x")["paths"], ["\ufffd\ufffd"])
        self.assertTrue(os.path.isdir(os.path.join(os.fsencode(v.clone("x")), b"\xff\xfe")))

    def test_tail_follows_events(self):
        v = self.v
        out = os.path.join(v.base, "tail")
        with open(out, "wb") as file:
            tail = subprocess.Popen(["tail", "-n", "+1", "-s", "0.1", "-f", v.at(".clonefs/events")],
                                    stdout=file, stdin=subprocess.DEVNULL)
        try:
            def said():
                with open(out, encoding="utf-8") as file:
                    return file.read()
            v.ctl("create x d")
            wait_for(lambda: "created x" in said(), "tail shows the first event")
            v.ctl("activate x")
            wait_for(lambda: "activated x" in said(), "tail shows a later one")
            v.wait("x")
            wait_for(lambda: "copied x" in said(), "tail shows the end")
            for line in said().splitlines():
                self.assertRegex(line, r"^\d{4}-\d\d-\d\dT[0-9:.]+Z \S")
        finally:
            tail.kill()
            tail.wait()

    def test_killed_while_it_waits(self):
        v = self.v
        v.ctl("create x d")
        waiting = subprocess.Popen(["bash", "-c", "echo wait x > .clonefs/ctl"], cwd=v.path)
        wait_for(lambda: self.blocked(waiting.pid), "the command waits")
        begin = time.monotonic()
        waiting.send_signal(signal.SIGKILL)
        waiting.wait(timeout=10)
        self.assertLess(time.monotonic() - begin, 5)
        v.ctl("activate x")  # nothing is held
        v.wait("x")

    @staticmethod
    def blocked(pid):
        """Has the process a control file open? (bash opens it just before the write)"""
        try:
            return any(os.readlink(f"/proc/{pid}/fd/{fd}").endswith("/.clonefs/ctl")
                       for fd in os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            return False

    def test_interrupted_again_and_again(self):
        """Signals that kill nobody: Python writes the line again each time."""
        for i in range(1000):
            self.v.write(f"d/{i}", b"x")
        interrupts = []
        before = signal.signal(signal.SIGALRM, lambda *_: interrupts.append(0))
        try:
            for interval in (0.002, 0.01):
                signal.setitimer(signal.ITIMER_REAL, interval, interval)
                self.v.ctl("create c d")
                self.assert_refused(errno.EEXIST, lambda: self.v.ctl("create c d"), "in use")
                self.v.ctl("activate c")
                signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)  # each begins it anew
                self.v.ctl("wait c")
                self.assertEqual(self.v.status("c")["state"], "Copied")
                self.v.ctl("delete c")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        self.assertGreater(len(interrupts), 10)

    def test_mkdir_and_rmdir_in_clones(self):
        v = self.v
        os.mkdir(v.clone("now"))
        v.write("d/file", b"new")
        self.assertEqual(sorted(os.listdir(v.clone("now"))), ["d", "other"])
        with open(v.clone("now", "d/file"), "rb") as file:
            self.assertEqual(file.read(), b"old" * 100000)
        self.assert_refused(errno.EEXIST, lambda: os.mkdir(v.clone("now")))
        self.assert_refused(errno.EINVAL, lambda: os.mkdir(v.clone("bad name")))
        self.assert_refused(errno.ENOENT, lambda: os.rmdir(v.clone("nix")))
        self.assert_refused(errno.EPERM, lambda: open(v.clone("file"), "wb"))
        self.assert_refused(errno.EPERM, lambda: os.rename(v.clone("now"), v.clone("then")))
        os.rmdir(v.clone("now"))
        self.assertEqual(os.listdir(v.at(".clonefs/clones")), [])
        self.assertNotIn("now", v.ctl("list"))
        os.mkdir(v.clone("now"))  # the name is free again
        with open(v.clone("now", "d/file"), "rb") as file:
            self.assertEqual(file.read(), b"new")

    def test_clone_list_of_a_directory(self):
        v = self.v
        os.mkdir(v.at("d/.clone/a"))
        self.assertEqual(v.status("a")["paths"], ["d"])
        os.mkdir(v.clone("all"))
        v.ctl("copy o other")
        v.write("d/file", b"new")
        self.assertEqual(sorted(os.listdir(v.at("d/.clone"))), ["a", "all"])  # not o
        for name in ("a", "all"):
            with open(v.at("d/.clone", name, "file"), "rb") as file:
                self.assertEqual(file.read(), b"old" * 100000)
            with open(v.clone(name, "d/file"), "rb") as file:
                self.assertEqual(file.read(), b"old" * 100000)
        # Not taken for the live file by cp and the like.
        live, shown = os.stat(v.at("d/file")), os.stat(v.at("d/.clone/a/file"))
        self.assertNotEqual((live.st_dev, live.st_ino), (shown.st_dev, shown.st_ino))
        done = run("cp", v.at("d/.clone/a/file"), v.at("d/file"))
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(os.stat(v.at("d/file")).st_size, 300000)

        self.assert_refused(errno.EROFS, lambda: open(v.at("d/.clone/a/file"), "r+b"))
        self.assert_refused(errno.EROFS, lambda: os.unlink(v.at("d/.clone/a/file")))
        self.assert_refused(errno.EPERM, lambda: os.rmdir(v.at("d/.clone/all")))  # holds more
        os.rmdir(v.at("d/.clone/a"))
        self.assertEqual(os.listdir(v.at("d/.clone")), ["all"])
        self.assertNotIn("a", v.names())


class OwnEntries(unittest.TestCase):
    def test_an_entry_named_clone_wins(self):
        with Volume() as v:
            os.mkdir(os.path.join(v.source, "d"))
            with open(os.path.join(v.source, "d/.clone"), "wb") as file:
                file.write(b"mine")
            v.mount()
            self.assertEqual(os.listdir(v.at("d")), [".clone"])
            with open(v.at("d/.clone"), "rb") as file:
                self.assertEqual(file.read(), b"mine")
            os.unlink(v.at("d/.clone"))
            self.assertEqual(os.listdir(v.at("d/.clone")), [])  # ours now


class Permissions(VolumeTest):
    @classmethod
    def setUpClass(cls):
        if os.geteuid() != 0:
            raise cls.skipTest(cls, "needs root to act as others")

    def as_user(self, uid, script, groups="--clear-groups"):
        return run("setpriv", f"--reuid={uid}", "--regid=4242", groups, "sh", "-c", script,
                   cwd=self.v.path)

    def test_only_the_owner_commands(self):
        v = self.v
        v.write("file", b"x")
        os.chmod(v.path, 0o755)
        for script in ("echo copy x file > .clonefs/ctl", "mkdir .clonefs/clones/x",
                       "mkdir .clone/x", "cat .clonefs/status", "cat .clonefs/status.json",
                       "cat .clonefs/events", "cat .clonefs/events.json", "cat .clonefs/log", "cat .clonefs/metrics"):
            done = self.as_user(4242, script)
            self.assertNotEqual(done.returncode, 0, script)
            self.assertIn("ermission denied", done.stdout, script)
        self.assertEqual(v.names(), [])
        self.assertEqual(self.as_user(4242, "cat .clonefs/README").returncode, 0)

        os.chown(v.path, 4242, 4242)  # of the volume now: at once
        self.assertEqual(self.as_user(4242, "echo copy x file > .clonefs/ctl").returncode, 0)
        self.assertEqual(v.names(), ["x"])
        self.assertNotEqual(self.as_user(4243, "cat .clonefs/status").returncode, 0)

    def test_ctl_may_be_given_to_a_group(self):
        v = self.v
        v.write("file", b"x")
        os.chmod(v.path, 0o755)
        os.chown(v.at(".clonefs/ctl"), -1, 5555)
        os.chmod(v.at(".clonefs/ctl"), 0o660)
        st = os.stat(v.at(".clonefs/ctl"))
        self.assertEqual((stat.S_IMODE(st.st_mode), st.st_gid), (0o660, 5555))
        done = self.as_user(4242, "echo copy x file > .clonefs/ctl", "--groups=5555")
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        self.assertNotEqual(self.as_user(4242, "echo copy y file > .clonefs/ctl").returncode, 0)

    def test_clones_are_open_to_whom_the_modes_admit(self):
        v = self.v
        os.chmod(v.path, 0o755)
        v.write("private", b"secret", 0o600)
        v.write("public", b"public", 0o644)
        v.write("shared", b"shared", 0o666)
        v.ctl("copy x . --nocopy")
        clone = ".clonefs/clones/x/"
        self.assertNotEqual(self.as_user(4242, f"cat {clone}private").returncode, 0)
        self.assertEqual(self.as_user(4242, f"cat {clone}public").stdout, "public")
        self.assertNotEqual(self.as_user(4242, f"echo > {clone}public").returncode, 0)
        self.assertEqual(self.as_user(4242, f"echo changed > {clone}shared").returncode, 0)
        with open(v.at("shared"), "rb") as file:
            self.assertEqual(file.read(), b"shared")
        with open(v.clone("x", "shared"), "rb") as file:
            self.assertEqual(file.read(), b"changed\n")


if __name__ == "__main__":
    main()
