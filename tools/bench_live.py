"""Parts c and d: the live mount, without and with a clone, against the native directory and peers."""
import statistics
import time

import bench_systems
from bench_aims import AHEAD, CLONE_AIM, DATA, GEOMEANS, METADATA, ROWS, geomean
from bench_places import Missing, Writer, io_case, io_cases, make_file, make_tree, syncfs, wait_for
from bench_systems import CLONE, CLONEFS, FUSE_PEERS, NATIVE, OURS, OVERLAYFS
from bench_table import Table, number, progress, spread
from bench_tools import CASES as TOOL_CASES, Tree


class LiveCase:
    """RUN(system): rows, as clonefs-bench io gives them."""

    def __init__(self, name, run, only_reads):
        self.name = name
        self.run = run
        self.only_reads = only_reads


def live_cases(work, p, tree=None):
    cases = [LiveCase(name, lambda system, name=name: io_case(
        work, name, system.path, system.beneath, p.seconds, p.files),
        name in ROWS and ROWS[name].read) for name in io_cases(work)]
    if tree:
        cases += [LiveCase(case.name, lambda system, case=case: case(system, tree, p),
                           case.only_reads) for case in TOOL_CASES]
    return [case for case in cases if p.cases in case.name]


def fill(p, tree=None, ballast=0):
    def filler(path):
        if ballast:  # first: the copy program takes it first
            make_file(f"{path}/ballast", ballast)
        make_file(f"{path}/data", p.data)
        make_tree(f"{path}/many", p.files, 2048)
        if tree:
            tree.copy(path)
        syncfs(path)
    return filler


class Comparison:
    """What each system reached in each row, and why not."""

    def __init__(self, systems):
        self.names = [s.name for s in systems]
        self.systems = systems
        self.rows = {}     # row -> [{system: what clonefs-bench says}], one a repetition
        self.missing = {}  # (row, system) -> why

    def measure(self, case, n):
        """Repetition N: each system once, another one first each time."""
        found = {}
        turn = n % len(self.systems)
        for system in self.systems[turn:] + self.systems[:turn]:
            if system.only_reads and not case.only_reads:
                continue
            try:
                rows = case.run(system)
            except Missing as e:
                rows = [{"case": case.name, "missing": str(e)}]
            for row in rows:
                if "missing" in row:
                    self.missing[row["case"], system.name] = row["missing"]
                    self.rows.setdefault(row["case"], [])
                else:
                    found.setdefault(row["case"], {})[system.name] = row
        for row, by_system in found.items():
            self.rows.setdefault(row, []).append(by_system)

    def values(self, row, name, key="value"):
        return [found[name][key] for found in self.rows[row] if key in found.get(name, {})]

    def ratios(self, row, name):
        return [found[name]["value"] / found[NATIVE]["value"] for found in self.rows[row]
                if name in found and NATIVE in found]

    def ratio(self, row, name):
        ratios = self.ratios(row, name)
        return statistics.median(ratios) if ratios else None


def mount_all(work, p, names, filler):
    """The systems of NAMES that can be had, and why others can't."""
    systems, missing = [], {}
    for name in names:
        progress(f"c: making {name}")
        try:
            systems.append(bench_systems.mount(work, name, filler, p.uring))
        except Missing as e:
            if name == NATIVE:
                raise
            missing[name] = str(e)
    return systems, missing


# --- c: without a session

def remark(comparison, row, aim):
    """What the last column says, and the same for programs."""
    ours = [r for r in (comparison.ratio(row, name) for name in OURS) if r is not None]
    below = aim is not None and bool(ours) and max(ours) < aim
    ahead = [name for name in FUSE_PEERS if ours and
             (comparison.ratio(row, name) or 0) > AHEAD * max(ours)]
    clone = comparison.ratio(row, CLONE)
    clone_below = clone is not None and clone < CLONE_AIM
    why = ROWS[row].why
    words = ([f"below {aim:.2g}"] if below else []) + [f"{name} ahead" for name in ahead] + \
        (["clone below"] if clone_below else [])
    return (f"{', '.join(words)} ({why})" if words else ""), below, ahead, clone_below


def add_row(table, comparison, row, place):
    names = comparison.names[1:]
    aim = ROWS[row].aim[place]
    if not comparison.values(row, NATIVE):
        table.missing([row], comparison.missing.get((row, NATIVE), "no value"))
        return
    text, below, ahead, clone_below = remark(comparison, row, aim)
    cells = []
    for name in names:
        ratio = comparison.ratio(row, name)
        if ratio is not None:
            worse = (name in OURS and aim is not None and ratio < aim) or \
                (name == CLONE and ratio < CLONE_AIM)
            cells.append(f"{ratio:.2f}{'*' if worse else ''}")
        else:
            why = comparison.missing.get((row, name))
            cells.append("-" if why else "")
            if why:
                table.why_missing.append(f"{name}, {row}: {why}")
    unit = next(iter(comparison.rows[row][0].values()))["unit"]
    table.add([row, number(statistics.median(comparison.values(row, NATIVE))), unit, *cells,
               f"{aim:.2g}" if aim else "", text],
              case=row, kind=ROWS[row].kind, unit=unit, aim=aim, below_aim=below, ahead=ahead,
              clone_below_aim=clone_below,
              ratios={name: comparison.ratio(row, name) for name in names},
              spread={name: comparison.ratios(row, name) for name in names},
              native=comparison.values(row, NATIVE),
              p50_us={name: statistics.median(comparison.values(row, name, "p50_us"))
                      for name in comparison.names if comparison.values(row, name, "p50_us")})


def add_geomeans(table, comparison, place):
    for kind in (DATA, METADATA):
        rows = [row for row in comparison.rows if ROWS[row].kind == kind]
        means = {name: geomean(r for r in (comparison.ratio(row, name) for row in rows) if r)
                 for name in comparison.names[1:]}
        aim = GEOMEANS[kind][place]
        ours = [means[name] for name in OURS if means.get(name)]
        below = aim is not None and bool(ours) and max(ours) < aim
        cells = [f"{means[name]:.2f}" + ("*" if name in OURS and aim and means[name] < aim else "")
                 if means[name] else "" for name in comparison.names[1:]]
        table.add([f"geomean, {kind}", "", "", *cells, f"{aim:.2g}" if aim else "",
                   f"below {aim:.2g}" if below else ""],
                  case=f"geomean, {kind}", kind=kind, geomean=True, ratios=means, aim=aim,
                  below_aim=below)


def part_c(work, p):
    tree = Tree(work, p.tree)
    systems, missing = mount_all(work, p, p.systems, fill(p, tree))
    comparison = Comparison(systems)
    for case in live_cases(work, p, tree):
        progress(f"c: {case.name}")
        for n in range(p.reps):
            comparison.measure(case, n)
    where = {"disk": "on a disk", "memory": "in memory"}[work.place]
    table = Table(
        f"c. Live mount without a session against the native directory, {where}",
        ["case", "native", "unit", *comparison.names[1:], "aim", "remark"],
        f"File of {p.data >> 20} MiB, {p.files} small files, a tree of {p.tree} files; all systems in "
        f"turn in one run, median of {p.reps} ratios to the native directory in the same turn; above "
        f"1 is faster. *: below its aim. A peer is ahead by more than {AHEAD - 1:.0%} of the better "
        f"clonefs. In brackets: where the time goes, see below. {CLONE}: drained and terminated, read "
        f"through passthrough, aim {CLONE_AIM} everywhere. {OVERLAYFS} is no FUSE file system: for "
        "orientation; the geomeans of a column are of the rows that it has.")
    table.why_missing += missing.values()
    for kind in (DATA, METADATA):
        for row in comparison.rows:
            if ROWS[row].kind == kind:
                add_row(table, comparison, row, work.place)
    add_geomeans(table, comparison, work.place)
    table.plot = {"systems": comparison.names[1:], "where": where, "name": work.place}
    for system in reversed(systems):
        system.remove(work)
    return [table]


# --- d: with a clone

def part_d(work, p):
    filler = fill(p)
    native = bench_systems.mount(work, NATIVE, filler, False)
    volume = work.volume("drained-live", fill(p, ballast=p.ballast))
    live = bench_systems.System(CLONEFS, volume.path, volume.beneath(), thing=volume)
    table = Table(
        "d. Live mount with an active, draining clone of the whole volume against the native directory",
        ["case", "unit", "native", "clonefs", "clonefs / native", "p50 native / clonefs (us)"],
        f"As c, median (least-greatest) of {p.reps} ratios; before each measurement the volume is "
        f"cloned (ACTIVE COPY), and drained at 64 MiB/s meanwhile, so the first write to each track "
        f"of the file copies it first.")
    comparison = Comparison([native, live])
    for case in live_cases(work, p):
        progress(f"d: {case.name}")
        for n in range(p.reps):
            try:
                volume.control("copy draining .")
                volume.control("rate draining 64M")
                comparison.measure(case, n)
            finally:
                volume.discard("draining")
    for row in comparison.rows:
        ratios = comparison.ratios(row, CLONEFS)
        if not ratios:
            table.missing([row], comparison.missing.get((row, CLONEFS)) or
                          comparison.missing[row, NATIVE])
            continue
        unit = comparison.rows[row][0][NATIVE]["unit"]
        table.add([row, unit, *(number(statistics.median(comparison.values(row, name)))
                                for name in comparison.names), spread(ratios),
                   " / ".join(number(statistics.median(comparison.values(row, name, "p50_us")))
                              for name in comparison.names)],
                  case=row, unit=unit, ratio=statistics.median(ratios),
                  repetitions=comparison.rows[row])
    beside = part_d_foreground(work, p, volume)
    live.remove(work)
    native.remove(work)
    return [table, beside]


# What a foreground writer meets: its aim as a ratio of its p99 to that without a clone.
PHASES = {"precopy": 1.1, "draining clone": 1.5, "draining clone, precopied": 1.1}


def part_d_foreground(work, p, volume):
    modes = ("buffered", "durable")
    table = Table(
        "d. A writer beside the copy program: p99 with a clone / without",
        ["session", "aim", *(f"{mode}: {text}" for mode in modes
                             for text in ("p99 without, with (us)", "ratio"))],
        f"One writer at a time, 2000 writes of 4 KiB a second anywhere in a file of "
        f"{p.data >> 20} MiB (durable: each with fdatasync), {p.rewrite_s} s before the session and "
        f"as long with it, or until it is drained; median (least-greatest) of {p.reps}.")
    found = {(phase, mode): [] for phase in PHASES for mode in modes}
    for n in range(p.reps):
        for phase in PHASES:
            progress(f"d: writer beside: {phase}")
            for mode in modes:
                found[phase, mode].append(beside(work, p, volume, phase, mode, f"d{n}"))
    for phase, aim in PHASES.items():
        cells, records = [], {}
        for mode in modes:
            pairs = found[phase, mode]
            ratios = [b / a for a, b in pairs]
            worse = statistics.median(ratios) > aim
            cells += [", ".join(number(statistics.median(side)) for side in zip(*pairs)),
                      spread(ratios) + ("*" if worse else "")]
            records[mode] = {"ratio": statistics.median(ratios), "p99_us": pairs}
        table.add([phase, f"{aim:g}", *cells], case=phase, aim=aim, **records)
    return table


def mostly_precopied(status):
    return status["tracks_pending"] * 20 <= status["tracks_total"]


def beside(work, p, volume, phase, mode, name):
    """p99 in us before the session and with it."""
    precopied = phase == "draining clone, precopied"
    writer = Writer(work, [f"{volume.path}/data"], [mode])
    try:
        begin = time.monotonic_ns()
        time.sleep(p.rewrite_s)
        writer.window("before", begin, time.monotonic_ns())
        if precopied:
            volume.control(f"create {name} . --precopy")
            # Under a writer there is always some track left: `precopied` may never come.
            wait_for(lambda: mostly_precopied(volume.status(name)), "precopy", timeout=60)
            begin, _ = volume.control(f"activate {name}")
        elif phase == "precopy":
            begin, _ = volume.control(f"create {name} . --precopy")
        else:
            begin, _ = volume.control(f"copy {name} .")
        end = time.monotonic() + p.rewrite_s
        while time.monotonic() < end and volume.status(name)["state"] != "Copied":
            time.sleep(0.05)
        writer.window("with", begin, time.monotonic_ns())
        times = writer.end()[mode]
        return times["before"]["p99_us"], times["with"]["p99_us"]
    finally:
        writer.stop()
        volume.discard(name)
