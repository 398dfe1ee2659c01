#!/usr/bin/env python3
"""The daemon is killed (SIGKILL), or told to end (SIGTERM), at random moments under load; one `clonefs
mount` later every clone whose activation was acknowledged is exact, and precopy does not begin again.
"""
import errno
import os
import random
import signal
import threading
import time

import tree
from records import BEGUN, DONE, FAILED, Buffered, Durable, Mapped, Names
from volume import LONG, SEED, Refused, VolumeTest, main, wait_for

ROUNDS = 60 if LONG else 8
MIB = 1 << 20


class UnderLoad(VolumeTest):
    pool = "pool"
    kinds = (Durable, Buffered, Mapped, Names)
    rounds = ROUNDS

    def end(self, writers):
        """Of the daemon."""
        raise NotImplementedError

    def setUp(self):
        super().setUp()
        self.random = random.Random(SEED)
        self.states = {}  # clone: what it showed when it was first seen
        self.started = {}   # clone: (writers, what had returned, what had begun)

    def commands(self, turn, writers, stop):
        """Makes clones one after another until the daemon is gone."""
        names = list(writers)
        for i in range(1000):
            clone = f"k{turn}-{i}"
            kind = self.random.randrange(4)
            try:
                before = {name: writers[name][DONE] for name in names}
                if kind == 0:
                    os.mkdir(self.v.clone(clone))
                elif kind == 1:
                    self.v.ctl(f"copy {clone} round{turn} --nocopy")
                else:
                    self.v.ctl(f"create {clone} round{turn} --track-size 4K"
                               + (" --precopy" if kind == 3 else ""))
                    if self.random.random() < 0.5:
                        self.v.ctl(f"rate {clone} 1M")
                    before = {name: writers[name][DONE] for name in names}
                    self.v.ctl(f"activate {clone}")
                self.acknowledged[clone] = (before, {n: writers[n][BEGUN] for n in names})
                if self.random.random() < 0.3:
                    self.v.ctl(f"delete {clone} --force")
                    del self.acknowledged[clone]
                elif self.random.random() < 0.3:
                    self.looked[clone] = tree.capture(self.v.clone(clone))
            except (OSError, Refused) as e:
                code = e.code if isinstance(e, Refused) else e.errno
                if not stop.is_set():
                    self.problems.append(f"{clone}: {e}")
                self.last = (clone, code)
                return

    def check_round(self, turn, writers, acknowledged, looked, in_flight):
        shown = os.listdir(self.v.at(".clonefs/clones"))
        for clone, (before, after) in acknowledged.items():
            if clone == in_flight and clone not in shown:
                continue  # its removal was under way
            for name, writer in writers.items():
                writer.check(self.v.clone(clone, f"round{turn}", name), before[name], after[name],
                             f"{clone} of {name}")
            state = tree.capture(self.v.clone(clone))
            if clone in looked:
                tree.assert_same(self, looked[clone], state, f"{clone}, as it was before the kill")
            self.states[clone] = state
        # What was in flight is there entirely or not at all.
        if in_flight in shown and in_flight not in acknowledged:
            for name, writer in writers.items():
                writer.check(self.v.clone(in_flight, f"round{turn}", name), 0, writer[BEGUN],
                             f"{in_flight} (in flight) of {name}")

    def run_rounds(self):
        for turn in range(self.rounds):
            with self.subTest(round=turn):
                os.mkdir(self.v.at(f"round{turn}"))
                writers = {kind.__name__.lower():
                           kind(self.v.at(f"round{turn}", kind.__name__.lower()), **(
                               {} if kind is Names else {"files": 2, "slots": 256})).start()
                           for kind in self.kinds}
                self.acknowledged, self.looked, self.problems = {}, {}, []
                self.last, stop = (None, 0), threading.Event()
                commands = threading.Thread(target=self.commands, args=(turn, writers, stop))
                commands.start()
                # The moment is what the test is about, not a condition that it waits for.
                time.sleep(self.random.uniform(0.05, 1.2))
                stop.set()
                self.end(writers)
                for writer in writers.values():
                    writer.stop()
                commands.join()
                self.assertEqual(self.problems, [])
                durable = writers["durable"][DONE]
                self.v.mount()
                # What was durable is in the source.
                writers["durable"].check(self.v.at(f"round{turn}/durable"), durable,
                                         writers["durable"][BEGUN], "the source")
                self.check_round(turn, writers, self.acknowledged, self.looked, self.last[0])
                # The ones of earlier rounds, too.
                for clone, state in self.states.items():
                    tree.assert_same(self, state, tree.capture(self.v.clone(clone)), clone)
                self.trim()
        for clone in self.states:
            if not self.v.status(clone)["nocopy"]:
                self.v.drain(clone)
            tree.assert_same(self, self.states[clone], tree.capture(self.v.clone(clone)),
                             f"{clone}, drained")

    def trim(self):
        """Keeps a few clones for later rounds; columns are bounded."""
        keep = set(self.random.sample(sorted(self.states), min(4, len(self.states))))
        for session in self.v.status_json()["sessions"]:
            if session["name"] not in keep:
                self.v.ctl(f"delete {session['name']} --force")
        self.states = {name: state for name, state in self.states.items() if name in keep}


class Killed(UnderLoad):
    def end(self, writers):
        self.v.kill()

    def test_under_load(self):
        self.run_rounds()

    def test_mount_while_the_dead_mount_is_there(self):
        self.v.write("file", b"before" * 1000)
        self.v.ctl("copy one .  --nocopy")
        self.v.kill()
        with self.assertRaises(OSError):
            os.listdir(self.v.path)
        self.v.mount()  # one command
        self.v.write("file", b"after")
        with open(self.v.clone("one", "file"), "rb") as file:
            self.assertEqual(file.read(), b"before" * 1000)

    def written(self):
        """Bytes that the daemon has written so far, into files and to those who read the mount, less the
        zeros with which the journal begins."""
        with open(f"/proc/{self.v.pid}/io", encoding="ascii") as file:
            all_bytes = int(dict(line.split(": ") for line in file)["wchar"])
        return all_bytes - sum(os.path.getsize(self.v.pool("journal", name)) for name in "01")

    def test_precopy_goes_on(self):
        size = 64 * MIB
        with open(self.v.at("big"), "wb") as file:
            for i in range(size // MIB):
                file.write(bytes([i]) * MIB)
        self.v.ctl("create p big --precopy")
        self.v.wait("p", "precopied")
        self.v.kill()
        self.v.mount()
        self.v.wait("p", "precopied")
        self.assertLess(self.written(), size // 4, "precopy copied everything again")
        with open(self.v.at("big"), "r+b") as file:
            file.seek(5 * MIB)
            file.write(b"new" * 1000)
        self.v.ctl("activate p")
        self.v.wait("p")
        self.assertLess(self.written(), size // 4)
        self.assertEqual(tree.capture(self.v.clone("p", "big"))[b"."]["content"],
                         tree.capture(self.v.at("big"))[b"."]["content"])

    def test_precopy_in_the_middle(self):
        """Killed in the middle of precopy: at most what was not yet durable is copied again."""
        size = 64 * MIB
        with open(self.v.at("big"), "wb") as file:
            for i in range(size // MIB):
                file.write(bytes([i]) * MIB)
        self.v.ctl("create p big")
        self.v.ctl("rate p 16M")
        self.v.ctl("precopy p")
        wait_for(lambda: self.v.status("p")["tracks_precopied"] * 65536 >= size // 2, "half")
        self.v.kill()
        self.v.mount()
        state = self.v.status("p")
        self.assertIn(state["state"], "Precopy")
        self.v.ctl("rate p unlimited")
        self.v.wait("p", "precopied")
        self.assertLess(self.written(), size * 3 // 4, "precopy copied everything again")
        self.v.ctl("activate p")
        self.v.wait("p")
        with open(self.v.clone("p", "big"), "rb") as file:
            for i in range(size // MIB):
                self.assertEqual(file.read(MIB), bytes([i]) * MIB)


class Terminated(UnderLoad):
    """SIGTERM: what programs hold open keeps the mount from ending in order, so it goes lazily. They
    see no error before that, and nothing that had returned is lost."""
    rounds = 15 if LONG else 3
    aside = True  # in place, paths would lead to the source then

    def end(self, writers):
        os.kill(self.v.pid, signal.SIGTERM)
        self.v.wait_end(0)
        # The others' cached pages may take writes still.
        for name in ("durable", "names"):
            writers[name].wait()
            self.assertIn(writers[name][FAILED],
                          (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENOENT,
                           errno.EXDEV), name)

    def test_under_load(self):
        self.run_rounds()


if __name__ == "__main__":
    main()
