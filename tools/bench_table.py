"""Tables of results, and a line for who waits."""
import statistics
import sys
import time

BEGIN = time.monotonic()


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
        self.records = []  # the same for programs, with what was measured in each repetition
        self.plot = None   # how to draw it, if it can be drawn

    def add(self, texts, **record):
        self.rows.append([str(t) for t in texts])
        self.records.append(record)

    def missing(self, names, why):
        """NAMES: the first columns of the row."""
        self.rows.append(names + ["not measured"] + [""] * (len(self.columns) - len(names) - 1))
        if why not in self.why_missing:
            self.why_missing.append(why)
        self.records.append({"case": ": ".join(names), "missing": why})

    def as_json(self):
        return {"title": self.title, "columns": self.columns, "note": self.note, "plot": self.plot,
                "texts": self.rows, "rows": self.records, "why_missing": self.why_missing}

    @classmethod
    def of_json(cls, found):
        table = cls(found["title"], found["columns"], found["note"])
        table.rows, table.records = found["texts"], found["rows"]
        table.plot, table.why_missing = found["plot"], found["why_missing"]
        return table

    def markdown(self):
        width = [max(len(row[i]) for row in [self.columns] + self.rows)
                 for i in range(len(self.columns))]
        lines = [f"### {self.title}", ""]
        for row in (self.columns, ["-" * w for w in width], *self.rows):
            lines.append("| " + " | ".join(c.ljust(w) for c, w in zip(row, width)) + " |")
        lines += ["", self.note]
        if self.why_missing:
            lines += ["", "Not measured:"] + [f"- {why}" for why in self.why_missing]
        return "\n".join(lines)


def number(value):
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def spread(values):
    """Median, and the range where there is one."""
    text = number(statistics.median(values))
    return text if len(values) == 1 else f"{text} ({number(min(values))}-{number(max(values))})"
