#!/usr/bin/env python3
""".clonefs/metrics and clonefs metrics: what Prometheus reads, and the alerts made of it."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import unittest

sys.path.append("/usr/lib/python3/dist-packages")  # Debian's, when another python3 comes first
from prometheus_client.parser import text_string_to_metric_families

from volume import BIN, Volume, VolumeTest, main, run, stand_still

RULES = os.path.join(os.environ.get("CLONEFS_SOURCE_DIR") or
                     os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."),
                     "packaging/prometheus/clonefs.rules.yml")
TRACK = 65536


def parse(text):
    """Family name -> family. Refuses what the format does not allow, as a strict reader would."""
    families = {}
    heads = re.findall(r"^# (?:HELP|TYPE) \S+", text, re.M)
    assert len(heads) == len(set(heads)), "a family has two heads"  # that parser does not mind
    for family in text_string_to_metric_families(text):
        assert family.name not in families, f"{family.name} comes twice"
        assert family.documentation and family.type != "unknown", family
        families[family.name] = family
        seen = set()
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in seen, f"{key} comes twice"
            seen.add(key)
            assert sample.labels["volume"], sample
        if family.type == "histogram":
            for volume in {s.labels["volume"] for s in family.samples}:
                mine = [s for s in family.samples if s.labels["volume"] == volume]
                buckets = [s for s in mine if s.name.endswith("_bucket")]
                bounds = [float(s.labels["le"]) for s in buckets]
                assert bounds == sorted(bounds) and bounds[-1] == float("inf"), bounds
                values = [s.value for s in buckets]
                assert values == sorted(values), values
                count, = [s.value for s in mine if s.name.endswith("_count")]
                assert count == values[-1], (count, values)
    return families


def value(families, name, suffix="", **labels):
    # The parser takes _total off the name of a counter's family.
    family = families[name.removesuffix("_total")]
    found = [s.value for s in family.samples
             if s.name == name + suffix and labels.items() <= s.labels.items()]
    assert len(found) == 1, (name, labels, found)
    return found[0]


class Metrics(VolumeTest):
    options = ["--cache", "writethrough"]

    def read(self):
        with open(self.v.at(".clonefs/metrics"), encoding="utf-8") as file:
            return file.read()

    def families(self):
        return parse(self.read())

    def test_a_clone_from_create_to_the_end(self):
        v = self.v
        v.write("f", os.urandom(16 * TRACK))
        f = self.families()
        self.assertEqual(value(f, "clonefs_fence_duration_seconds", "_count"), 0)
        self.assertEqual(f["clonefs_clone_state"].samples, [])
        v.ctl("create c f")
        f = self.families()
        self.assertEqual(value(f, "clonefs_clone_state", clone="c", state="Created"), 1)
        self.assertEqual(f["clonefs_clone_age_seconds"].samples, [])
        v.ctl("precopy c")
        v.wait("c", "precopied")
        f = self.families()
        self.assertEqual(value(f, "clonefs_clone_tracks", clone="c", state="precopied"), 16)
        v.ctl("copy d f --nocopy")
        with open(v.at("f"), "r+b", buffering=0) as file:
            for offset in (3 * TRACK, 3 * TRACK + 9):  # only the first waits for a copy
                os.pwrite(file.fileno(), b"x", offset)
        f = self.families()
        self.assertEqual(value(f, "clonefs_cofw_tracks_total"), 1)
        self.assertEqual(value(f, "clonefs_clone_cofw_tracks_total", clone="d"), 1)
        self.assertEqual(value(f, "clonefs_cofw_latency_seconds", "_count"), 1)
        self.assertGreater(value(f, "clonefs_cofw_latency_seconds", "_sum"), 0)
        self.assertEqual(value(f, "clonefs_clone_tracks", clone="d", state="pending"), 15)
        self.assertEqual(value(f, "clonefs_clone_tracks", clone="d", state="done"), 1)
        self.assertEqual(value(f, "clonefs_fence_duration_seconds", "_count"), 1)
        self.assertEqual(value(f, "clonefs_fence_duration_seconds", "_sum"),
                         value(f, "clonefs_fence_last_duration_seconds"))
        self.assertTrue(0 <= value(f, "clonefs_clone_age_seconds", clone="d") < 100)
        self.assertGreater(value(f, "clonefs_pool_free_bytes"), 0)
        self.assertEqual(value(f, "clonefs_journal_records_total"), 1)
        info, = f["clonefs_mount_info"].samples
        self.assertEqual(info.labels["volume"], v.path)
        self.assertRegex(info.labels["version"], r"^\d+\.\d+\.\d+$")
        self.assertEqual(info.labels["requests"], v.status_json()["requests"])
        # status.json says the same.
        status = v.status_json()
        self.assertEqual(status["cofw_latency"]["count"], 1)
        self.assertEqual(sum(b["count"] for b in status["cofw_latency"]["buckets"]), 1)
        self.assertEqual(status["fence"]["count"], 1)
        self.assertEqual(status["fence"]["last_ns"], v.status("d")["fence_ns"])
        self.assertEqual(v.status("d")["cofw_latency"]["count"], 1)
        self.assertEqual(v.status("c")["cofw_latency"]["count"], 0)

    def test_failure_is_counted(self):
        v = self.v
        v.write("file", b"old" * 100000)
        v.ctl("copy broken file --nocopy")
        v.umount()
        with open(os.path.join(v.source, "file"), "r+b") as file:  # behind clonefs's back
            file.write(b"new")
        v.mount()
        f = self.families()
        self.assertEqual(value(f, "clonefs_clone_state", clone="broken", state="Failed"), 1)
        self.assertEqual(value(f, "clonefs_errors_total", kind="clone_failed"), 1)

    def test_what_the_alerts_ask_for_is_there(self):
        """Each metric that a rule names, each label that it compares or shows."""
        self.v.write("f", b"x")
        self.v.ctl("copy c f")
        self.v.ctl("wait c")
        self.v.ctl("verify c")
        text = run(BIN, "metrics", "--mount", self.v.path).stdout
        names = set(re.findall(r"^([a-z_]+)\{", text, re.M)) | set(re.findall(r"^# TYPE (\S+)", text, re.M))
        with open(RULES, encoding="utf-8") as file:
            rules = file.read()
        asked = set(re.findall(r"\bclonefs_[a-z_]+", rules))
        self.assertGreater(len(asked), 5)
        self.assertEqual(asked - names, set())
        if shutil.which("promtool"):
            done = run("promtool", "check", "rules", RULES)
            self.assertEqual(done.returncode, 0, done.stdout)
            done = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, check=False,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30)
            self.assertEqual((done.returncode, done.stdout), (0, ""))


class AllVolumes(unittest.TestCase):
    def volume(self):
        v = Volume()
        self.addCleanup(v.clean_up)
        return v.mount()

    def test_two_volumes_and_a_dead_one(self):
        one, two = self.volume(), self.volume()
        one.write("f", b"x")
        one.ctl("copy c f")
        families = parse(run(BIN, "metrics", "--timeout", "2").stdout)
        for v in (one, two):
            self.assertEqual(value(families, "clonefs_up", volume=v.path), 1)
            self.assertEqual(value(families, "clonefs_cofw_tracks_total", volume=v.path), 0)
        self.assertIn("c", [s.labels["clone"] for s in families["clonefs_clone_state"].samples])
        two.kill()
        families = parse(run(BIN, "metrics", "--timeout", "2").stdout)
        self.assertEqual(value(families, "clonefs_up", volume=one.path), 1)
        self.assertEqual(value(families, "clonefs_up", volume=two.path), 0)
        self.assertEqual([s for s in families["clonefs_mount_info"].samples
                          if s.labels["volume"] == two.path], [])
        out = os.path.join(one.base, "clonefs.prom")
        done = run(BIN, "metrics", "--mount", one.path, "--output", out)
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        with open(out, encoding="utf-8") as file:
            self.assertEqual({s.labels["volume"] for s in parse(file.read())["clonefs_up"].samples},
                             {one.path})
        self.assertEqual([name for name in os.listdir(one.base) if name.startswith("clonefs.prom")],
                         ["clonefs.prom"])
        done = run(BIN, "metrics", "--output", os.path.join(one.base, "no/where"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("no/where cannot be written: No such file or directory. Name a file", done.stdout)

    @unittest.skipUnless(os.geteuid() == 0, "asks as another user")
    def test_another_users(self):
        """Passed over; but who may read none at all is told so."""
        v = self.volume()
        user = ("setpriv", "--reuid=4242", "--regid=4242", "--clear-groups", BIN, "metrics")
        done = run(*user, "--mount", v.path)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("only the owner of the volume", done.stdout)
        # No other test's volumes.
        done = run("unshare", "-m", "bash", "-c", r"""
for at in $(awk '/ - fuse\.clonefs/ { print $5 }' /proc/self/mountinfo); do
  case $at in "$V"*) ;; *) umount -i -l "$at" ;; esac
done
"$@" """, "-", *user, env=dict(os.environ, V=v.path))
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn(f"only the owner of the volume {v.path}", done.stdout)
        os.chown(v.source, 4242, 4242)
        other = self.volume()
        v.remount()
        self.assertIn(f'clonefs_up{{volume="{v.path}"}} 1', run(*user).stdout)
        self.assertNotIn(other.path, run(*user).stdout)
        volumes = json.loads(run(*user, "--json").stdout)["volumes"]
        up = {volume["volume"]: volume["up"] for volume in volumes}
        self.assertEqual((up[v.path], up[other.path]), (True, None))

    def test_a_stopped_daemon_is_not_waited_for(self):
        v = self.volume()
        stand_still(v.pid)
        try:
            families = parse(run(BIN, "metrics", "--timeout", "1", timeout=20).stdout)
            self.assertEqual(value(families, "clonefs_up", volume=v.path), 0)
        finally:
            os.kill(v.pid, signal.SIGCONT)


if __name__ == "__main__":
    main()
