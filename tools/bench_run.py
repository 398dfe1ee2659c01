"""The command line of tools/bench: what to measure, the report. Use tools/bench, which builds first."""
import argparse
import json
import os
import platform
import signal
import sys
import time

import bench_parts
from bench_places import Missing, Workplace, run


def parse(words):
    parser = argparse.ArgumentParser(
        prog="tools/bench", description="Builds clonefs and measures it beside the native file "
        "system, cp, XFS reflinks and btrfs snapshots, in one run. docs/BENCHMARK.md tells more.",
        epilog="Parts: a activation, b rewritten tracks, c live mount, d live mount with a draining "
        "clone, e drain, f what durability costs a writer. Without root the peers in loop images are left out.")
    parser.add_argument("--quick", action="store_true", help="smaller, in less than two minutes")
    parser.add_argument("--only", metavar="a,c", default="a,b,c,d,e,f", help="these parts only")
    parser.add_argument("--json", metavar="FILE", help="all figures, each repetition, as JSON")
    parser.add_argument("--build", metavar="DIR", help="a build directory (default build/release)")
    parser.add_argument("--dir", metavar="DIR", default=os.environ.get("TMPDIR", "/var/tmp"),
                        help="where to work: some GiB are needed (default TMPDIR or /var/tmp)")
    parser.add_argument("--on", metavar="KIND", choices=("ext4", "xfs", "btrfs"),
                        help="work on a new file system of this kind, in an image in DIR (root)")
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    options.parts = [part.strip() for part in options.only.split(",")]
    for part in options.parts:
        if part not in bench_parts.PARTS:
            parser.error(f"there is no part '{part}'; parts are {', '.join(bench_parts.PARTS)}")
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


def main():
    options = parse(sys.argv[1:])
    if options.check:
        return 0
    build = os.path.abspath(options.build or "build/release")
    for program in ("clonefs", "clonefs-bench"):
        if not os.access(f"{build}/{program}", os.X_OK):
            sys.exit(f"tools/bench: {build}/{program} is not there; build it first")
    # As an exception, so that everything is cleaned up.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(128 + number))

    facts = machine(options.dir)
    if options.on:
        facts["file_system"] = f"{options.on} in an image on {facts['file_system']}"
    p = bench_parts.Parameters(options.quick)
    print(f"clonefs benchmark{' (quick)' if options.quick else ''}, "
          f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC: {facts['cpu']}, "
          f"{facts['cores']} cores, {facts['memory_gib']} GiB, Linux {facts['kernel']}, "
          f"{facts['file_system']}, load {facts['load_at_start']:.1f} at the start")
    result = {"quick": options.quick, "machine": facts, "tables": []}
    failed = False
    begin = time.monotonic()
    with Workplace(options.dir, build, options.on) as work:
        for part in options.parts:
            at = time.monotonic()
            try:
                tables = bench_parts.PARTS[part](work, p)
            except Missing as e:
                print(f"\npart {part}: {e}", file=sys.stderr, flush=True)
                result["tables"].append({"part": part, "missing": str(e)})
                failed = True
                continue
            bench_parts.progress()
            for table in tables:
                print("\n" + table.markdown(), flush=True)
                result["tables"].append({"part": part, "title": table.title, "note": table.note,
                                         "rows": table.records})
            print(f"\n({time.monotonic() - at:.0f} s)", flush=True)
    facts["load_at_end"] = os.getloadavg()[0]
    print(f"\nload {facts['load_at_end']:.1f} at the end, {time.monotonic() - begin:.0f} s in all")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
            file.write("\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
