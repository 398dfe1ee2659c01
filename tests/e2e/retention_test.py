#!/usr/bin/env python3
"""What happens by the clock, and holds: --ttl, hold and release, --precopy-at and --activate-at."""
import datetime
import errno
import json
import os
import time

from volume import VolumeTest, main, wait_for


def moment(text):
    return datetime.datetime.fromisoformat(text[:19] + "+00:00")


class Retention(VolumeTest):
    def setUp(self):
        super().setUp()
        self.v.write("d/file", b"old")

    def gone(self, name):
        def is_gone():
            with open(self.v.at(".clonefs/events"), encoding="utf-8") as events:
                return f" expired {name}\n" in events.read() and \
                    not os.path.exists(self.v.clone(name))
        return is_gone

    def told(self, name):
        """Of any clone, also one that is no session any more."""
        return {s["name"]: s for s in json.loads(self.v.ctl("list --json"))["sessions"]}[name]

    def test_ttl(self):
        v = self.v
        v.ctl("copy week d --ttl 7d")
        status = v.status("week")
        self.assertEqual(status["ttl_s"], 7 * 86400)
        self.assertEqual((moment(status["expires_at"]) - moment(status["activated_at"])).days, 7)
        self.assertIn("expires", v.ctl("status week"))
        v.ctl("copy short d --ttl 1s")
        wait_for(self.gone("short"), "the clone expires")
        self.assertNotIn("short", v.ctl("list"))
        v.remount()
        self.assertEqual(v.status("week")["expires_at"], status["expires_at"])

    def test_waits_for_who_reads_it(self):
        v = self.v
        v.ctl("copy short d --ttl 5s --nocopy")
        with open(v.clone("short", "d/file"), "rb", buffering=0) as file:
            v.ctl("copy marker d --ttl 5s")  # it is younger
            wait_for(self.gone("marker"), "a clone that nobody reads expires")
            v.write("d/file", b"new")
            self.assertEqual(file.read(), b"old")
            self.assertIn("short", v.ctl("list"))
        wait_for(self.gone("short"), "it expires when it is closed")

    def test_generations(self):
        """Each has its own time, and its own holds; nothing that is held is replaced."""
        v = self.v
        v.ctl("copy c d --ttl 7d")
        v.wait("c")
        v.ctl("hold c x")
        self.assert_refused(errno.EBUSY, lambda: v.ctl("recreate c"), "clonefs release c x")
        v.write("d/file", b"second")
        v.ctl("recreate c --keep 1")
        self.assertEqual([hold["tag"] for hold in v.status("c")["holds"]], ["x"])
        v.ctl("activate c")
        v.wait("c")
        self.assertEqual(v.status("c")["holds"], [])
        self.assertEqual(v.status("c")["ttl_s"], 7 * 86400)
        self.assertEqual([hold["tag"] for hold in self.told("c.1")["holds"]], ["x"])
        v.write("d/file", b"third")
        v.ctl("recreate c --keep 1 --ttl never")
        v.ctl("activate c")
        v.wait("c")
        self.assertIsNone(v.status("c")["ttl_s"])
        for name, data in (("c", b"third"), ("c.1", b"second"), ("c.2", b"old")):
            with open(v.clone(name, "d/file"), "rb") as file:
                self.assertEqual(file.read(), data, name)
        # Held while the next one is being prepared: that one waits.
        v.ctl("recreate c")
        v.ctl("hold c y")
        self.assert_refused(errno.EBUSY, lambda: v.ctl("activate c"), "clonefs release c y")
        v.ctl("release c y")
        v.ctl("activate c")

    def test_hold(self):
        v = self.v
        v.ctl("copy c d --ttl 5s")
        v.ctl("hold c restic")
        held = v.status("c")["holds"]
        self.assertEqual([hold["tag"] for hold in held], ["restic"])
        self.assertIn("held by", v.ctl("status c"))
        self.assert_refused(errno.EBUSY, lambda: v.ctl("delete --force c"), "clonefs release c restic")
        self.assert_refused(1, lambda: v.cli("delete", "--force", "c"), "clonefs release c restic")
        with self.assertRaises(OSError) as caught:
            os.rmdir(v.clone("c"))
        self.assertEqual(caught.exception.errno, errno.EBUSY)
        v.remount()
        self.assertEqual(v.status("c")["holds"], held)
        v.ctl("copy marker d --ttl 5s")  # it is younger
        wait_for(self.gone("marker"), "a clone without a hold expires")
        self.assertFalse(self.gone("c")())
        v.ctl("release c restic")
        wait_for(self.gone("c"), "it expires once it is released")

    def test_hold_by_the_sessions_own_file(self):
        v = self.v
        v.ctl("copy c d")
        v.ctl("hold x", session="c")
        self.assertEqual(v.status("c")["holds"][0]["tag"], "x")
        v.ctl("release x", session="c")
        self.assertEqual(v.status("c")["holds"], [])
        self.assert_refused(errno.ENOENT, lambda: v.ctl("release c x"), "nobody holds it")

    def test_at_a_time(self):
        v = self.v
        begin = int(time.time())
        for name in "ab":
            v.cli("create", name, "d", "--precopy", "--precopy-at", "+2s", "--activate-at", "+6s")
        v.cli("create", "later", "d", "--precopy", "--precopy-at", "+1h", "--activate-at", "+2h")
        at = max(v.status(name)["activate_at"] for name in "ab")
        wait_for(lambda: v.status("a")["state"] != "Created", "precopy begins")
        with open(v.at(".clonefs/events.json"), encoding="utf-8") as file:
            began, = (e["time"] for e in map(json.loads, file) if (e["name"], e["event"]) == ("a", "precopy"))
        self.assertGreaterEqual(moment(began).timestamp(), begin + 2, "not before its time")
        v.kill()
        v.mount()
        wait_for(lambda: v.status("a")["activated_at"] and v.status("b")["activated_at"],
                 "they are activated")
        a, b = v.status("a"), v.status("b")
        self.assertGreaterEqual(a["activated_at"], v.status("a")["created_at"])
        self.assertLess(abs((moment(a["activated_at"]) - moment(at)).total_seconds()), 30)
        self.assertEqual((a["missed"], b["missed"]), (None, None))
        self.assertEqual(v.status("later")["state"], "Created")

    def test_times_that_are_refused(self):
        v = self.v
        for words, text in (("--activate-at 2001-01-01T00:00:00Z", "is past"),
                            ("--activate-at tomorrow", "+30m for half an hour"),
                            ("--activate-at 2099-02-30T00:00:00Z", "is not a time"),
                            ("--activate-at 25:00", "is not a time"),
                            ("--precopy-at +2h --activate-at +1h", "precopy comes first"),
                            ("--nocopy --precopy-at +1h", "exclude each other"),
                            ("--ttl 0s", "36h"), ("--ttl 7", "36h"), ("--ttl -1d", "36h"),
                            ("--ttl 1000000000w", "36h")):
            with self.subTest(words):
                self.assert_refused(errno.EINVAL, lambda w=words: v.ctl(f"create x d {w}"), text)
        self.assert_refused(errno.EINVAL, lambda: v.ctl("copy x d --activate-at +1h"))
        self.assertEqual(v.names(), [])


if __name__ == "__main__":
    main()
