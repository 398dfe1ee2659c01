#!/usr/bin/env python3
"""Everything at once for a long time: many files, sessions created, activated, read, terminated and
deleted, while programs write, map, rename and read. At the end each clone is compared, and the daemon's
memory and descriptors are back where they were. A minute; ten with CLONEFS_LONG=1.
"""
import os
import random
import threading
import time

from records import BEGUN, DONE, FAILED, Buffered, Durable, Mapped, Names
from volume import LONG, SEED, Refused, VolumeTest, main, wait_for

SECONDS = 600 if LONG else 45
FILES = 2000
COMMANDERS = 3
MIB = 1 << 20


class Load(VolumeTest):
    pool = "pool"

    def setUp(self):
        super().setUp()
        for i in range(FILES):
            self.v.write(f"still/{i % 20}/{i}", b"%d " % i * (i % 1000 * 3))
        self.problems = []
        self.made = self.checked = 0
        self.lock = threading.Lock()

    def usage(self):
        """Resident bytes and open descriptors of the daemon."""
        with open(f"/proc/{self.v.pid}/statm", encoding="ascii") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
        return resident, len(os.listdir(f"/proc/{self.v.pid}/fd"))

    def settled(self):
        """The usage once the kernel has let go of what it remembers of the mounts."""
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write("2")
        last = [None]

        def still():
            now = self.usage()
            same, last[0] = now[1] == last[0], now[1]
            return now if same else None
        return wait_for(still, "the descriptors stand still")

    def check(self, clone, before, after):
        for name, writer in self.writers.items():
            writer.check(self.v.clone(clone, "busy", name), before[name], after[name],
                         f"{clone} of {name}")
        number = random.randrange(FILES)
        with open(self.v.clone(clone, f"still/{number % 20}/{number}"), "rb") as file:
            assert file.read() == b"%d " % number * (number % 1000 * 3), f"{clone}: still/{number}"
        with self.lock:
            self.checked += 1

    def commander(self, me, end):
        pick, mine = random.Random(SEED + me), {}
        try:
            while time.monotonic() < end:
                with self.lock:
                    self.made += 1
                    clone = f"c{me}-{self.made}"
                flags = pick.choice(["", "--precopy", "--nocopy", "--track-size 4K"])
                self.v.ctl(f"create {clone} . {flags}")
                if flags == "--precopy" and pick.random() < 0.7:
                    # Its own end, every pass finds nothing, need not come while all is written.
                    wait_for(lambda: self.v.status(clone)["bytes_copied"] >= MIB, "precopy goes on",
                             timeout=120)
                before = {name: w[DONE] for name, w in self.writers.items()}
                self.v.ctl(f"activate {clone}")
                mine[clone] = before, {name: w[BEGUN] for name, w in self.writers.items()}
                if pick.random() < 0.5:
                    self.check(clone, *mine[clone])
                if flags != "--nocopy" and pick.random() < 0.5:
                    self.v.wait(clone, timeout=120)
                    self.check(clone, *mine[clone])
                    if pick.random() < 0.5:
                        self.v.ctl(f"terminate {clone}")
                while len(mine) > 3:
                    old = pick.choice(sorted(mine))
                    self.check(old, *mine.pop(old))
                    self.v.ctl(f"delete {old} --force")
        except (OSError, Refused, AssertionError) as e:
            self.problems.append(f"{clone}: {e}")
        with self.lock:
            self.left.update(mine)

    def reader(self, end):
        """Walks the clones, which go meanwhile."""
        while time.monotonic() < end:
            for top, _, files in os.walk(self.v.at(".clonefs/clones")):
                for name in files[:20]:
                    try:
                        with open(os.path.join(top, name), "rb") as file:
                            file.read()
                    except OSError:
                        pass
                if time.monotonic() > end:
                    break

    def renamer(self, end):
        """Moves a directory in and out of another; a clone has it here or there."""
        at = [self.v.at("still/0/moved"), self.v.at("still/1/moved")]
        os.mkdir(at[0])
        turn = 0
        while time.monotonic() < end:
            os.rename(at[turn % 2], at[1 - turn % 2])
            turn += 1

    def run_for(self, seconds):
        self.left = {}
        end = time.monotonic() + seconds
        threads = [threading.Thread(target=self.commander, args=(i, end)) for i in range(COMMANDERS)]
        threads.append(threading.Thread(target=self.reader, args=(end,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(self.problems, [])
        for clone, bounds in self.left.items():
            self.check(clone, *bounds)
            self.v.ctl(f"delete {clone} --force")

    def test_load(self):
        os.mkdir(self.v.at("busy"))
        self.writers = {kind.__name__.lower(): kind(self.v.at("busy", kind.__name__.lower()), **(
            {} if kind is Names else {"files": 2, "slots": 1024})).start()
            for kind in (Durable, Buffered, Mapped, Names)}
        for writer in self.writers.values():
            self.addCleanup(writer.stop)
        mover = threading.Thread(target=self.renamer, args=(time.monotonic() + SECONDS,))
        mover.start()
        usage = []
        for _ in range(4):
            self.run_for(SECONDS / 4)
            self.assertEqual(self.v.names(), [])
            usage.append(self.settled())
        mover.join()
        for name, writer in self.writers.items():
            self.assertEqual(writer[FAILED], 0, name)
            writer.stop()
        memory, descriptors = zip(*usage)
        print(f"{self.made} clones, {self.checked} looks; MiB {[m >> 20 for m in memory]}, descriptors "
              f"{list(descriptors)}", end=" ", flush=True)
        self.assertGreater(self.checked, 0)
        # The first quarter fills caches and pools of memory.
        self.assertLess(descriptors[-1], descriptors[0] + 20)
        self.assertLess(memory[-1], max(memory[:2]) * 1.25 + 16 * MIB)


if __name__ == "__main__":
    main()
