"""What is measured: parts a to e. Each returns a list of Tables."""
import os
import shutil
import statistics
import sys
import time

from bench_places import (Missing, Writer, io_case, io_cases, make_file, make_tree, run, syncfs)

BEGIN = time.monotonic()
MIB = 1 << 20
GIB = 1 << 30


def progress(text=""):
    """What is measured now, for who waits: a line that is overwritten."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:78]}", end="", file=sys.stderr, flush=True)
    elif text:
        print(f"  {time.monotonic() - BEGIN:5.0f} s  {text}", file=sys.stderr, flush=True)


class Table:
    def __init__(self, title, columns, note):
        self.title = title
        self.columns = columns
        self.note = note
        self.rows = []     # texts, one a column
        self.why_missing = []
        self.records = []  # the same for JSON, with what was measured in each repetition

    def add(self, texts, **record):
        self.rows.append([str(t) for t in texts])
        self.records.append(record)

    def missing(self, names, why):
        """NAMES: the first columns of the row."""
        self.rows.append(names + ["not measured"] + [""] * (len(self.columns) - len(names) - 1))
        if why not in self.why_missing:
            self.why_missing.append(why)
        self.records.append({"case": ": ".join(names), "missing": why})

    def markdown(self):
        width = [max(len(row[i]) for row in [self.columns] + self.rows)
                 for i in range(len(self.columns))]
        lines = [f"### {self.title}", ""]
        for row in (self.columns, ["-" * w for w in width], *self.rows):
            lines.append("| " + " | ".join(c.ljust(w) for c, w in zip(row, width)) + " |")
        for text in [self.note] + [f"Not measured: {why}." for why in self.why_missing]:
            lines += ["", text]
        return "\n".join(lines)


def number(value):
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def spread(values):
    """Median, and the range where there is one."""
    text = number(statistics.median(values))
    return text if len(values) == 1 else f"{text} ({number(min(values))}-{number(max(values))})"


class Parameters:
    """Sizes of a full run, and of a quick one."""

    def __init__(self, quick):
        self.reps = 3
        self.shapes = ("64m", "sparse", "many") if quick else ("64m", "big", "sparse", "100", "many")
        self.big = 256 * MIB if quick else GIB
        self.many = 2000 if quick else 20000
        self.data = 64 * MIB if quick else 256 * MIB
        self.ballast = 512 * MIB if quick else 2 * GIB
        self.files = 400 if quick else 2000
        self.seconds = 0.3 if quick else 2.0
        self.before_s = 0.2 if quick else 0.5
        self.after_s = 0.2 if quick else 0.5
        self.rewrite_s = 1.0 if quick else 3.0
        self.peer_reps = 1 if quick else 3


# --- a: activation

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


# --- c, d: the live mount against the native directory

def fill_io(p, ballast=0):
    def fill(path):
        if ballast:  # first: the copy program takes it first
            make_file(f"{path}/ballast", ballast)
        make_file(f"{path}/data", p.data)
        make_tree(f"{path}/many", p.files, 2048)
        syncfs(path)
    return fill


def against_native(work, p, table, with_clone):
    volume = work.volume("live", fill_io(p, p.ballast if with_clone else 0))
    native = work.directory("native-live")
    fill_io(p)(native)
    for name in io_cases(work):
        rows = {}  # case -> [(native, clonefs)]
        missing = {}
        progress(f"{'d' if with_clone else 'c'}: {name}")
        drained = False
        for n in range(p.reps):
            try:
                if with_clone:
                    volume.control("copy draining .")
                    volume.control("rate draining 64M")
                # Who goes first changes.
                results = {}
                for place in (("native", "clonefs") if n % 2 == 0 else ("clonefs", "native")):
                    if place == "native":
                        results[place] = io_case(work, name, native, None, p.seconds, p.files)
                    else:
                        results[place] = io_case(work, name, volume.path, volume.beneath(),
                                                 p.seconds, p.files)
                if with_clone:
                    drained |= volume.status("draining")["state"] != "CopyInProgress"
                for a, b in zip(results["native"], results["clonefs"]):
                    why = a.get("missing") or b.get("missing")
                    if why:
                        missing[a["case"]] = why
                    else:
                        rows.setdefault(a["case"], []).append((a, b))
            except Missing as e:
                missing[name] = str(e)
            finally:
                if with_clone:
                    volume.discard("draining")
        for case, pairs in rows.items():
            ratios = [b["value"] / a["value"] for a, b in pairs]
            unit = pairs[0][0]["unit"]
            table.add([case, unit, number(statistics.median(a["value"] for a, _ in pairs)),
                       number(statistics.median(b["value"] for _, b in pairs)), spread(ratios),
                       " / ".join(number(statistics.median(x["p50_us"] for x in side))
                                  for side in zip(*pairs))],
                      case=case, unit=unit, ratio=statistics.median(ratios),
                      was_drained_before_the_end=drained,
                      repetitions=[{"native": a, "clonefs": b, "ratio": r}
                                   for (a, b), r in zip(pairs, ratios)])
        for case, why in missing.items():
            table.missing([case], why)
    work.remove(volume)
    shutil.rmtree(native)


def part_c(work, p):
    table = Table(
        "c. Live mount without a session against the native directory",
        ["case", "unit", "native", "clonefs", "clonefs / native", "p50 native / clonefs (us)"],
        f"File of {p.data // MIB} MiB, {p.files} small files; native and clonefs in turn, median "
        f"(least-greatest) of {p.reps} ratios; above 1 clonefs is faster. p50: of one operation, "
        f"without what is done behind it.")
    against_native(work, p, table, False)
    return [table]


def part_d(work, p):
    table = Table(
        "d. Live mount with an active, draining clone of the whole volume against the native directory",
        ["case", "unit", "native", "clonefs", "clonefs / native", "p50 native / clonefs (us)"],
        "As c; before each measurement the volume is cloned (ACTIVE COPY), and drained at 64 MiB/s "
        "meanwhile, so the first write to each track of the file copies it first.")
    against_native(work, p, table, True)
    return [table]


# --- e: drain

def part_e(work, p):
    table = Table(
        "e. Drain against cp of the same data",
        ["source", "unit", "cp", "drain", "drain / cp"],
        f"`cp -a` and syncfs against ACTIVE COPY until Copied; in turn, median (least-greatest) of "
        f"{p.reps} ratios; above 1 the drain is faster. Cold: the source is evicted from the "
        f"kernel's cache before.")

    def fill(path):
        os.mkdir(f"{path}/big")
        make_file(f"{path}/big/file", p.big)
        make_tree(f"{path}/many", p.many, 4096)
        syncfs(path)

    volume = work.volume("drained", fill)
    target = work.directory("cp")

    def evict():
        fd = os.open(volume.beneath("big/file"), os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)

    def warm():
        with open(volume.beneath("big/file"), "rb") as file:
            while file.read(MIB):
                pass

    def cp(source):
        begin = time.monotonic()
        run("cp", "-a", volume.beneath(source), f"{target}/copy")
        syncfs(target)
        seconds = time.monotonic() - begin
        shutil.rmtree(f"{target}/copy")
        syncfs(target)
        return seconds

    def drain(source):
        begin = time.monotonic()
        volume.control(f"copy e {source}")
        volume.wait("e")
        seconds = time.monotonic() - begin
        volume.discard("e")
        syncfs(target)
        return seconds

    for title, source, before, amount, unit in (
            (f"one file, {p.big // MIB} MiB", "big", warm, p.big / MIB, "MiB/s"),
            (f"one file, {p.big // MIB} MiB, cold", "big", evict, p.big / MIB, "MiB/s"),
            (f"{p.many:,} files of 4 KiB", "many", lambda: None, p.many, "files/s")):
        pairs = []
        progress(f"e: {title}")
        for n in range(p.reps):
            pair = {}
            for how in ((cp, drain) if n % 2 == 0 else (drain, cp)):
                before()
                pair[how.__name__] = amount / how(source)
            pairs.append(pair)
        ratios = [pair["drain"] / pair["cp"] for pair in pairs]
        table.add([title, unit, number(statistics.median(x["cp"] for x in pairs)),
                   number(statistics.median(x["drain"] for x in pairs)), spread(ratios)],
                  case=title, unit=unit, ratio=statistics.median(ratios), repetitions=pairs)
    work.remove(volume)
    shutil.rmtree(target)
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


PARTS = {"a": part_a, "b": part_b, "c": part_c, "d": part_d, "e": part_e, "f": part_f}
