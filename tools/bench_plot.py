"""The comparison of part c as a picture: one bar for each system in each row, its length the ratio to
the native directory. Plain SVG, nothing else is needed to see it."""
from xml.sax.saxutils import escape

from bench_aims import DATA, METADATA
from bench_systems import CLONE, CLONEFS, OVERLAYFS, URING

COLORS = {CLONEFS: "#d1495b", URING: "#7b1e3a", CLONE: "#edae49", "bindfs": "#9fb7c6",
          "fuse-overlayfs": "#66a182", "mergerfs": "#4a7ba6", OVERLAYFS: "#c9c9c9"}
OURS_HEIGHT, HEIGHT, GAP = 8, 5, 9
LEFT, WIDTH, RIGHT = 250, 620, 70
MOST = 1.5  # a longer bar is cut, and says how long it is
TOP = 88


class Picture:
    def __init__(self):
        self.parts = []

    def text(self, x, y, words, size=11, anchor="start", color="#222", weight="normal"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" '
                          f'text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>')

    def bar(self, x, y, width, height, color, title):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" '
                          f'height="{height}" fill="{color}"><title>{escape(title)}</title></rect>')

    def line(self, x, top, bottom, color, width=1.0, dash=""):
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" '
                          f'stroke="{color}" stroke-width="{width}"{dashes}/>')

    def svg(self, width, height):
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="0 0 {width} {height}" font-family="DejaVu Sans, Verdana, sans-serif">\n'
                f'<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(self.parts) +
                "\n</svg>\n")


def x_of(ratio):
    return LEFT + WIDTH * min(ratio, MOST) / MOST


def draw(records, systems, title, subtitle):
    """RECORDS: those of part c. An SVG document."""
    bars, over = Picture(), Picture()
    y = TOP
    groups = [(kind, [r for r in records if r.get("kind") == kind and not r.get("geomean")])
              for kind in (DATA, METADATA)]
    groups.append(("geomeans", [r for r in records if r.get("geomean")]))
    for name, rows in groups:
        if not rows:
            continue
        bars.text(16, y + 14, name, 13, weight="bold")
        y += 24
        for record in rows:
            top = y
            for system in systems:
                ratio = record["ratios"].get(system)
                if ratio is None:
                    continue
                height = OURS_HEIGHT if system in (CLONEFS, URING) else HEIGHT
                bars.bar(LEFT, y, x_of(ratio) - LEFT, height, COLORS[system],
                         f"{record['case']}, {system}: {ratio:.2f}")
                if ratio > MOST:
                    over.text(x_of(MOST) + 4, y + height, f"{ratio:.1f}", 8)
                y += height + 1
            label = record["case"] + (" *" if record.get("below_aim") else "")
            bars.text(LEFT - 8, (top + y) / 2 + 4, label, 11, "end",
                      "#b00020" if record.get("below_aim") else "#222")
            if record.get("aim"):
                over.line(x_of(record["aim"]), top - 2, y + 1, "#111", 2)
            y += GAP
        y += 8
    grid = Picture()
    for tenth in range(0, int(MOST * 10) + 1):
        ratio = tenth / 10
        if tenth % 5 and tenth != 10:
            grid.line(x_of(ratio), TOP - 4, y, "#eee")
        else:
            grid.line(x_of(ratio), TOP - 4, y, "#888" if tenth == 10 else "#ccc",
                      1.2 if tenth == 10 else 1)
            grid.text(x_of(ratio), TOP - 8, f"{ratio:g}", 10, "middle", "#555")
    grid.text(16, 22, title, 15, weight="bold")
    grid.text(16, 40, subtitle, 10, color="#555")
    x = 16
    for system in systems:
        grid.bar(x, 50, 10, 10, COLORS[system], system)
        grid.text(x + 14, 59, system, 10)
        x += 26 + 6.4 * len(system)
    grid.line(x + 4, 49, 61, "#111", 2)
    grid.text(x + 10, 59, "aim;  * below it", 10)
    grid.parts += bars.parts + over.parts
    return grid.svg(LEFT + WIDTH + RIGHT, int(y) + 10)
