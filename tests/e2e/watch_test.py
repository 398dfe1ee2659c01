#!/usr/bin/env python3
"""What is shown on terminals of all kinds: status --watch, and lines that are too long for them."""
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading

from volume import BIN, VolumeTest, main, wait_for

COLOR = re.compile(r"\x1b\[[0-9;]*m")
ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class OnTerminal:
    """A command with a terminal of its own."""

    def __init__(self, v, *words, columns=80, rows=24, **env):
        self.pty, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = dict(os.environ, CLONEFS_MOUNT=v.path, TERM="xterm")
        environment.pop("NO_COLOR", None)
        environment.update(env)
        self.child = subprocess.Popen([BIN, *words], stdin=other, stdout=other, stderr=other,
                                      env=environment, start_new_session=True)
        os.close(other)
        self.text = ""
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        try:
            while part := os.read(self.pty, 65536):
                self.text += part.decode()
        except OSError:  # the other end is closed
            pass

    def end(self):
        code = self.child.wait(timeout=30)
        self.reader.join()
        os.close(self.pty)
        return code

    def frames(self):
        """What was drawn each time: lists of lines, without escapes."""
        frames = re.split(r"\x1b\[\d+A\r", self.text.replace("\r\n", "\n"))
        return [ESCAPE.sub("", frame).splitlines() for frame in frames]


class Narrow(VolumeTest):
    """What is no drawing: lines that are too long are parted between words."""

    def shown(self, *words, columns):
        terminal = OnTerminal(self.v, *words, columns=columns)
        terminal.end()
        return terminal.text.replace("\r\n", "\n")

    def test_widths(self):
        self.v.write("big", b"x" * (4 << 20))
        self.v.ctl("copy a-session-with-a-long-name big")
        self.v.ctl("create other big")
        self.v.wait("a-session-with-a-long-name")
        plan = os.path.join(self.v.base, "p")
        with open(plan, "w", encoding="utf-8") as file:
            file.write("".join(f'[[clone]]\nname = "clone{n}"\npaths = ["big"]\n' for n in range(9)))
        for words, too_long in ((("status",), 0), (("list",), 0), (("doctor",), 1), (("plan", plan), 1),
                                (("status", "other"), 1)):
            wide = self.shown(*words, columns=500)
            for columns in (200, 80, 40):
                with self.subTest(words=words, columns=columns):
                    text = self.shown(*words, columns=columns)
                    for line in text.splitlines():
                        # A word that is longer stays whole.
                        self.assertTrue(len(line) < columns or too_long and max(map(len, line.split())) > 20, line)
                    # (doctor looks at the volumes of other tests as well: they come and go.)
                    if words[0] not in ("status", "list", "doctor") or words[1:]:
                        self.assertEqual(text.split(), wide.split())
        self.assertRegex(self.shown("status", columns=40),
                         r"a-session-with-a-long-name  Copied\n  OPERATION .*DONE 100%.*\n(  .*\n)*"
                         r"other  Created(  [^\n]*)?\n(  .*\n)*pool: ")


class Watch(VolumeTest):
    def setUp(self):
        super().setUp()
        self.v.write("big", b"x" * (4 << 20))

    def watch_stalled(self, **options):
        self.v.ctl("copy a-session-with-a-long-name big --pace 1")
        terminal = OnTerminal(self.v, "status", "--watch", **options)
        try:
            wait_for(lambda: len(terminal.frames()) > 1, "it was drawn twice")
            self.v.ctl("rate a-session-with-a-long-name max")
            self.assertEqual(terminal.end(), 0)
        finally:
            terminal.child.kill()
        self.v.ctl("delete a-session-with-a-long-name --force")
        return terminal

    def test_widths(self):
        for columns in (200, 80, 60, 40, 20, 8):
            with self.subTest(columns=columns):
                terminal = self.watch_stalled(columns=columns)
                for frame in terminal.frames():
                    for line in frame:
                        self.assertLess(len(line), columns, line)
                last = "\n".join(terminal.frames()[-1])
                self.assertIn("100%", last)
                if columns >= 40:
                    self.assertRegex(last, r"\[#+\]")
                    self.assertIn("4.0 MiB of 4.0 MiB", last)
                    self.assertRegex(terminal.text, COLOR)

    def test_no_color(self):
        terminal = self.watch_stalled(NO_COLOR="1")
        self.assertNotRegex(terminal.text, COLOR)
        self.assertIn("\x1b[1A", terminal.text)  # drawn over

    def test_dumb(self):
        self.v.ctl("copy c big")
        terminal = OnTerminal(self.v, "status", "--watch", TERM="dumb")
        self.assertEqual(terminal.end(), 0)
        self.assertNotIn("\x1b", terminal.text)
        self.assertIn("100%", terminal.text)

    def test_more_than_the_rows(self):
        self.v.ctl("create waiting big")
        for n in range(12):
            self.v.ctl(f"copy c{n} big")
            self.v.wait(f"c{n}")
        self.v.ctl("copy unfinished big --pace 1")
        terminal = OnTerminal(self.v, "status", "--watch", rows=8)
        wait_for(lambda: len(terminal.frames()) > 1, "it was drawn twice")
        self.v.ctl("rate unfinished max")
        self.assertEqual(terminal.end(), 0)
        frames = terminal.frames()
        for frame in frames:
            self.assertLess(len(frame), 8)
            self.assertRegex(frame[-1], r"^\.\.\. and \d+ more$")
        self.assertIn("unfinished", frames[0][0])

    def test_few_rows(self):
        """Who still runs is seen."""
        self.v.ctl("copy a-copied big")
        self.v.wait("a-copied")
        for name in "bcd":
            self.v.ctl(f"copy {name} big --pace 1")
        for rows, columns in ((5, 40), (9, 40), (5, 100), (4, 8)):
            with self.subTest(rows=rows, columns=columns):
                terminal = OnTerminal(self.v, "status", "--watch", rows=rows, columns=columns)
                try:
                    wait_for(lambda t=terminal: len(t.frames()) > 1, "it was drawn twice")
                finally:
                    terminal.child.kill()
                    terminal.end()
                frame = terminal.frames()[0]
                self.assertLess(len(frame), rows)
                self.assertEqual([line[0] for line in frame[:min(3, rows - 2)]], ["b", "c", "d"][:rows - 2])
                self.assertRegex(frame[0], r"^b +\d*" if columns < 20 else r"^b.* CopyInProgress")

    def test_failed(self):
        self.v.ctl("copy c big --pace 1")
        terminal = OnTerminal(self.v, "status", "--watch", "c")
        wait_for(lambda: len(terminal.frames()) > 1, "it was drawn twice")
        self.v.ctl("terminate c --force")
        self.assertEqual(terminal.end(), 1)
        self.assertIn("there is no", terminal.text)


if __name__ == "__main__":
    main()
