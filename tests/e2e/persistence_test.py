#!/usr/bin/env python3
"""Sessions in every state survive umount and mount; what was changed behind clonefs's back is told;
a drained clone is a plain tree that needs no clonefs.
"""
import os
import random

import tree
from volume import SEED, Volume, VolumeTest, main, run

MIB = 1 << 20


def fill_tree(place, seed):
    """A tree with something of everything, about 9 MiB."""
    r = random.Random(seed)
    for folder in ("a", "a/b", "a/b/c", "empty folder", "d"):
        os.makedirs(os.path.join(place, folder))
    for i in range(40):
        path = os.path.join(place, r.choice(("a", "a/b", "a/b/c", "d")), f"file {i}")
        with open(path, "wb") as file:
            file.write(r.randbytes(r.randrange(200000)))
        os.chmod(path, r.choice((0o600, 0o644, 0o755, 0o444)))
        os.utime(path, ns=(10**18, 10**18 + r.randrange(10**17)))
    with open(os.path.join(place, "big"), "wb") as file:
        file.write(r.randbytes(4 * MIB))
    with open(os.path.join(place, "sparse"), "wb") as file:
        file.seek(3 * MIB)
        file.write(b"island" * 1000)
        file.truncate(9 * MIB)
    os.link(os.path.join(place, "big"), os.path.join(place, "d/big too"))
    os.symlink("../big", os.path.join(place, "a/link"))
    os.mkfifo(os.path.join(place, "fifo"))
    os.setxattr(os.path.join(place, "big"), "user.x", b"y")
    with open(os.fsencode(place) + b"/\xff\xfe odd\nname", "wb") as file:
        file.write(b"odd")


def change_tree(place):
    """Every file gets other data."""
    for folder, _, files in os.walk(os.fsencode(place)):
        if b".clonefs" in folder:
            continue
        for name in files:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "r+b") as file:
                    file.write(b"changed!")


class States(VolumeTest):
    def setUp(self):
        super().setUp()
        fill_tree(self.v.at("t"), SEED)

    def every_state(self):
        v = self.v
        v.ctl("create created t")
        v.ctl("create precopied t --precopy")
        v.wait("precopied", "precopied")
        v.ctl("create precopying t")
        v.stall("precopying")
        v.ctl("precopy precopying")
        v.ctl("create draining t")
        v.stall("draining")
        v.ctl("copy nocopy t --nocopy")
        v.ctl("copy copied t")
        v.wait("copied")
        v.ctl("copy terminated t")
        v.wait("terminated")
        v.ctl("terminate terminated")
        v.ctl("activate draining")
        self.expected = {name: tree.capture(v.clone(name, "t"))
                         for name in ("draining", "nocopy", "copied", "terminated")}

    def told(self):
        """What is told of each session and must not change."""
        keys = ("name", "state", "created_at", "activated_at", "paths", "files", "objects",
                "tracks_total", "track_size", "sessions", "nocopy", "rate_limit")
        return {s["name"]: {key: s[key] for key in keys} for s in self.v.status_json()["sessions"]}

    def check_clones(self, when):
        for name, expected in self.expected.items():
            tree.assert_same(self, expected, tree.capture(self.v.clone(name, "t")),
                             f"{name}, {when}")

    def test_every_state(self):
        self.every_state()
        # The source has moved on since, for some by COFW.
        change_tree(self.v.at("t"))
        self.check_clones("before")
        before = self.told()
        self.assertEqual({name: s["state"] for name, s in before.items()},
                         {"created": "Created", "precopied": "Precopy", "precopying": "Precopy",
                          "draining": "CopyInProgress", "nocopy": "CopyInProgress",
                          "copied": "Copied"})
        inodes = {name: os.stat(self.v.clone(name, "t/big")).st_ino for name in self.expected}
        for turn in range(2):
            self.v.remount()
            self.assertEqual(self.told(), before)
            self.check_clones(f"mounted again ({turn})")
            self.assertIn("terminated", self.v.cli("list"))
            self.assertEqual({name: os.stat(self.v.clone(name, "t/big")).st_ino
                              for name in self.expected}, inodes)
            for name in ("created", "precopied", "precopying"):
                self.assertFalse(os.path.exists(self.v.clone(name)))
        # All of them go on.
        now = tree.capture(self.v.at("t"))
        self.v.ctl("activate created precopied precopying")
        for name in ("created", "precopied", "precopying"):
            tree.assert_same(self, now, tree.capture(self.v.clone(name, "t")), name, ("ctime",))
            self.v.drain(name)
        self.v.drain("draining")
        change_tree(self.v.at("t"))
        for name in ("created", "precopied", "precopying"):
            tree.assert_same(self, now, tree.capture(self.v.clone(name, "t")), name, ("ctime",))
        self.check_clones("at the end")

    def test_changed_beneath(self):
        """A file changed while clonefs was away: the clones that needed it say so and are not shown
        wrongly; the others are as they were."""
        v = self.v
        v.write("other/file", b"x" * MIB)
        v.ctl("create needs-big t/big")
        v.stall("needs-big")
        v.ctl("copy needs-other other --nocopy")
        v.ctl("copy has-all t")
        v.ctl("activate needs-big")
        v.wait("has-all")
        v.ctl("create pre t --precopy")
        v.wait("pre", "precopied")
        expected = {name: tree.capture(v.clone(name)) for name in ("needs-other", "has-all")}
        v.umount()
        with open(os.path.join(v.source, "t/big"), "r+b") as file:
            file.seek(MIB)
            file.write(b"behind your back")
        v.mount()
        status = v.status("needs-big")
        self.assertEqual(status["state"], "Failed")
        self.assertIn("t/big", status["error"])
        self.assertIn("needs-big", v.cli("status"))
        with self.assertRaises(OSError):
            with open(v.clone("needs-big", "t/big"), "rb") as file:
                file.read()
        for name, state in expected.items():
            tree.assert_same(self, state, tree.capture(v.clone(name)), name)
        # Before activation there is nothing to be wrong: what changed is copied again.
        now = tree.capture(v.at("t"))
        v.ctl("activate pre")
        tree.assert_same(self, now, tree.capture(v.clone("pre", "t")), "pre", ("ctime",))
        v.ctl("delete needs-big --force")
        self.assertNotIn("needs-big", v.names())

    def test_replaced_beneath(self):
        """The same when a file is removed, or replaced by another of the same name."""
        v = self.v
        v.ctl("copy gone t/big --nocopy")
        v.write("d.txt", b"one" * 9999)
        v.ctl("copy replaced d.txt --nocopy")
        v.umount()
        os.unlink(os.path.join(v.source, "t/big"))
        os.unlink(os.path.join(v.source, "t/d/big too"))
        with open(os.path.join(v.source, "new"), "wb") as file:
            file.write(b"two" * 9999)
        os.rename(os.path.join(v.source, "new"), os.path.join(v.source, "d.txt"))
        v.mount()
        for name, path in (("gone", "t/big"), ("replaced", "d.txt")):
            self.assertEqual(v.status(name)["state"], "Failed", name)
            self.assertIn(path, v.status(name)["error"])


class PlainTree(VolumeTest):
    """A drained clone, with clonefs gone, is what `cp -a` would have made."""

    def check_plain(self, v):
        fill_tree(v.at("t"), SEED + 1)
        copy = os.path.join(v.base, "copy")
        self.assertEqual(run("cp", "-a", v.at("t"), copy).returncode, 0)
        v.ctl("create c t --precopy")
        v.ctl("activate c")
        change_tree(v.at("t"))
        v.wait("c")
        expected = tree.capture(v.clone("c", "t"))
        v.ctl("terminate c")
        v.umount()
        plain = os.path.join(v.given_pool or os.path.join(v.source, ".clonefs/pool"), "clones/c/t")
        done = run("diff", "-r", "--no-dereference", "-x", "fifo", copy, plain)
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        done = run("rsync", "-aHAX", "--checksum", "--delete", "-n", "-i", copy + "/", plain + "/")
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        tree.assert_same(self, expected, tree.capture(plain), "plain", ("ctime",))
        self.assertEqual(tree.holes(os.path.join(plain, "sparse")),
                         tree.holes(os.path.join(v.source, "t/sparse"))[-1:])
        self.assertLess(os.stat(os.path.join(plain, "sparse")).st_blocks * 512, MIB)
        v.mount()
        tree.assert_same(self, expected, tree.capture(v.clone("c", "t")), "mounted again")

    def test_in_the_volume(self):
        self.check_plain(self.v)

    def test_pool_elsewhere(self):
        with Volume(pool="pool").mount() as v:
            self.check_plain(v)

    def test_mounted_aside(self):
        with Volume(aside=True).mount() as v:
            self.check_plain(v)

    def test_as_a_daemon(self):
        with Volume(daemon=True).mount() as v:
            self.check_plain(v)


if __name__ == "__main__":
    main()
