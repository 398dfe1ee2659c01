#!/usr/bin/env python3
"""clonefs doctor: what it says of a machine and its mounts, and that it changes nothing."""
import json
import os
import shutil
import unittest

from pool_errors_test import SmallPool
from volume import BIN, VolumeTest, main, run, wait_for


class Doctor(VolumeTest):
    def look(self, *words, **options):
        done = run(BIN, "doctor", "--json", *words, **options)
        report = json.loads(done.stdout)
        self.assertEqual(report["schema"], 1)
        for finding in report["findings"]:
            self.assertEqual(sorted(finding), ["check", "grade", "remedy", "text"])
            self.assertIn(finding["grade"], ("ok", "hint", "problem"))
            if finding["grade"] == "problem":
                self.assertTrue(finding["remedy"], finding)
        problems = [f for f in report["findings"] if f["grade"] == "problem"]
        self.assertEqual(done.returncode, 1 if problems else 0)
        return report["findings"]

    def of_volume(self, findings, check):
        return [f for f in findings if f["check"] == check and self.v.path in f["text"]]

    def test_a_volume_that_is_well(self):
        [volume] = self.of_volume(self.look(), "volume")
        self.assertEqual(volume["grade"], "ok")

    def test_a_dead_mount(self):
        self.v.kill()
        findings = self.look()
        [dead] = self.of_volume(findings, "dead_mount")
        self.assertEqual(dead["grade"], "problem")
        self.assertIn(f"clonefs umount {self.v.path}", dead["remedy"])
        self.assertEqual(self.of_volume(findings, "volume"), [])
        self.v.mount()
        self.assertEqual(self.of_volume(self.look(), "dead_mount"), [])

    def test_a_failed_clone(self):
        self.v.write("file", b"old" * 100000)
        self.v.ctl("copy broken file --nocopy")
        self.v.umount()
        with open(os.path.join(self.v.source, "file"), "r+b") as file:  # behind clonefs's back
            file.write(b"new")
        self.v.mount()
        self.assertEqual(self.v.status("broken")["state"], "Failed")
        [session] = self.of_volume(self.look(), "session")
        self.assertIn("clonefs status broken", session["remedy"])

    @unittest.skipUnless(os.geteuid() == 0 and shutil.which("mkfs.ext4"), "mounts a small disk")
    def test_a_full_pool(self):
        small = SmallPool(32 << 20, [])
        v = self.v = small.v
        self.addCleanup(v.clean_up)
        v.mount()
        self.assertEqual(self.of_volume(self.look(), "pool_space"), [])
        small.fill(leave=64 << 10)
        wait_for(lambda: v.status_json()["pool_free_bytes"] < 1 << 20, "the daemon has seen it")
        [space] = self.of_volume(self.look(), "pool_space")
        self.assertEqual(space["grade"], "problem")

    def test_what_a_terminal_would_obey(self):
        v = self.v
        v.umount()
        odd = os.path.join(v.base, "\x1b[31mred")
        os.rename(v.source, odd)
        v.source = v.path = odd
        v.mount()
        text = run(BIN, "doctor").stdout
        self.assertNotIn("\x1b", text)
        self.assertIn("\\x1b[31mred is mounted", text)
        v.umount()
        said = run(BIN, "mount", odd + "/none").stdout
        self.assertIn("\\x1b[31mred/none", said)
        self.assertNotIn("\x1b", said)

    def test_without_a_terminal_for_people(self):
        text = run(BIN, "doctor").stdout
        self.assertIn(f"ok       {self.v.path} is mounted", text)
        self.assertNotIn("\033", text)

    def test_without_fusermount3(self):
        """An ordinary user needs it."""
        if os.geteuid() != 0:
            self.skipTest("makes an ordinary user, as root")
        user = ("setpriv", "--reuid=4242", "--regid=4242", "--clear-groups")
        env = dict(os.environ, PATH="/nowhere")
        done = run("/usr/bin/" + user[0], *user[1:], BIN, "doctor", "--json", env=env)
        findings = json.loads(done.stdout)["findings"]
        self.assertEqual([f["grade"] for f in findings if f["check"] == "fusermount3"], ["problem"])
        self.assertEqual([f["grade"] for f in findings if self.v.path in f["text"]], ["hint"])


if __name__ == "__main__":
    main()
