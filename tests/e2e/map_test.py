#!/usr/bin/env python3
"""clonefs map and clonefs report: what they show is what is, in text, SVG and HTML, whatever the names."""
import html.parser
import json
import os
import shutil
import subprocess
import unittest
import xml.etree.ElementTree as ET

from volume import Refused, VolumeTest, main, wait_for
from watch_test import COLOR, ESCAPE, OnTerminal

KIB = 1 << 10
MIB = 1 << 20
STATES = ("drained", "precopied", "rewritten", "waiting", "outside")
SVG = "{http://www.w3.org/2000/svg}"


class Page(html.parser.HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


class Map(VolumeTest):
    def stalled(self):
        """A session with tracks in every state but drained."""
        v = self.v
        v.write("big", os.urandom(4 * MIB))
        with open(v.at("sparse"), "wb") as file:
            file.truncate(2 * MIB)
        v.cli("create", "c", ".")
        v.cli("precopy", "c")
        v.wait("c", "precopied")
        v.cli("rate", "c", "1")
        with open(v.at("big"), "r+b") as file:
            file.seek(MIB)
            file.write(b"x" * (512 * KIB))
            os.fsync(file.fileno())
        wait_for(lambda: self.totals()["rewritten"] > 0, "tracks that are rewritten")

    def totals(self, *words):
        return json.loads(self.v.cli("map", "c", "--json", *words))["totals"]

    def unchanged(self, look):
        """LOOK() and the totals while it looked: the next pass still copies one piece."""
        def once():
            before, seen = self.totals(), look()
            return (seen, before) if before == self.totals() else None
        return wait_for(once, "a look between two pieces")

    def test_counts(self):
        self.stalled()
        (answer, status), totals = self.unchanged(lambda: (
            json.loads(self.v.cli("map", "c", "--json", "--cells", "10")), self.v.status("c")))
        self.assertEqual(answer["totals"], totals)
        self.assertEqual(sum(totals.values()), answer["tracks"])
        self.assertEqual((answer["tracks"], totals["outside"]), (96, 32))
        self.assertLessEqual(len(answer["cells"]), 10)
        for key, column in zip(answer["cell_keys"], zip(*answer["cells"])):
            self.assertEqual(sum(column), totals[key], key)
        self.assertEqual(totals["precopied"], status["tracks_precopied"])
        self.assertEqual([s["state"] for s in answer["samples"]][0], "Created")
        self.v.cli("activate", "c")
        self.v.drain("c")
        self.assertEqual(self.totals(), dict.fromkeys(STATES, 0) | {"drained": 64, "outside": 32})

    def test_text(self):
        self.stalled()
        (text, control), totals = self.unchanged(lambda: (self.v.cli("map", "c"), self.v.ctl("map c")))
        self.assertTrue(text.startswith("c: 96 tracks of 64.0 KiB, 1 a cell\n|"), text)
        cells = "".join(line.strip("|") for line in text.splitlines() if line.startswith("|"))
        self.assertEqual((cells.count("!"), cells.count(" ")), (totals["rewritten"], 32))
        self.assertIn("! rewritten", text)
        self.assertNotIn("drained", text)
        self.assertEqual(control, text)

    def test_terminals(self):
        self.stalled()
        for columns, utf8 in ((100, True), (40, True), (40, False), (12, False)):
            with self.subTest(columns=columns, utf8=utf8):
                terminal = OnTerminal(self.v, "map", "c", columns=columns, rows=12,
                                      LC_ALL="C.UTF-8" if utf8 else "C")
                self.assertEqual(terminal.end(), 0)
                lines = ESCAPE.sub("", terminal.text).splitlines()
                self.assertLess(max(map(len, lines)), columns)
                self.assertLess(len(lines), 12)
                self.assertIn("\u259e" if utf8 else "!", terminal.text)
                self.assertRegex(terminal.text, COLOR)
        terminal = OnTerminal(self.v, "map", "c", NO_COLOR="1")
        terminal.end()
        self.assertNotIn("\x1b", terminal.text)

    def test_watch(self):
        self.stalled()
        self.v.cli("activate", "c")
        terminal = OnTerminal(self.v, "map", "c", "--watch")
        wait_for(lambda: len(terminal.frames()) > 1, "it was drawn twice")
        self.v.ctl("rate c max")
        self.assertEqual(terminal.end(), 0)
        self.assertIn("c CopyInProgress", terminal.frames()[0][0])
        self.assertIn("c Copied", terminal.frames()[-1][0])
        self.assertIn("drained 64", terminal.frames()[-1][-1])

    def test_svg(self):
        self.stalled()
        path = os.path.join(self.v.base, "map.svg")
        self.assertEqual(self.v.cli("map", "c", "--svg", path), path + "\n")
        root = ET.parse(path).getroot()
        self.assertEqual(root.tag, SVG + "svg")
        classes = {rect.get("class") for rect in root.iter(SVG + "rect")}
        self.assertLessEqual({"precopied", "rewritten", "outside"}, classes)
        titles = [title.text for title in root.iter(SVG + "title")]
        self.assertIn("c: 96 tracks of 64.0 KiB, Precopy", titles)
        self.assertTrue(any(t.startswith("tracks 64 to 95: 32 outside") for t in titles), titles)
        self.assertEqual([n for n in os.listdir(self.v.base) if n.startswith("map.svg.")], [])

    def test_refused(self):
        self.v.write("f", b"")
        self.v.cli("copy", "c", "f")
        self.v.wait("c")
        for words, code in ((("map", "none"), 1), (("map", "c", "--cells", "0"), 2),
                            (("map", "c", "--svg", "/nowhere/x"), 1), (("report", "c"), 2),
                            (("report", "none", "--html", "/tmp/x"), 1),
                            (("report", "c", "--html", "/nowhere/x"), 1)):
            with self.assertRaises(Refused) as caught:
                self.v.cli(*words)
            self.assertEqual(caught.exception.code, code, words)
        self.v.cli("terminate", "c")
        with self.assertRaises(Refused) as caught:
            self.v.cli("map", "c")
        self.assertIn("terminated", caught.exception.text)


class Report(VolumeTest):
    def report(self, name="c"):
        path = os.path.join(self.v.base, f"{name}.html")
        self.v.cli("report", name, "--html", path)
        with open(path, encoding="utf-8") as file:
            return path, file.read()

    def test_page(self):
        v = self.v
        v.write("f", os.urandom(MIB))
        v.cli("copy", "c", "f", "--pace", "1")
        with open(v.at("f"), "r+b") as file:
            file.seek(MIB - 100)
            file.write(b"now")
            os.fsync(file.fileno())
        _, text = self.report()
        page = Page(text)
        for word in ("CopyInProgress", "tracks that wait", "waiting", "tracks_pending"):
            self.assertIn(word, page.text)
        for key, value in page.attributes:
            self.assertFalse(key.startswith("on") or key in ("src", "href"), (key, value))
        self.assertNotRegex(text.replace("http://www.w3.org/2000/svg", ""), "https?:|@import|url\\(")
        v.drain("c")
        v.cli("terminate", "c")
        self.assertIn("Terminated", Page(self.report()[1]).text)

    def test_odd_names(self):
        odd = b"<script>document.title='x'</script>\n&\"' \xff"
        directory = os.fsencode(self.v.path) + b"/" + odd.replace(b"/", b"|")
        os.mkdir(directory)
        with open(directory + b"/f", "wb") as file:
            file.write(b"x" * 100000)
        self.v.cli("copy", "c", directory)
        self.v.wait("c")
        path, text = self.report()
        page = Page(text)
        self.assertNotIn("script", page.tags)
        self.assertIn("<script>document.title='x'<|script>\ufffd&\"' \ufffd", page.text)
        return path

    @unittest.skipUnless(shutil.which("chromium"), "chromium is not installed")
    def test_in_a_browser(self):
        path = self.test_odd_names()
        def browser(*words):
            return subprocess.run(["chromium", "--headless=new", "--no-sandbox", "--disable-gpu",
                                   f"--user-data-dir={self.v.base}/browser", *words, "file://" + path],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, timeout=120, check=True)
        page = Page(browser("--dump-dom").stdout.decode())
        self.assertNotIn("script", page.tags)
        self.assertIn("clonefs: c", page.text)
        shot = os.path.join(self.v.base, "shot.png")
        browser(f"--screenshot={shot}", "--window-size=400,900")
        self.assertGreater(os.path.getsize(shot), 10000)


if __name__ == "__main__":
    main()
