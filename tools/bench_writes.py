"""Parts b and f: what a clone costs those who write to its source."""
import os
import statistics
import time

from bench_places import GIB, MIB, Missing, Writer, make_file, run, syncfs
from bench_table import Table, number, progress, spread


# --- b: tracks that are rewritten again and again

def part_b(work, p):
    table = Table(
        "b. 1000 tracks, 100 of them rewritten again and again",
        ["cache", "session", "tracks copied after ACTIVATE", "of these for a write (COFW)", "writer",
         "before: p50/p99/max us", "after: p50/p99/max us"],
        f"2000 writes of 4 KiB a second by each writer, on every tenth track; {p.rewrite_s} s in "
        f"precopy, then ACTIVATE, then {p.rewrite_s} s. Of {p.reps} repetitions the medians.")
    tracks, track = 1000, 64 << 10
    for cache in ("writeback", "writethrough"):
        volume = work.volume(f"rewritten-{cache}",
                             lambda path: make_file(f"{path}/file", tracks * track),
                             ["-o", f"cache={cache}"])
        found = {"precopied": [], "created": []}
        progress(f"b: cache {cache}")
        for n in range(p.reps):
            for how, reps in found.items():
                name = f"b{n}-{how}"
                writer = Writer(work, [f"{volume.path}/file"], ["buffered", "durable"], hot=100,
                                hot_bytes=track)
                try:
                    volume.control(f"create {name} file" + (" --precopy" if how == "precopied" else ""))
                    time.sleep(p.rewrite_s)
                    copied = volume.status(name)["bytes_copied"]
                    begin, end = volume.control(f"activate {name}")
                    time.sleep(p.rewrite_s)
                    writer.window("before", begin - int(p.rewrite_s * 1e9), begin)
                    writer.window("after", end, end + int(p.rewrite_s * 1e9))
                    times = writer.end()
                    volume.wait(name)
                    status = volume.status(name)
                    reps.append({"tracks": (status["bytes_copied"] - copied) / track,
                                 "cofw": status["cofw_tracks"], "times": times})
                finally:
                    writer.stop()
                    volume.discard(name)
        for how, reps in found.items():
            for mode in ("buffered", "durable"):
                def three(window):
                    return "/".join(number(statistics.median(r["times"][mode][window][key]
                                                             for r in reps))
                                    for key in ("p50_us", "p99_us", "max_us"))
                table.add([cache, how, spread([r["tracks"] for r in reps]),
                           spread([r["cofw"] for r in reps]), mode, three("before"), three("after")],
                          case=f"{cache}, {how}, {mode}", repetitions=reps)
        work.remove(volume)
    return [table]


# --- f: what the rule costs, that a track is overwritten only when its copy is durable

def part_f(work, p):
    table = Table(
        "f. Writes to a file with an active, undrained clone: p50/p99/max (us)",
        ["where", "buffered, 4 KiB at random", "with fdatasync", "buffered, 1 MiB in sequence",
         "with fdatasync", "records a commit"],
        f"{p.data // MIB} MiB file, clone with nocopy; one writer for {p.rewrite_s} s, as fast as it "
        f"goes (4 KiB: 500 us between the begins). Each track is saved at its first write. Of {p.reps} "
        "repetitions, each with a new clone, the medians. Records a commit: tracks that shared one "
        "sync of the journal.")
    kinds = [(block, mode) for block in (4096, MIB) for mode in ("buffered", "durable")]

    def write(directory, block, mode):
        writer = Writer(work, [f"{directory}/file"], [mode], block=block,
                        **({"sequential": 1, "pace_us": 0} if block == MIB else {}))
        try:
            begin = time.monotonic_ns()
            time.sleep(p.rewrite_s)
            writer.window("all", begin, time.monotonic_ns())
            return writer.end()[mode]["all"]
        finally:
            writer.stop()

    def measure(where, directory, begin, end, journal=lambda: None):
        rows, before = {kind: [] for kind in kinds}, journal()
        progress(f"f: {where}")
        for _ in range(p.reps):
            for block, mode in kinds:
                begin()
                try:
                    rows[block, mode].append(write(directory, block, mode))
                finally:
                    end()
                syncfs(directory)
        after = journal()
        commits = after[1] - before[1] if before else 0
        batch = number((after[0] - before[0]) / commits) if commits else "-"
        table.add([where, *("/".join(number(statistics.median(r[key] for r in rows[kind]))
                                     for key in ("p50_us", "p99_us", "max_us")) for kind in kinds),
                   batch],
                  case=where, unit="us", batch=batch,
                  repetitions={f"{block} {mode}": found for (block, mode), found in rows.items()})

    def fill(path):
        make_file(f"{path}/file", p.data)
        syncfs(path)

    nothing = lambda: None
    for durability in ("power", "relaxed"):
        volume = work.volume(f"durability-{durability}", fill, ["--durability", durability])

        def journal():
            status = volume.status()
            return status["journal_records"], status["journal_commits"]

        def precopied():
            volume.control("create f file --precopy")
            volume.wait("f", "precopied")
            volume.control("activate f")
        measure(f"clonefs {durability}, no clone", volume.path, nothing, nothing)
        measure(f"clonefs {durability}, clone", volume.path,
                lambda: volume.control("copy f file --nocopy"), lambda: volume.discard("f"), journal)
        measure(f"clonefs {durability}, precopied clone", volume.path, precopied,
                lambda: volume.discard("f"), journal)
        work.remove(volume)

    def reflink():
        xfs = work.loop("xfs", 4 * GIB)
        fill(xfs.path)
        copy = f"{xfs.path}/copy"
        measure("reflink copy, XFS", xfs.path,
                lambda: run("cp", "--reflink=always", f"{xfs.path}/file", copy),
                lambda: os.unlink(copy))
        work.remove(xfs)

    def snapshot():
        btrfs = work.loop("btrfs", 4 * GIB)
        source, copy = f"{btrfs.path}/source", f"{btrfs.path}/snapshot"
        run("btrfs", "subvolume", "create", source)
        fill(source)
        measure("btrfs snapshot", source,
                lambda: run("btrfs", "subvolume", "snapshot", source, copy),
                lambda: run("btrfs", "subvolume", "delete", copy))
        work.remove(btrfs)

    for where, peer in (("reflink copy, XFS", reflink), ("btrfs snapshot", snapshot)):
        try:
            peer()
        except Missing as e:
            table.missing([where], str(e))
    return [table]
