#!/usr/bin/env python3
"""`clonefs verify` on real mounts: damage is found and named, what users of a clone did is not damage,
and nothing waits for it.
"""
import errno
import json
import os
import threading

from volume import Refused, VolumeTest, main, wait_for

KIB = 1 << 10
MIB = 1 << 20


def flip(path, at):
    """One byte, beneath the mounts."""
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 4]))


class Verify(VolumeTest):
    def setUp(self):
        super().setUp()
        self.data = {"t/big": os.urandom(3 * MIB + 17), "t/d/small": b"small", "t/d/empty": b"",
                     "t/\xfc odd\nname": os.urandom(70 * KIB), "t/gone": os.urandom(100)}
        for path, data in self.data.items():
            self.v.write(path, data)

    def copy(self, name="c"):
        self.v.ctl(f"copy {name} t")
        self.v.wait(name)

    def report(self, name="c"):
        with open(self.v.at(f".clonefs/sessions/{name}/verify"), encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        return (lines[0], lines[1:]) if lines else (None, [])

    def test_no_damage(self):
        self.copy()
        self.assertEqual(self.report(), (None, []))
        self.assertIsNone(self.v.status("c")["verified_at"])
        self.assertIsNone(self.v.status("c")["damaged"])
        text = self.v.cli("verify", "c")
        self.assertIn("c: 5 files", text)
        self.assertIn("no damage", text)
        summary, findings = self.report()
        self.assertEqual((summary["files"], summary["damaged"], findings), (5, 0, []))
        self.assertEqual(summary["bytes"], sum(map(len, self.data.values())))
        self.assertIsNotNone(self.v.status("c")["verified_at"])
        self.assertEqual(self.v.status("c")["damaged"], 0)
        self.assertEqual(json.loads(self.v.cli("verify", "c", "--json"))["damaged"], 0)

    def test_damage(self):
        self.copy()
        flip(self.v.pool("clones/c/t/big"), 2 * MIB + 5)
        os.unlink(self.v.pool("clones/c/t/gone"))
        with self.assertRaises(Refused) as caught:
            self.v.cli("verify", "c")
        self.assertEqual(caught.exception.code, 1)
        self.assertIn(f"t/big: bytes {2 * MIB} to {2 * MIB + 64 * KIB - 1}: is not what was copied",
                      str(caught.exception))
        self.assertIn("DAMAGED, 2 findings", str(caught.exception))
        summary, findings = self.report()
        self.assertEqual(summary["damaged"], 2)
        self.assertEqual(sorted((f["path"], f["offset"], f["length"]) for f in findings),
                         [("t", 0, 0), ("t/big", 2 * MIB, 64 * KIB)])
        self.assertEqual(self.v.status("c")["damaged"], 2)
        with open(self.v.at(".clonefs/events"), encoding="utf-8") as file:
            self.assertIn("DAMAGED c: 2 findings", file.read())
        self.assert_refused(errno.EUCLEAN, lambda: self.v.ctl("verify c"), "t/big")
        # The same of what is left of it later.
        self.v.remount()
        self.v.ctl("terminate c")
        self.assert_refused(errno.EUCLEAN, lambda: self.v.ctl("verify c --json"), '"damaged": 2')

    def test_changes_by_users(self):
        """By passthrough where there is any, by names, by attributes."""
        self.copy()
        with open(self.v.clone("c", "t/big"), "r+b") as file:
            file.seek(MIB)
            file.write(b"mine")
        os.truncate(self.v.clone("c", "t/d/small"), 2)
        os.chmod(self.v.clone("c", "t/d/empty"), 0o600)
        os.unlink(self.v.clone("c", "t/gone"))
        self.v.write(self.v.clone("c", "t/new"), b"new")
        for end in ("", "umount", "kill"):
            if end == "umount":
                self.v.remount()
            elif end == "kill":
                self.v.kill()
                self.v.mount()
            self.v.cli("verify", "c")
            self.assertEqual(self.report()[0]["altered"], 3, end)
        # The others are compared still.
        flip(self.v.pool("clones/c/t", "\xfc odd\nname"), 66 * KIB)
        self.assert_refused(errno.EUCLEAN, lambda: self.v.ctl("verify c"), "odd", "65536")

    def test_while_it_is_drained(self):
        self.v.ctl("create c t")
        self.v.stall("c")
        self.v.ctl("activate c")
        self.v.cli("verify", "c")
        self.assertGreater(self.report()[0]["source_tracks"], 20)
        # COFW, and a clone's reader.
        with open(self.v.at("t/big"), "r+b") as file:
            file.write(os.urandom(MIB))
        self.v.cli("verify", "c")
        with open(self.v.clone("c", "t/big"), "rb") as file:
            self.assertEqual(file.read(), self.data["t/big"])
        self.v.kill()
        self.v.mount()
        self.v.cli("verify", "c")
        self.v.drain("c")
        self.v.cli("verify", "c")
        self.assertEqual(self.report()[0]["source_tracks"], 0)

    def test_refused(self):
        self.v.ctl("create c t")
        self.assert_refused(errno.EINVAL, lambda: self.v.ctl("verify c"), "Created", "activate")
        self.assert_refused(errno.ENOENT, lambda: self.v.ctl("verify nobody"), "nobody")
        self.assert_refused(2, lambda: self.v.cli("verify"), "NAME")

    def test_nothing_waits_for_it(self):
        """A large clone is verified; meanwhile commands answer, and the clone can be deleted."""
        size = 256 * MIB
        with open(self.v.at("t/large"), "wb") as file:
            part = os.urandom(4 * MIB)
            for _ in range(size // len(part)):
                file.write(part)
        self.copy()
        result = []

        def verify():
            try:
                result.append(self.v.ctl("verify c"))
            except Refused as e:
                result.append(e)
        thread = threading.Thread(target=verify)
        thread.start()
        self.v.ctl("status c")
        self.v.ctl("copy d t/d")
        self.v.wait("d")
        self.v.write("t/d/small", b"other")
        self.v.ctl("delete c")
        thread.join(timeout=30)
        self.assertFalse(thread.is_alive())
        # Either it was as fast as that, or it says why it ended.
        if isinstance(result[0], Refused):
            self.assertEqual(result[0].code, errno.ENOENT)
            self.assertIn("was removed while it was verified", str(result[0]))
        wait_for(lambda: not os.path.exists(self.v.pool("clones/c")), "the clone is gone")


if __name__ == "__main__":
    main()
