"""Part a: what ACTIVATE costs, and the other ways to a copy."""
import os
import shutil
import time

from bench_places import GIB, MIB, Missing, Writer, make_file, make_tree, run, syncfs
from bench_table import Table, progress, spread


class Shape:
    """What is cloned: how it is made, which of its files are written meanwhile."""

    def __init__(self, key, title, make, hot_files, hot):
        self.key = key
        self.title = title
        self.make = make
        self.hot_files = hot_files
        self.hot = hot


def shapes(p):
    def one(size, **holes):
        def make(path):
            os.mkdir(path)
            make_file(f"{path}/file", size, **holes)
        return make

    tree = [f"{n // 200}/{n % 200}" for n in range(p.many)]
    return [
        Shape("64m", "one file, 64 MiB", one(64 * MIB), ["file"], 64),
        Shape("big", f"one file, {p.big // MIB} MiB", one(p.big), ["file"], 64),
        Shape("sparse", "one file, 16 GiB sparse", one(16 * GIB, every=64 * MIB), ["file"], 64),
        Shape("100", "100 files of 1 MiB", lambda path: make_tree(path, 100, MIB),
              [f"0/{n}" for n in range(100)], 1),
        Shape("many", f"{p.many:,} files of 4 KiB", lambda path: make_tree(path, p.many, 4096),
              tree[::max(1, p.many // 100)], 0),
    ]


def beside_writer(work, p, directory, shape, mode, call):
    """CALL() beside a writer: begin and end -> times in ms."""
    writer = Writer(work, [f"{directory}/{shape.key}/{f}" for f in shape.hot_files], [mode],
                    hot=shape.hot)
    try:
        time.sleep(p.before_s)
        begin, end = call()
        time.sleep(p.after_s)
        writer.window("before", begin - int(p.before_s * 1e9), begin)
        writer.window("during", begin, end + int(p.after_s * 1e9))
        result = writer.end()[mode]
    finally:
        writer.stop()
    return {"call": (end - begin) / 1e6, "during": result["during"].get("max_us", 0) / 1e3,
            "before": result["before"].get("max_us", 0) / 1e3}


def timed(*command):
    begin = time.monotonic_ns()
    run(*command)
    return begin, time.monotonic_ns()


def part_a(work, p):
    table = Table(
        "a. Activation: time of the call, longest stall of a writer (ms)",
        ["source", "how", "call", "buffered writer: longest during / before",
         "durable writer: longest during / before"],
        f"One writer at a time, 2000 writes of 4 KiB a second (durable: each with fdatasync), on at "
        f"most 100 files, in 64 tracks of a large one. During: from the call to {p.after_s} s after "
        f"its end; before: the {p.before_s} s before it. Median (least-greatest) of {p.reps} "
        f"repetitions, of peers {p.peer_reps}.")
    all_shapes = [shape for shape in shapes(p) if shape.key in p.shapes]

    def fill(path):
        for shape in all_shapes:
            shape.make(f"{path}/{shape.key}")
        syncfs(path)

    # One target after the other, so that none drains while another is measured.
    modes = ("buffered", "durable")
    measured = {}

    def target(how, count, once):
        for shape in all_shapes:
            progress(f"a: {shape.title}, {how}")
            for mode in modes:
                try:
                    measured[shape.key, how, mode] = [once(shape, mode) for _ in range(count)]
                except Missing as e:
                    measured[shape.key, how, mode] = str(e)

    volume = work.volume("activation", fill)
    ways = ["clonefs ACTIVATE, precopied", "clonefs ACTIVATE, created", "clonefs ACTIVE COPY"]

    def clonefs(way):
        def once(shape, mode):
            name = f"a-{shape.key}"
            if way == ways[2]:
                call = lambda: volume.control(f"copy {name} {shape.key}")
            else:
                call = lambda: volume.control(f"activate {name}")
                volume.control(f"create {name} {shape.key}" +
                               (" --precopy" if way == ways[0] else ""))
                if way == ways[0]:
                    volume.wait(name, "precopied")
            try:
                times = beside_writer(work, p, volume.path, shape, mode, call)
                times["fence"] = volume.status(name).get("fence_ns", 0) / 1e6
                return times
            finally:
                volume.discard(name)
        return once

    for way in ways:
        target(way, p.reps, clonefs(way))
    work.remove(volume)

    native = work.directory("native")
    fill(native)

    def copy(options, base):
        def once(shape, mode):
            to = f"{base}/copy"
            try:
                return beside_writer(work, p, base, shape, mode, lambda: timed(
                    "cp", *options, f"{base}/{shape.key}", to))
            finally:
                shutil.rmtree(to, ignore_errors=True)
                syncfs(base)
        return once

    target("cp -a", p.peer_reps, copy(["-a"], native))
    shutil.rmtree(native)
    ways += ["cp -a"]

    def reflink():
        xfs = work.loop("xfs", 8 * GIB)
        fill(xfs.path)
        target("cp -a --reflink, XFS", p.peer_reps, copy(["-a", "--reflink=always"], xfs.path))
        work.remove(xfs)

    def snapshot():
        btrfs = work.loop("btrfs", 8 * GIB)
        for shape in all_shapes:
            run("btrfs", "subvolume", "create", f"{btrfs.path}/s-{shape.key}")
            shape.make(f"{btrfs.path}/s-{shape.key}/{shape.key}")
        syncfs(btrfs.path)

        def once(shape, mode):
            to = f"{btrfs.path}/snapshot"
            try:
                return beside_writer(
                    work, p, f"{btrfs.path}/s-{shape.key}", shape, mode, lambda: timed(
                        "btrfs", "subvolume", "snapshot", f"{btrfs.path}/s-{shape.key}", to))
            finally:
                run("btrfs", "subvolume", "delete", to)
        target("btrfs snapshot", p.peer_reps, once)
        work.remove(btrfs)

    why_missing = {}
    for how, peer in (("cp -a --reflink, XFS", reflink), ("btrfs snapshot", snapshot)):
        ways.append(how)
        try:
            peer()
        except Missing as e:
            why_missing[how] = str(e)

    for shape in all_shapes:
        for how in ways:
            reps = [measured.get((shape.key, how, mode), why_missing.get(how)) for mode in modes]
            why = [r for r in reps if isinstance(r, str)]
            if why:
                table.missing([shape.title, how], why[0])
                continue
            table.add([shape.title, how, spread([r["call"] for r in reps[0] + reps[1]]),
                       *(f"{spread([r['during'] for r in rs])} / {spread([r['before'] for r in rs])}"
                         for rs in reps)],
                      case=shape.title, how=how, unit="ms", **dict(zip(modes, reps)))
    return [table]
