"""What a run found: on the terminal, as JSON, and in docs/BENCHMARK.md with its pictures."""
import json
import os

import bench_plot
from bench_table import Table

BEGIN, END = "<!-- results of tools/bench: begin -->", "<!-- results of tools/bench: end -->"


def machine_line(result):
    facts = result["machine"]
    quick = " --quick" if result["quick"] else ""
    return (f"tools/bench{quick}, {result['time']} UTC: {facts['cpu']}, {facts['cores']} cores, "
            f"{facts['memory_gib']} GiB, Linux {facts['kernel']}, {facts['file_system']}, "
            f"load {facts['load_at_start']:.1f} at the start" +
            (f", {facts['load_at_end']:.1f} at the end" if "load_at_end" in facts else ""))


def picture_name(plot):
    return f"benchmark-{plot['name']}.svg"


def picture(result, table):
    plot = table.plot
    return bench_plot.draw(table.records, plot["systems"],
                           f"Speed as a ratio to the native directory, {plot['where']}",
                           machine_line(result))


def tables_of(result):
    return [Table.of_json(table) for table in result["tables"] if "missing" not in table]


def save(result, path):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
        file.write("\n")


def write_docs(result, page):
    """The results between the marks of PAGE, the pictures beside it."""
    with open(page, encoding="utf-8") as file:
        text = file.read()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    found = [BEGIN, "", "Machine and run: " + machine_line(result) + "."]
    for table in tables_of(result):
        found += ["", table.markdown()]
        if table.plot:
            name = picture_name(table.plot)
            found += ["", f"![{table.title}]({name})"]
            with open(os.path.join(os.path.dirname(page), name), "w", encoding="utf-8") as file:
                file.write(picture(result, table))
    for table in result["tables"]:
        if "missing" in table:
            found += ["", f"Part {table['part']}: {table['missing']}."]
    with open(page, "w", encoding="utf-8") as file:
        file.write(before + "\n".join(found) + "\n\n" + END + after)
