#!/usr/bin/env python3
"""clonefs plan: timetables at fixed times, what is wrong in a plan, runs with hooks, the systemd units."""
import json
import os
import shutil
import signal
import subprocess
import unittest

from volume import BIN, VolumeTest, main, run, wait_for

CALENDAR = shutil.which("systemd-analyze")
THREE = """
[[clone]]
name = "a"
paths = ["a"]

[[clone]]
name = "b"
paths = ["b"]
ttl = "36h"
after = "true b"

[[clone]]
name = "c"
paths = ["a", "b"]
precopy = true
"""


class Plans(VolumeTest):
    def setUp(self):
        super().setUp()
        for name in "ab":
            self.v.write(f"{name}/file", b"old")
        self.log = os.path.join(self.v.base, "hooks")

    def file(self, text, name="plan.toml"):
        path = os.path.join(self.v.base, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def plan(self, text, *words, code=0, **options):
        env = dict(os.environ, CLONEFS_MOUNT=self.v.path, TZ="UTC", LOG=self.log)
        done = run(BIN, "plan", self.file(text), *words, env=env, **options)
        self.assertEqual(done.returncode, code, done.stdout)
        return done.stdout

    def hooks(self):
        if not os.path.exists(self.log):
            return []
        with open(self.log, encoding="utf-8") as file:
            return file.read().splitlines()

    def state(self, name):
        sessions = json.loads(self.v.ctl("list --json"))["sessions"]
        return next((s["state"] for s in sessions if s["name"] == name), None)


class Timetable(Plans):
    def steps(self, text, now):
        told = json.loads(self.plan(text, "--json", "--now", now))
        return [(s["at"], s["what"], s["clones"], s["command"]) for s in told["steps"]]

    def test_sets_over_the_window(self):
        text = 'activate_at = "02:00"\nprecopy_window = "90m"\nat_once = 2\nttl = "7d"\n' \
            'before = "one"\nfinally = "two"\n' + THREE
        self.assertEqual(self.steps(text, "2026-11-27T12:00:00Z"), [
            ("2026-11-28T00:30:00Z", "precopy", ["a", "b"], None),
            ("2026-11-28T01:15:00Z", "precopy", ["c"], None),
            ("2026-11-28T02:00:00Z", "before", [], "one"),
            ("2026-11-28T02:00:00Z", "activate", ["a", "b", "c"], None),
            ("2026-11-28T02:00:00Z", "finally", [], "two"),
            ("2026-11-28T02:00:00Z", "after", ["b"], "true b"),
            ("2026-11-29T14:00:00Z", "expires", ["b"], None),
            ("2026-12-05T02:00:00Z", "expires", ["a", "c"], None)])
        self.assertIn("2026-11-28 01:15:00 (past: at once)  precopy   c\n",
                      self.plan(text, "--dry-run", "--now", "2026-11-28T01:30:00Z"))
        self.assertEqual(self.v.names(), [])

    @unittest.skipUnless(CALENDAR, "systemd-analyze is not installed")
    def test_calendar(self):
        text = 'calendar = "Mon..Fri 02:00"\nprecopy_window = "1h"\n' + THREE
        self.assertEqual(self.steps(text, "2026-11-27T12:00:00Z")[:2], [
            ("2026-11-30T01:00:00Z", "precopy", ["a", "b", "c"], None),
            ("2026-11-30T02:00:00Z", "activate", ["a", "b", "c"], None)])

    def test_what_a_run_would_stumble_over(self):
        """Said beside the timetable, which may be of another day."""
        text = THREE.replace('["b"]', '["b/none"]')
        for mount, said in ((self.v.path, f"clonefs: plan: note: there is no b/none in the volume {self.v.path}, of "
                                          "which b is to be\n"),
                            (self.v.base, f"clonefs: plan: note: no volume is mounted at {self.v.base}. Mount it: "
                                          f"clonefs mount {self.v.base}\n")):
            done = subprocess.run([BIN, "--mount", mount, "plan", self.file(text), "--json"], capture_output=True,
                                  check=False, timeout=60)
            self.assertEqual((done.returncode, done.stderr.decode()), (0, said))
            self.assertIn("steps", json.loads(done.stdout))

    def test_what_is_wrong(self):
        def wrong(text, line, *words, now="2026-11-27T12:00:00Z"):
            with self.subTest(words[0]):
                said = self.plan(text, "--now", now, code=1)
                self.assertIn(f"plan.toml:{line}: ", said)
                for word in words:
                    self.assertIn(word, said)
        wrong(THREE.replace("ttl", "tll"), 9, "unknown key 'tll'", "ttl")
        wrong("[[clone]\n", 1, "")
        wrong("ttl = 7\n" + THREE, 1, "ttl is a text")
        wrong('ttl = "7"\n' + THREE, 1, "not a duration", "36h")
        wrong("at_once = 0\n" + THREE, 1, "from 1")
        wrong("", 1, "no clones", "[[clone]]")
        wrong("[[clone]]\nname = 'x'\n", 1, "has no paths")
        wrong("[[clone]]\npaths = ['.']\n", 1, "without a name")
        wrong("[[clone]]\nname = '../x'\npaths = ['.']\n", 1, "no name")
        wrong("[[clone]]\nname = 'x'\npaths = [1]\n", 3, "list of texts")
        wrong(THREE + '[[clone]]\nname = "a"\npaths = ["."]\n', 16, "in line 2 already")
        wrong('\nactivate_at = "2026-11-27T11:00:00Z"\n' + THREE, 2, "is past", "later time")
        wrong('activate_at = "soon"\n' + THREE, 1, "not a time")
        wrong('activate_at = "02:00"\ncalendar = "daily"\n' + THREE, 2, "exclude each other")
        wrong('precopy_window = "1h"\n' + THREE, 1, "goes before a time")
        wrong('activate_at = "02:00"\nprecopy_window = "2w"\n' + THREE, 2, "7d at most")
        if CALENDAR:
            wrong('calendar = "now and then"\n' + THREE, 1, "no calendar expression")
            wrong('precopy_window = "26h"\ncalendar = "daily"\n' + THREE, 2, "windows overlap", "1d",
                  "shorter")
            wrong('calendar = "2020-01-01"\n' + THREE, 1, "never comes again")
        done = run(BIN, "plan", "/nowhere.toml")
        self.assertEqual(done.returncode, 1)
        self.assertIn("/nowhere.toml", done.stdout)


class Runs(Plans):
    def test_at_once(self):
        """No time: sets one after the other, then all at one point; hooks in order, with what they are told."""
        text = f"""
before = 'echo before "$CLONEFS_NAMES" "$CLONEFS_ACTIVATED" >> $LOG'
finally = 'echo finally "$CLONEFS_ACTIVATED" >> $LOG'
after = 'echo after $(ls "$CLONEFS_CLONES") >> $LOG'
at_once = 1
ttl = "7d"
[[clone]]
name = "a"
paths = ["a"]
before = 'echo new > {self.v.at("a/file")}; echo before "$CLONEFS_NAME" >> $LOG'
after = 'echo $(cat "$CLONEFS_PATH/a/file") "$CLONEFS_MOUNT" >> $LOG'
[[clone]]
name = "b"
paths = ["b"]
precopy = false
"""
        said = self.plan(text, "--run")
        self.assertIn("activated a b", said)
        self.assertEqual(self.hooks(), ["before a b no", "before a", "finally yes", f"new {self.v.path}",
                                        "after a b"])
        self.assertEqual(self.v.status("a")["activated_at"], self.v.status("b")["activated_at"])
        self.assertEqual(self.v.status("a")["ttl_s"], 7 * 86400)
        # Again: the next generations.
        for name in "ab":
            self.v.wait(name)
        first = self.v.status("a")["activated_at"]
        self.plan(text, "--run")
        self.assertGreater(self.v.status("a")["activated_at"], first)

    def test_at_a_time(self):
        text = 'activate_at = "+12s"\nprecopy_window = "9s"\nat_once = 1\n' + THREE
        env = dict(os.environ, CLONEFS_MOUNT=self.v.path, TZ="UTC")
        path = self.file(text)
        with subprocess.Popen([BIN, "plan", path, "--run"], env=env, stdout=subprocess.PIPE) as running:
            wait_for(lambda: self.state("a") == "Precopy", "the first set begins")
            self.assertIsNone(self.state("c"), "the last set has begun with the first")
            again = run(BIN, "plan", path, "--run", env=env)
            self.assertEqual(again.returncode, 1)
            self.assertIn("another run", again.stdout)
            said = running.communicate(timeout=30)[0].decode()
            self.assertEqual(running.returncode, 0, said)
        points = {self.v.status(name)["activated_at"] for name in "abc"}
        self.assertEqual(len(points), 1)

    def test_a_hook_before_fails(self):
        text = f"""
before = 'echo stop >> $LOG'
finally = 'echo go "$CLONEFS_ACTIVATED" >> $LOG'
after = 'echo backup >> $LOG'
[[clone]]
name = "a"
paths = ["a"]
before = 'exit 3'
finally = 'echo go a >> $LOG'
[[clone]]
name = "b"
paths = ["b"]
before = 'echo never >> $LOG'
finally = 'echo never >> $LOG'
"""
        said = self.plan(text, "--run", code=1)
        self.assertIn("'before of a' failed with exit code 3", said)
        self.assertIn("Nothing was activated", said)
        self.assertIn("clonefs activate a b", said)
        self.assertEqual(self.hooks(), ["stop", "go a", "go no"])
        self.assertEqual((self.state("a"), self.state("b")), ("Precopy", "Precopy"))
        # Mended, it goes on with what is prepared.
        self.plan(text.replace("exit 3", "true"), "--run")
        self.assertNotIn("Precopy", (self.state("a"), self.state("b")))

    def test_a_hook_that_hangs(self):
        said = self.plan("hook_timeout = '1s'\nbefore = 'sleep 1000'\n" + THREE, "--run", code=1)
        self.assertIn("took longer than 1s", said)
        self.assertEqual(self.state("a"), "Precopy")

    def test_ended_by_a_signal(self):
        text = 'activate_at = "+1h"\nprecopy_window = "2h"\nfinally = "touch $LOG"\nbefore = "true"\n' + THREE
        env = dict(os.environ, CLONEFS_MOUNT=self.v.path, LOG=self.log)
        with subprocess.Popen([BIN, "plan", self.file(text), "--run"], env=env, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT) as running:
            wait_for(lambda: self.state("c") == "Precopy", "precopy begins, late as it is")
            running.send_signal(signal.SIGTERM)
            said = running.communicate(timeout=30)[0].decode()
            self.assertEqual(running.returncode, 1, said)
        self.assertIn("Nothing was activated", said)
        self.assertFalse(os.path.exists(self.log), "nobody was stopped who must go on")

    def test_a_signal_during_a_hook(self):
        """It ends the hook, and the run; whoever was stopped goes on."""
        for sent in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            text = f"""
before = 'trap "trap : TERM; echo ended >> $LOG; exit 0" TERM; echo begun >> $LOG; while :; do sleep 0.05; done'
finally = 'echo "go $CLONEFS_ACTIVATED" >> $LOG'
after = 'echo never >> $LOG'
""" + THREE
            env = dict(os.environ, CLONEFS_MOUNT=self.v.path, LOG=self.log)
            with subprocess.Popen([BIN, "plan", self.file(text), "--run"], env=env, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT) as running:
                wait_for(self.hooks, "the hook has begun")
                running.send_signal(sent)
                said = running.communicate(timeout=30)[0].decode()
                self.assertEqual(running.returncode, 1, said)
            self.assertIn("ended by a signal during the hook 'before'", said)
            self.assertIn("Nothing was activated; the clones stay prepared", said)
            self.assertEqual(self.hooks(), ["begun", "ended", "go no"])
            self.assertEqual({self.state(name) for name in "abc"}, {"Precopy"})
            os.remove(self.log)

    def test_a_signal_after_the_activation(self):
        text = """
finally = 'echo "go $CLONEFS_ACTIVATED" >> $LOG; until [ -e $LOG.end ]; do sleep 0.01; done; echo gone >> $LOG'
after = 'echo never >> $LOG'
""" + THREE
        env = dict(os.environ, CLONEFS_MOUNT=self.v.path, LOG=self.log)
        with subprocess.Popen([BIN, "plan", self.file(text), "--run"], env=env, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT) as running:
            wait_for(self.hooks, "the hook has begun")
            running.send_signal(signal.SIGTERM)
            with open(self.log + ".end", "wb"):
                pass
            said = running.communicate(timeout=30)[0].decode()
            self.assertEqual(running.returncode, 1, said)
        self.assertNotIn("Nothing was activated", said)
        self.assertEqual(self.hooks(), ["go yes", "gone"])

    def test_json_alone_on_stdout(self):
        env = dict(os.environ, CLONEFS_MOUNT=self.v.path)
        done = subprocess.run([BIN, "plan", self.file("before = 'echo quiet'\n" + THREE), "--run", "--json"],
                              env=env, capture_output=True, check=False, timeout=60)
        self.assertEqual(done.returncode, 0, done)
        self.assertEqual(len(json.loads(done.stdout)["sessions"]), 3)
        self.assertEqual(done.stderr, b"quiet\n")

    def test_what_cannot_be_made(self):
        said = self.plan(THREE.replace('"a", "b"', '"nothing"'), "--run", code=1)
        self.assertIn("clonefs: plan: create c: nothing cannot be selected", said)
        self.assertIn("Paths are relative to the volume. Nothing was activated; prepared are a b,", said)
        self.assertNotIn("clonefs activate", said)
        self.plan(THREE, "--run")
        self.v.cli("delete", "--force", "a", "b", "c")
        said = self.plan(THREE.replace('["a"]', '["nothing"]'), "--run", code=1)
        self.assertTrue(said.endswith("the volume. Nothing was activated\n"), said)


@unittest.skipUnless(CALENDAR, "systemd-analyze is not installed")
class Units(Plans):
    def install(self, text, code=0, name="nightly.toml"):
        where = os.path.join(self.v.base, "units/made")
        path = self.file(text, name)
        done = run(BIN, "plan", path, "--install", "--unit-dir", where)
        self.assertEqual(done.returncode, code, done.stdout)
        return where, path, done.stdout

    def calendar(self, text):
        where, _, _ = self.install(text + THREE)
        with open(where + "/clonefs-plan-nightly.timer", encoding="utf-8") as file:
            return [line for line in file.read().splitlines() if line.startswith("OnCalendar")][0][11:]

    def test_units(self):
        where, path, said = self.install('calendar = "daily"\n' + THREE)
        self.assertIn("enable --now clonefs-plan-nightly.timer", said)
        with open(where + "/clonefs-plan-nightly.service", encoding="utf-8") as file:
            self.assertIn(f" plan {path} --run\n", file.read())
        units = [os.path.join(where, name) for name in sorted(os.listdir(where))]
        self.assertEqual(len(units), 2)
        done = run("systemd-analyze", "verify", "--man=no", *units)
        self.assertEqual((done.returncode, [line for line in done.stdout.splitlines()
                                            if "clonefs" in line]), (0, []), done.stdout)

    def test_quiet(self):
        done = run(BIN, "plan", self.file('calendar = "daily"\n' + THREE), "--install", "-q", "--unit-dir",
                   os.path.join(self.v.base, "units"))
        self.assertEqual((done.returncode, done.stdout), (0, ""))

    def test_the_timer_begins_with_the_window(self):
        for text, expected in (
                ('calendar = "02:00"\nprecopy_window = "90m"\n', "*-*-* 00:30:00"),
                ('calendar = "01:00"\nprecopy_window = "90m"\n', "*-*-* 23:30:00"),
                ('calendar = "Mon,Wed..Fri 01:00"\nprecopy_window = "2h"\n',
                 "Tue,Wed,Thu,Sun *-*-* 23:00:00"),
                ('calendar = "hourly"\n', "*-*-* *:00:00")):
            self.assertEqual(self.calendar(text), expected)
        said = self.install('calendar = "monthly"\nprecopy_window = "90m"\n' + THREE, code=1)[2]
        self.assertIn("precopy_window", said)

    def test_refused(self):
        self.assertIn("calendar", self.install('activate_at = "02:00"\n' + THREE, code=1)[2])
        os.mkdir(os.path.join(self.v.base, "a b"))
        self.assertIn("move it", self.install('calendar = "daily"\n' + THREE, 1, "a b/x.toml")[2])


if __name__ == "__main__":
    main()
