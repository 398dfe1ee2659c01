#!/usr/bin/env python3
"""Each clone is one instant: writers number what they do while clones are activated by every route.

A clone is read at once, while it drains, when it is drained and after TERMINATE; it is always the
same. What it must show is in records.py.
"""
import os
import random

import tree
from records import BEGUN, DONE, FAILED, Buffered, Durable, Mapped, Names, Ordered
from volume import LONG, SEED, VolumeTest, main

ROUNDS = 40 if LONG else 2


class Consistency(VolumeTest):
    pool = "pool"
    kinds = (Durable, Buffered, Mapped, Names)

    def setUp(self):
        super().setUp()
        self.random = random.Random(SEED)
        os.mkdir(self.v.at("work"))
        self.v.write("work/still/file", bytes(range(256)) * 4096)
        self.writers = {}
        self.addCleanup(self.stop)  # runs before the unmount
        for kind in self.kinds:
            name = kind.__name__.lower()
            self.writers[name] = kind(self.v.at("work", name)).start()

    def stop(self):
        for writer in self.writers.values():
            if writer.pid:
                writer.stop()

    # --- routes. Each activates and returns {clone: {writer: its folder in the clone}}

    def everywhere(self, name, prefix="work"):
        return {name: {w: os.path.join(prefix, w) for w in self.writers}}

    def by_ctl(self, name):
        self.v.ctl(f"copy {name} .")
        return self.everywhere(name)

    def by_command(self, name):
        self.v.cli("copy", name, "work")
        return self.everywhere(name)

    def by_mkdir(self, name):
        os.mkdir(self.v.clone(name))
        return self.everywhere(name)

    def by_mkdir_in_directory(self, name):
        os.mkdir(self.v.at("work/.clone", name))
        return self.everywhere(name)

    def by_precopy(self, name):
        """Several sessions, one consistency point; drained so slowly that it is seen."""
        names = {f"{name}-{w}": {w: os.path.join("work", w)} for w in self.writers}
        names[f"{name}-all"] = {w: os.path.join("work", w) for w in self.writers}
        for clone, parts in names.items():
            paths = "." if len(parts) > 1 else " ".join(parts.values())
            precopy = "--precopy" if self.random.random() < 0.7 else ""
            self.v.ctl(f"create {clone} {paths} {precopy}")
        self.before = self.published(DONE)
        for clone in names:
            if self.random.random() < 0.5:
                self.v.stall(clone)
        self.before = self.published(DONE)
        self.v.ctl("activate " + " ".join(names))
        return names

    def by_files(self, name):
        """A clone for each file of the ordered writer."""
        writer = self.writers["durable"]
        clones = [f"{name}-{i}" for i in range(writer.files)]
        for i, clone in enumerate(clones):
            self.v.ctl(f"create {clone} work/durable/{i}.rec")
        self.before = self.published(DONE)
        self.v.cli("activate", *clones)
        self.joined = clones
        return {clone: {} for clone in clones}

    def published(self, index):
        return {name: writer[index] for name, writer in self.writers.items()}

    # --- checks

    def check(self, clones, after):
        instants = {}
        for clone, parts in clones.items():
            for name, folder in parts.items():
                shown = self.writers[name].check(self.v.clone(clone, folder), self.before[name],
                                                 after[name], f"{clone} of {name}")
                if shown is not None:
                    instants.setdefault(name, []).append((clone, set(shown)))
        # The same instant in all of them.
        for name, shown in instants.items():
            self.assertTrue(set.intersection(*[numbers for _, numbers in shown]),
                            f"{name}: not one instant: {shown}")

    def check_joined(self, after):
        writer, found = self.writers["durable"], {}
        for i, clone in enumerate(self.joined):
            path = self.v.clone(clone, "work/durable")
            self.assertEqual(os.listdir(path), [f"{i}.rec"])
            found.update(writer.read_file(path, i, clone))
        writer.instants(found, self.before["durable"], after["durable"], str(self.joined))

    def one(self, route, name):
        self.joined = None
        self.before = self.published(DONE)
        clones = getattr(self, route)(name)
        after = self.published(BEGUN)
        self.check(clones, after)
        if self.joined:
            self.check_joined(after)
        states = {clone: tree.capture(self.v.clone(clone)) for clone in clones}
        if route == "by_mkdir_in_directory":
            tree.assert_same(self, tree.capture(self.v.clone(name, "work")),
                             tree.capture(self.v.at("work/.clone", name)), "DIR/.clone")

        def again(when):
            for clone, state in states.items():
                tree.assert_same(self, state, tree.capture(self.v.clone(clone)), f"{clone}, {when}")
        again("while draining")
        for clone in clones:
            self.v.drain(clone)
        again("drained")
        self.v.cli("terminate", *clones)
        again("terminated")
        for clone, state in states.items():
            plain = tree.capture(self.v.pool("clones", clone))
            tree.assert_same(self, state, plain, f"{clone}, in the pool", ("ctime",))
        for clone in list(clones)[1:]:
            self.v.ctl(f"delete {clone}")
        done = self.published(DONE)
        for name_, writer in self.writers.items():
            self.assertEqual(writer[FAILED], 0, f"{name_} met errno {writer[FAILED]}")
            self.assertGreater(done[name_], self.before[name_], f"{name_} did not go on")
        return {clone: states[clone] for clone in list(clones)[:1]}

    def test_every_route(self):
        routes = ["by_ctl", "by_command", "by_mkdir", "by_mkdir_in_directory", "by_precopy",
                  "by_files"]
        kept = {}
        for turn in range(ROUNDS):
            self.random.shuffle(routes)
            for route in routes:
                with self.subTest(route=route, round=turn):
                    kept.update(self.one(route, f"c{turn}-{route}"))
        self.stop()
        # Later clones have not changed earlier ones, nor has a new daemon.
        self.v.remount()
        for clone, state in kept.items():
            tree.assert_same(self, state, tree.capture(self.v.clone(clone)), f"{clone}, mounted again")


class ConsistencyWithoutCache(Consistency):
    options = ("--cache", "writethrough")
    kinds = (Durable, Ordered, Mapped, Names)


if __name__ == "__main__":
    main()
