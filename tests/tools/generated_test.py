#!/usr/bin/env python3
"""Man pages and completions say what --help says: every command, every option, and nothing else."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

BIN = os.environ.get("CLONEFS_BIN", "")
TOP = os.environ.get("CLONEFS_SOURCE_DIR") or os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MAN = os.path.join(TOP, "packaging/man")


def run(*words, **options):
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=60, check=False, **options)
    assert done.returncode == 0 and done.stderr == "", (words, done)
    return done.stdout


def section(text, title):
    """The indented lines beneath TITLE."""
    found = re.search(rf"^{title}:\n((?:  .*\n)+)", text, re.M)
    return found.group(1) if found else ""


class Help:
    """What --help says of a command: options (all their names), positionals."""

    def __init__(self, *words):
        text = run(BIN, *words, "--help")
        lines = re.findall(r"^  (-\S+)", section(text, "Options"), re.M)
        self.options = {name for line in lines for name in line.split(",")}
        self.positionals = re.findall(r"^  (\S+)", section(text, "Positionals"), re.M)
        self.verbs = re.findall(r"^  (\S+)", section(text, "Subcommands"), re.M)


HELP = {}


def setUpModule():
    HELP[""] = Help()
    for verb in HELP[""].verbs:
        HELP[verb] = Help(verb)
    assert len(HELP) > 20 and "--cache" in HELP["mount"].options and HELP["rate"].positionals, HELP


def common():
    return HELP[""].options - {"--version"}


def plain(roff):
    return re.sub(r"\\f[BIR]", "", roff).replace("\\-", "-").replace("\\&", "").replace("\\e", "\\")


class ManPages(unittest.TestCase):
    def page(self, name):
        return run(BIN, "generate", "man", os.path.join(MAN, name + ".in"))

    def options(self, text):
        return {name for line in re.findall(r"^\.TP\n(\\fB\\-.*)$", text, re.M)
                for name in re.findall(r"(?:^|, )(-[-\w]+)", plain(line))}

    def test_commands_and_options(self):
        text = self.page("clonefs.1")
        verbs = re.findall(r"^\.SS clonefs (\S+)\n", text, re.M)
        self.assertEqual([plain(verb) for verb in verbs], HELP[""].verbs)
        for verb, block in zip(verbs, re.split(r"^\.SS clonefs \S+\n", text, flags=re.M)[1:]):
            verb = plain(verb)
            block = block.split("\n.SH ")[0]
            self.assertEqual(self.options(block), HELP[verb].options - {"-h", "--help"}, verb)
            for positional in HELP[verb].positionals:
                self.assertIn(f"\n.TP\n\\fI{positional}\\fR\n", block, verb)
        before = text.split("\n.SH COMMANDS\n")[0]
        self.assertEqual(self.options(before), HELP[""].options)
        self.assertNotIn("@", plain(text).replace("clonefs@", "").replace("clone@", ""))

    def test_options_of_the_mount_helper(self):
        text = self.page("mount.fuse.clonefs.8")
        block = text.split("Those of clonefs:\n")[1].split("\n.PP\n")[0]
        names = {"--" + plain(name) for name in re.findall(r"^\.TP\n\\fB([^\\]+(?:\\-[^\\]+)*)\\fR", block, re.M)}
        self.assertEqual(names, HELP["mount"].options - {"-h", "--help", "--json", "-o", "-f",
                                                              "--foreground"})

    def test_they_are_well_formed(self):
        if not shutil.which("man"):
            self.skipTest("no man here")
        for name in ("clonefs.1", "clonefs.5", "mount.fuse.clonefs.8"):
            with tempfile.NamedTemporaryFile("w", suffix=name[-2:], encoding="utf-8") as file:
                file.write(self.page(name))
                file.flush()
                shown = run("man", "-l", "--warnings", file.name, env=dict(os.environ, MANWIDTH="80"))
                self.assertIn("SEE ALSO", shown)  # and no warnings: run() takes none
                self.assertNotIn("\\f", shown)


class Completions(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        # Clones to complete: as `clonefs list` shows them.
        with open(f"{self.folder}/clonefs", "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\necho 'NAME  STATE'\necho 'monday  Copied'\necho 'tues.day  Failed'\n"
                       "echo 'tues.day: an error'\n")
        os.chmod(f"{self.folder}/clonefs", 0o755)
        self.env = dict(os.environ, PATH=f"{self.folder}:{os.environ['PATH']}", HOME=self.folder,
                        XDG_CONFIG_HOME=self.folder, XDG_DATA_HOME=self.folder)
        self.work = f"{self.folder}/work"
        os.makedirs(f"{self.work}/directory")

    def script(self, shell):
        path = f"{self.folder}/completion.{shell}"
        with open(path, "w", encoding="utf-8") as file:
            file.write(run(BIN, "generate", shell))
        return path

    def each(self, complete):
        """COMPLETE(words..., the one at the cursor) -> the set of what is offered."""
        for verb in HELP[""].verbs:
            offered = {word for word in complete(verb, "-") if word.startswith("-")}
            self.assertEqual(offered, HELP[verb].options | common(), verb)
        self.assertEqual(complete("mount", "--cache", ""), {"writeback", "writethrough"})
        self.assertEqual(complete("mount", "--cache", "writet"), {"writethrough"})
        self.assertEqual(complete("log-level", ""), {"trace", "debug", "info", "warn", "error"})
        self.assertEqual(complete("terminate", ""), {"monday", "tues.day"})
        self.assertEqual(complete("terminate", "monday", "t"), {"tues.day"})
        self.assertEqual({word.rstrip("/") for word in complete("umount", "")}, {"directory"})

    def test_bash(self):
        path = self.script("bash")

        def complete(*words):
            script = ('source "$1"; shift; COMP_WORDS=(clonefs "$@"); COMP_CWORD=$#; _clonefs; '
                      'printf "%s\\n" "${COMPREPLY[@]}"')
            return set(run("bash", "-c", script, "bash", path, *words, env=self.env,
                           cwd=self.work).split("\n")) - {""}
        self.assertEqual(complete(""), set(HELP[""].verbs) | HELP[""].options)
        self.assertEqual(complete("--mount", "somewhere", "-q", "te"), {"terminate"})
        self.each(complete)

    def test_fish(self):
        if not shutil.which("fish"):
            self.skipTest("no fish here")
        path = self.script("fish")

        def complete(*words):
            text = run("fish", "--no-config", "-c", f'source {path}; complete -C "clonefs {" ".join(words)}"',
                       env=self.env, cwd=self.work)
            return {line.split("\t")[0] for line in text.splitlines()}
        self.assertEqual(complete(""), set(HELP[""].verbs))
        self.assertEqual(complete("--"), {o for o in HELP[""].options if o.startswith("--")})
        self.each(complete)

    def test_zsh(self):
        """Of zsh the text is read: its completion needs a terminal."""
        path = self.script("zsh")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        verbs = re.findall(r"^        '([\w-]+):", text.split("verbs=(")[1].split("\n      )")[0], re.M)
        self.assertEqual(verbs, HELP[""].verbs)
        for verb in verbs:
            block = re.search(rf"^        {verb}\)\n(.*?)&& return ;;", text, re.M | re.S).group(1)
            self.assertEqual(set(re.findall(r"'\*?(-[-\w]+)\[", block)), HELP[verb].options | common(), verb)
            self.assertEqual(len(re.findall(r"^            '(?:\*|\d+)::?[A-Z]", block, re.M)),
                             len(HELP[verb].positionals), verb)
        if shutil.which("zsh"):
            run("zsh", "-n", path)


class Generate(unittest.TestCase):
    def test_hidden_and_refuses(self):
        self.assertNotIn("generate", HELP[""].verbs)
        done = subprocess.run([BIN, "generate", "csh"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, check=False, timeout=30)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("man, bash, zsh or fish", done.stderr)


if __name__ == "__main__":
    if not BIN:
        sys.exit("set CLONEFS_BIN to the clonefs program")
    unittest.main(verbosity=2)
