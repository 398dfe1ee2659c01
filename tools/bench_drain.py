"""Part e: the copy program."""
import os
import shutil
import statistics
import time

from bench_places import MIB, make_file, make_tree, run, syncfs
from bench_table import Table, number, progress, spread


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
