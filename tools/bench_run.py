"""The command line of tools/bench, and what is run. Use tools/bench, which builds first."""
import argparse
import json
import os
import platform
import signal
import sys
import time

import bench_parts
import bench_report
from bench_places import Missing, Workplace, run
from bench_systems import ALL, CLONE, NATIVE, URING
from bench_table import progress

MEMORY = "/dev/shm"
# As words on the command line.
NAMES = {{URING: "uring", CLONE: "clone"}.get(name, name): name for name in ALL if name != NATIVE}


def parse(words):
    parser = argparse.ArgumentParser(
        prog="tools/bench", description="Builds clonefs and measures it beside the native file "
        "system, other FUSE file systems, cp, XFS reflinks and btrfs snapshots, in one run. "
        "docs/BENCHMARK.md tells more.",
        epilog="Parts: a activation, b rewritten tracks, c live mount, d live mount with a draining "
        "clone, e drain, f what durability costs a writer, requests: requests to the daemon for an "
        "operation. Without root what must be mounted for the comparison is left out.")
    parser.add_argument("--quick", action="store_true", help="smaller, each loop shorter")
    parser.add_argument("--only", metavar="a,c", default=",".join(bench_parts.PARTS),
                        help="these parts only")
    parser.add_argument("--json", metavar="FILE", help="all figures, each repetition, as JSON")
    parser.add_argument("--docs", metavar="FILE", help="put the results and their pictures into this "
                        "page, docs/BENCHMARK.md")
    parser.add_argument("--render", metavar="FILE", help="measure nothing: the results are those in "
                        "this file, which --json made")
    parser.add_argument("--build", metavar="DIR", help="a build directory (default build/release)")
    parser.add_argument("--dir", metavar="DIR", default=os.environ.get("TMPDIR", "/var/tmp"),
                        help="where to work: some GiB are needed (default TMPDIR or /var/tmp)")
    parser.add_argument("--on", metavar="KIND", choices=("ext4", "xfs", "btrfs"),
                        help="work on a new file system of this kind, in an image in DIR (root)")
    parser.add_argument("--in", dest="places", metavar="disk,memory", default="disk",
                        help="part c in each of these, the others in the first; memory: an image in "
                        f"{MEMORY}, needs --on (default disk)")
    parser.add_argument("--systems", metavar="NAME,...", default="all",
                        help=f"of part c, beside native: {', '.join(NAMES)} (default all)")
    parser.add_argument("--cases", metavar="TEXT", default="",
                        help="of parts c and d, the cases with this in their name only")
    parser.add_argument("--uring", action="store_true",
                        help="also clonefs over io_uring: sets the kernel's parameter for FUSE while "
                        "that is mounted (root)")
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(words)

    def chosen(name, text, known):
        found = [word.strip() for word in text.split(",")]
        for word in found:
            if word not in known:
                parser.error(f"there is no {name} '{word}'; there are {', '.join(known)}")
        return found
    options.parts = chosen("part", options.only, list(bench_parts.PARTS))
    options.places = chosen("place", options.places, ["disk", "memory"])
    if "memory" in options.places and not options.on:
        parser.error("--in memory needs --on")
    names = list(NAMES) if options.systems == "all" else chosen("system", options.systems,
                                                                list(NAMES))
    options.systems = [NATIVE] + [NAMES[name] for name in NAMES if name in names]
    if not options.uring:
        options.systems = [name for name in options.systems if name != URING]
    if not os.path.isdir(options.dir):
        parser.error(f"{options.dir} is not a directory")
    return options


def machine(directory):
    cpu = platform.processor()
    memory = 0
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("MemTotal"):
                memory = int(line.split()[1]) / (1 << 20)
    try:
        kind = run("findmnt", "-n", "-o", "FSTYPE", "-T", directory).strip()
    except Missing:
        kind = "unknown"
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory, 1),
            "kernel": platform.release(), "file_system": kind,
            "load_at_start": os.getloadavg()[0]}


def measure(options, build):
    facts = machine(options.dir)
    if options.on:
        facts["file_system"] = f"{options.on} in an image on {facts['file_system']}"
        if "memory" in options.places:
            facts["file_system"] += " and in one in memory" if "disk" in options.places else ""
    p = bench_parts.Parameters(options.quick, options.systems, options.uring,
                               options.cases)
    result = {"quick": options.quick, "time": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
              "machine": facts, "tables": []}
    print("clonefs: " + bench_report.machine_line(result))
    begin = time.monotonic()
    for place in options.places:
        parts = [part for part in options.parts if part == "c" or place == options.places[0]]
        if not parts:
            continue
        with Workplace(options.dir if place == "disk" else MEMORY, build, options.on, place) as work:
            for part in parts:
                at = time.monotonic()
                try:
                    tables = bench_parts.PARTS[part](work, p)
                except (Missing, OSError) as e:  # the other parts are worth having
                    print(f"\npart {part}: {e}", file=sys.stderr, flush=True)
                    result["tables"].append({"part": part, "missing": str(e)})
                    continue
                progress()
                for table in tables:
                    print("\n" + table.markdown(), flush=True)
                    result["tables"].append({"part": part, **table.as_json()})
                print(f"\n({time.monotonic() - at:.0f} s)", flush=True)
    facts["load_at_end"] = os.getloadavg()[0]
    print(f"\nload {facts['load_at_end']:.1f} at the end, {time.monotonic() - begin:.0f} s in all")
    return result


def main():
    options = parse(sys.argv[1:])
    if options.check:
        return 0
    # As an exception, so that everything is cleaned up.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(128 + number))
    if options.render:
        with open(options.render, encoding="utf-8") as file:
            result = json.load(file)
        for table in bench_report.tables_of(result):
            print("\n" + table.markdown())
    else:
        build = os.path.abspath(options.build or "build/release")
        for program in ("clonefs", "clonefs-bench"):
            if not os.access(f"{build}/{program}", os.X_OK):
                sys.exit(f"tools/bench: {build}/{program} is not there; build it first")
        result = measure(options, build)
    if options.json:
        bench_report.save(result, options.json)
    if options.docs:
        bench_report.write_docs(result, options.docs)
    return 1 if any("missing" in table for table in result["tables"]) else 0


if __name__ == "__main__":
    sys.exit(main())
