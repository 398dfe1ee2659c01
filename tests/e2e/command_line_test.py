#!/usr/bin/env python3
"""The command line: help, exit codes, finding the volume, JSON, waiting, watching, extents, rates."""
import json
import os
import re
import shutil
import signal
import subprocess
import time

from volume import BIN, Refused, Volume, VolumeTest, main, run, wait_for

MIB = 1 << 20
VERBS = ("mount", "umount", "create", "precopy", "activate", "copy", "status", "list", "wait",
         "terminate", "delete", "extents", "rate", "resume", "verify", "fsck")
KEYS = ("name state op op_status created_at activated_at error paths files tracks_total "
        "tracks_pending tracks_precopied tracks_recopied cofw_tracks clone_read_tracks last_track "
        "bytes_total bytes_copied rate_bytes_per_s eta_s sessions destination").split()
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")


class Help(VolumeTest):
    def test_help(self):
        top = run(BIN, "--help")
        self.assertEqual(top.returncode, 0)
        for verb in VERBS:
            self.assertIn(f"\n  {verb} ", top.stdout)
            done = run(BIN, verb, "--help")
            self.assertEqual(done.returncode, 0, done.stdout)
            self.assertIn("Usage: ", done.stdout)
        self.assertIn("--precopy", run(BIN, "create", "--help").stdout)
        self.assertRegex(run(BIN, "--version").stdout, r"^clonefs \d+\.\d+\.\d+ \(.*\)\n$")

    def test_wrong_usage(self):
        for words in ([], ["nonsense"], ["create"], ["status", "--nonsense"], ["wait"], ["umount"]):
            done = subprocess.run([BIN, *words], capture_output=True, text=True, check=False,
                                  timeout=30)
            self.assertEqual(done.returncode, 2, words)
            self.assertEqual(done.stdout, "")
            self.assertIn("clonefs", done.stderr)


class Finding(VolumeTest):
    """Which volume is meant."""

    def test_the_volume_is_found(self):
        v = self.v
        v.write("d/file", b"data")
        env = {k: x for k, x in os.environ.items() if k != "CLONEFS_MOUNT"}
        with Volume().mount() as other:
            other.write("d/file", b"other")

            def says(*words, cwd="/", mount=None):
                done = run(BIN, *words, cwd=cwd, env=dict(env, CLONEFS_MOUNT=mount) if mount else env)
                self.assertEqual(done.returncode, 0, done.stdout)
                return done.stdout
            # Nothing tells which of the two.
            self.assertEqual(run(BIN, "status", cwd="/", env=env).returncode, 1)
            says("copy", "by-option", "d", "--mount", v.path)
            says("--mount", v.path, "copy", "by-option-before", "d")
            says("copy", "by-environment", "d", mount=v.path)
            says("copy", "by-path", v.at("d"))
            says("copy", "by-directory", "file", cwd=v.at("d"))
            says("copy", "by-directory-up", "../d", cwd=v.at("d"))
            self.assertEqual(sorted(v.names()), sorted([
                "by-option", "by-option-before", "by-environment", "by-path", "by-directory",
                "by-directory-up"]))
            self.assertEqual(other.names(), [])
            for name in v.names():
                with open(v.clone(name, "d/file"), "rb") as file:
                    self.assertEqual(file.read(), b"data")
            self.assertIn("by-path", says("list", cwd=v.clone("by-path")))

    def test_a_path_means_what_it_means_to_every_program(self):
        v = self.v
        v.write("d/e/file", b"data")
        v.write("volume/file", b"named as the volume is")
        v.write("e/file", b"another")
        parent, volume = os.path.split(v.path)

        def paths(*words, cwd):
            v.cli("create", "c", *words, cwd=cwd)
            found = v.status("c")["paths"]
            v.cli("terminate", "c", "--force")
            return found
        self.assertEqual(paths("e", cwd=v.at("d")), ["d/e"])
        self.assertEqual(paths("../e", cwd=v.at("d")), ["e"])
        self.assertEqual(paths(f"{volume}/e", cwd=parent), ["e"])
        self.assertEqual(paths("../e", cwd=parent + "/volume/d"), ["e"])
        # Nothing of that name here, or not in the volume: from the volume's root.
        self.assertEqual(paths("d/e", cwd="/"), ["d/e"])
        self.assertEqual(paths(".", cwd="/"), ["."])
        for word in (volume, f"{volume}/file"):
            with self.assertRaises(Refused) as caught:
                paths(word, cwd=parent)
            self.assertIn("absolute path", caught.exception.text)
        v.write("file", b"")
        shutil.rmtree(v.at("volume"))
        self.assertEqual(paths(volume, cwd=parent), ["."])
        self.assertEqual(paths(f"{volume}/file", cwd=parent), ["file"])


class Commands(VolumeTest):
    def setUp(self):
        super().setUp()
        self.v.write("d/a", b"a" * (4 * MIB))
        self.v.write("d/b", b"b" * (4 * MIB))
        self.v.write("small", b"s" * 10)

    def test_a_session_from_begin_to_end(self):
        v = self.v
        self.assertIn("c: Created", v.cli("create", "c", "d"))
        self.assertIn("c: Precopy", v.cli("precopy", "c"))
        v.cli("wait", "c", "--for", "precopied", "--timeout", "60")
        self.assertEqual(v.status("c")["op_status"], "precopied")
        self.assertIn("c: CopyInProgress", v.cli("activate", "c"))
        v.cli("wait", "c", "--timeout", "60")
        status = v.cli("status", "c")
        for word in ("Copied", "consistency point", "d", "8.0 MiB"):
            self.assertIn(word, status)
        v.cli("terminate", "c")
        self.assertEqual(v.names(), [])
        self.assertIn("Terminated", v.cli("list"))
        with open(v.clone("c", "d/a"), "rb") as file:
            self.assertEqual(file.read(10), b"a" * 10)
        v.cli("delete", "c")
        self.assertNotIn("Terminated", v.cli("list"))
        self.assertEqual(os.listdir(v.at(".clonefs/clones")), [])

    def test_json(self):
        v = self.v
        v.ctl("create p d --precopy")
        v.wait("p", "precopied")
        v.ctl("copy n small --nocopy --track-size 4K")
        v.ctl("copy t small")
        v.wait("t")
        v.ctl("terminate t")
        def both_ways():
            """None when the pool's room changed in between."""
            status = json.loads(v.cli("status", "--json"))
            return status if status == v.status_json() else None
        status = wait_for(both_ways, "the CLI and the file say the same")
        self.assertEqual(status["volume"], v.path)
        sessions = {s["name"]: s for s in status["sessions"]}
        self.assertEqual(set(sessions), {"p", "n"})
        for session in sessions.values():
            for key in KEYS:
                self.assertIn(key, session)
            self.assertRegex(session["created_at"], TIME)
        self.assertEqual(sessions["p"]["tracks_precopied"], 128)
        self.assertEqual(sessions["p"]["bytes_total"], 8 * MIB)
        self.assertEqual(sessions["p"]["files"], 2)
        self.assertEqual(sessions["p"]["paths"], ["d"])
        self.assertIsNone(sessions["p"]["activated_at"])
        self.assertRegex(sessions["n"]["activated_at"], TIME)
        self.assertEqual(sessions["n"]["tracks_pending"], 1)
        self.assertEqual(len(sessions["n"]["sessions"]), 1)
        self.assertNotEqual(sessions["n"]["sessions"], sessions["p"]["sessions"])
        self.assertEqual({s["name"] for s in json.loads(v.cli("list", "--json"))["sessions"]},
                         {"p", "n", "t"})
        one = json.loads(v.cli("--json", "status", "p"))["sessions"]
        self.assertEqual([s["name"] for s in one], ["p"])
        # What was counted.
        self.assertEqual(v.status("n")["cofw_tracks"], 0)
        v.write("small", b"t" * 10)
        self.assertEqual(v.status("n")["cofw_tracks"], 1)

    def log_has(self, text):
        with open(self.v.log, encoding="utf-8") as log:
            return text in log.read()

    def test_wait(self):
        v = self.v
        v.ctl("create c d")
        v.stall("c")
        v.ctl("activate c")
        begin = time.monotonic()
        done = run(BIN, "--mount", v.path, "wait", "c", "--timeout", "0.5")
        self.assertEqual(done.returncode, 1)
        self.assertIn("CopyInProgress", done.stdout)
        self.assertGreaterEqual(time.monotonic() - begin, 0.5)
        with subprocess.Popen([BIN, "--mount", v.path, "wait", "c"], stdout=subprocess.PIPE,
                              text=True) as waiting:
            v.ctl("rate c unlimited")
            out, _ = waiting.communicate(timeout=30)
            self.assertEqual(waiting.returncode, 0)
            self.assertIn("Copied", out)
        # Others can command meanwhile, and it ends when the session does.
        v.ctl("create e d")
        v.stall("e")
        v.ctl("activate e")
        with subprocess.Popen([BIN, "--mount", v.path, "wait", "e"], stderr=subprocess.PIPE,
                              text=True) as waiting:
            wait_for(lambda: self.log_has(f"(pid {waiting.pid}): wait"), "it waits")
            v.ctl("delete e --force")
            _, error = waiting.communicate(timeout=30)
            self.assertEqual(waiting.returncode, 1)
            self.assertIn("e", error)

    def test_watch(self):
        v = self.v
        v.ctl("create c d")
        v.stall("c")
        v.ctl("activate c")
        with subprocess.Popen([BIN, "--mount", v.path, "status", "--watch"], text=True,
                              stdout=subprocess.PIPE) as watching:
            first = watching.stdout.readline()
            self.assertIn("CopyInProgress", first)
            self.assertNotIn("\033", first)
            v.ctl("rate c unlimited")
            rest, _ = watching.communicate(timeout=30)
            self.assertEqual(watching.returncode, 0)
            self.assertIn("Copied", rest)
            self.assertIn("100%", rest)
        with subprocess.Popen([BIN, "--mount", v.path, "status", "--watch"],
                              stdout=subprocess.DEVNULL) as watching:
            self.assertEqual(watching.wait(timeout=30), 0)
        v.ctl("create s d")
        v.stall("s")
        v.ctl("activate s")
        with subprocess.Popen([BIN, "--mount", v.path, "status", "s", "--watch"], text=True,
                              stdout=subprocess.PIPE) as watching:
            watching.stdout.readline()
            watching.send_signal(signal.SIGINT)
            watching.communicate(timeout=30)
            self.assertNotEqual(watching.returncode, 0)

    def test_extents(self):
        v = self.v
        path = v.write("sparse", b"x" * 65536)
        with open(path, "r+b") as file:
            file.seek(10 * 65536)
            file.write(b"y" * 65536 * 2)
        v.ctl("create c sparse d/a")
        found = json.loads(v.cli("extents", "c", "--json"))["sessions"][0]["files"]
        found = {f["path"]: f for f in found}
        self.assertEqual(found["sparse"]["extents"],
                         [{"first": 0, "count": 1, "bits": "101"},
                          {"first": 10, "count": 2, "bits": "101"}])
        v.ctl("precopy c")
        v.wait("c", "precopied")
        found = json.loads(v.cli("extents", "sparse", "--json"))["sessions"]
        self.assertEqual([s["name"] for s in found], ["c"])
        self.assertEqual([e["bits"] for e in found[0]["files"][0]["extents"]], ["010", "010"])
        self.assertIn("010", v.cli("extents", "c"))

    def test_part_of_a_file(self):
        v = self.v
        content = os.urandom(MIB)
        v.write("big", content)
        v.cli("copy", "part", "big", "--extent", "64K:64K", "--extent", "512K:100")
        v.wait("part")
        with open(v.clone("part", "big"), "rb") as file:
            got = file.read()
        self.assertEqual(len(got), MIB)
        expected = bytearray(MIB)
        for begin, end in ((1, 2), (8, 9)):
            expected[begin * 65536:end * 65536] = content[begin * 65536:end * 65536]
        self.assertEqual(got, bytes(expected))
        v.write("big", b"z" * MIB)
        with open(v.clone("part", "big"), "rb") as file:
            self.assertEqual(file.read(), bytes(expected))

    def test_rate(self):
        v = self.v
        v.write("big", os.urandom(32 * MIB))
        v.ctl("create c big")
        v.cli("rate", "c", "8M")
        self.assertEqual(v.status("c")["rate_limit"], 8 * MIB)
        begin = time.monotonic()
        v.ctl("activate c")
        wait_for(lambda: v.status("c")["bytes_copied"] >= 16 * MIB, "half of it")
        # A bucket may have been full at the beginning, but no more.
        self.assertGreater(time.monotonic() - begin, 0.7)
        status = v.status("c")
        self.assertGreater(status["rate_bytes_per_s"], 0)
        self.assertEqual(status["state"], "CopyInProgress")
        v.cli("rate", "c", "unlimited")
        self.assertIsNone(v.status("c")["rate_limit"])
        v.wait("c")
        self.assertTrue(v.status("c")["last_track"].startswith("big:"))

    def test_events(self):
        v = self.v
        v.ctl("create c d --precopy")
        v.wait("c", "precopied")
        v.ctl("activate c")
        v.wait("c")
        v.ctl("terminate c")
        v.ctl("delete c")
        with open(v.at(".clonefs/events"), encoding="utf-8") as file:
            lines = [line for line in file.read().splitlines() if re.search(r"\bc\b", line)]
        text = "\n".join(lines)
        for word in ("created", "precop", "activated", "copied", "terminated"):
            self.assertIn(word, text)


if __name__ == "__main__":
    main()
