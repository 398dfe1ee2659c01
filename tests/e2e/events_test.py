#!/usr/bin/env python3
""".clonefs/events.json and clonefs events: an object a line, whatever the names; followed without holding
the volume."""
import json
import os
import re
import subprocess

from volume import BIN, Refused, VolumeTest, main, run, wait_for

KEYS = ["event", "message", "name", "number", "schema", "state", "time"]


class Events(VolumeTest):
    def events(self, name=None):
        with open(self.v.at(".clonefs/events.json"), encoding="utf-8") as file:
            found = [json.loads(line) for line in file]
        for i, event in enumerate(found):
            self.assertEqual(sorted(event), KEYS)
            self.assertEqual((event["schema"], event["number"]), (1, i + 1))
            self.assertRegex(event["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$")
            self.assertRegex(event["event"], r"^[a-z_]+$")
        return [e for e in found if e["name"] == name] if name else found

    def has(self, name, event):
        return wait_for(lambda: [e for e in self.events(name) if e["event"] == event],
                        f"{event} of {name}")[0]

    def test_the_life_of_a_clone(self):
        v = self.v
        v.write("f", b"x" * 100000)
        v.ctl("create c f")
        v.ctl("precopy c")
        v.ctl("activate c")
        v.wait("c")
        v.ctl("verify c")
        v.ctl("terminate c")
        v.ctl("delete c")
        self.has("c", "deleted")
        self.assertEqual([(e["event"], e["state"]) for e in self.events("c")],
                         [("created", "Created"), ("precopy", "Precopy"), ("activated", "CopyInProgress"),
                          ("copied", "Copied"), ("verified", None), ("terminated", "Terminated"),
                          ("deleted", None)])
        # The text says the same.
        with open(v.at(".clonefs/events"), encoding="utf-8") as file:
            text = file.read()
        self.assertEqual(text, "".join(f"{e['time']} {e['message']}\n" for e in self.events()))
        self.assertEqual(v.cli("events"), text)
        self.assertEqual([json.loads(line) for line in v.cli("events", "--json").splitlines()],
                         self.events())
        self.assertEqual(v.cli("--json", "events"), v.cli("events", "--json"))
        # The log has it too.
        with open(v.log, encoding="utf-8") as file:
            self.assertRegex(file.read(), r"(?m)^\S+ info deleted c$")

    def test_failed_and_odd_names(self):
        v = self.v
        name = "a\nb\x1b[31m\udcff"
        v.write(name, b"old" * 100000)
        v.ctl("copy broken . --nocopy")
        v.umount()
        with open(os.path.join(os.fsencode(v.source), os.fsencode(name)), "r+b") as file:
            file.write(b"new")  # behind clonefs's back
        v.mount()
        event = self.has("broken", "failed")
        self.assertEqual(event["state"], "Failed")
        self.assertIn("a\nb\x1b[31m\ufffd", event["message"])
        text = v.cli("events")
        self.assertIn("FAILED broken", text)
        self.assertNotIn("\x1b", text)
        for line in text.splitlines():
            self.assertRegex(line, r"^\d{4}-\d\d-\d\dT[0-9:.]+Z \S")
        with open(v.log, encoding="utf-8", errors="replace") as file:
            self.assertRegex(file.read(), r"(?m)^\S+ error FAILED broken: ")

    def test_refused_by_mkdir(self):
        v = self.v
        with self.assertRaises(OSError):
            os.mkdir(v.clone("-c"))
        self.assertIn("mkdir -c refused", self.has("-c", "refused")["message"])

    def test_follow_until_it_is_unmounted(self):
        v = self.v
        v.write("f", b"x")
        v.ctl("create before f")
        out = os.path.join(v.base, "followed")
        with open(out, "wb") as file:
            follow = subprocess.Popen([BIN, "--mount", v.path, "events", "--follow", "--json"],
                                      stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        self.addCleanup(follow.kill)

        def said():
            with open(out, encoding="utf-8") as file:
                return re.findall(r'"event":"(\w+)","name":"(\w+)"', file.read())
        wait_for(lambda: said() == [("created", "before")], "what was before")
        v.ctl("copy c f")
        v.wait("c")
        wait_for(lambda: said()[1:] == [("created", "c"), ("activated", "c"), ("copied", "c")],
                 "what comes later, each once")
        for attempt in range(5):  # not held by it, but for moments
            try:
                v.umount()
                break
            except Refused:
                self.assertLess(attempt, 4)
        self.assertEqual(follow.wait(timeout=20), 0)
        with open(out, encoding="utf-8") as file:
            self.assertIn("was unmounted", file.read())

    def test_follow_says_that_the_daemon_died(self):
        v = self.v
        v.ctl("create c .")
        follow = subprocess.Popen([BIN, "--mount", v.path, "events", "--follow"], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.addCleanup(follow.kill)
        self.assertIn("created c", follow.stdout.readline())
        v.kill()
        text, _ = follow.communicate(timeout=20)
        self.assertEqual(follow.returncode, 1)
        self.assertIn("Mount it again", text)

    def test_nothing_is_mounted(self):
        self.v.umount()
        done = run(BIN, "--mount", self.v.path, "events")
        self.assertEqual(done.returncode, 1)
        self.assertIn("no volume is mounted", done.stdout)


if __name__ == "__main__":
    main()
