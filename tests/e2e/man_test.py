#!/usr/bin/env python3
"""clonefs(5): each control file, each key of status.json, each word of an event, and nothing else."""
import os
import re

from volume import BIN, VolumeTest, main, run

TOP = os.environ.get("CLONEFS_SOURCE_DIR") or os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                                           "../..")


def words(lines):
    """Names at the beginning of an entry: "a, b" are two."""
    return {name for line in lines for name in re.findall(r"[\w./-]+", re.sub(r'^\.(?:BR|IR|B|I) ', "", line))}


class ControlDirectory(VolumeTest):
    def setUp(self):
        super().setUp()
        self.text = run(BIN, "generate", "man", os.path.join(TOP, "packaging/man/clonefs.5.in")).stdout

    def entries(self, begin, end):
        block = self.text.split(begin + "\n")[1].split(end)[0]
        return words(re.findall(r"^\.TP\n(.*)$", block, re.M))

    def test_keys_of_status_json(self):
        self.v.write("f", b"x")
        self.v.ctl("create c f")
        status = self.v.status_json()
        self.assertEqual(self.entries(".SS The volume", "\n.SS "), set(status))
        self.assertEqual(self.entries(".SS Each of sessions", "\n.SS "), set(status["sessions"][0]))
        latency = self.text.split(".SS Latencies\n")[1].split("\n.SH ")[0]
        for key in status["cofw_latency"]:
            self.assertRegex(latency, rf"\b{key}\b")

    def test_control_files(self):
        named = self.entries(".SH DESCRIPTION", "\n.SH ")
        for name in os.listdir(self.v.at(".clonefs")):
            self.assertTrue({name, name + "/"} & named, name)
        self.v.ctl("create c .")
        for name in os.listdir(self.v.at(".clonefs/sessions/c")):
            self.assertIn("/" + name, named)

    def test_words_of_events(self):
        with open(os.path.join(TOP, "engine/event.cc"), encoding="utf-8") as file:
            known = set(re.findall(r'case EventKind::\w+: return "(\w+)";', file.read()))
        self.assertGreater(len(known), 10)
        entry = self.text.split(".B event\n")[1].split(".TP")[0]
        self.assertEqual(set(re.findall(r"\w+", entry.split("They stay")[0])) - {"a", "word"}, known)
        with open(os.path.join(TOP, "fs/CONTROL.md"), encoding="utf-8") as file:
            row, = [line for line in file if line.startswith("| `events.json` |")]
        for word in known:
            self.assertIn(f"`{word}`", row)


if __name__ == "__main__":
    main()
