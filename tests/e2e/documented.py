"""Runs the commands that a document shows, as they are written there.

Of a Markdown file, by heading (## ...), in order:

  ```sh run            a shell script; its blocks under one heading are one script
  ```console run       lines "$ COMMAND", each with what it prints; that is compared, numbers, times and
                       the run of blanks apart. `documented.py --update FILE` writes it anew
  <!-- sh run          a script that the reader does not see: what is there already in his case
  -->
  <!-- needs PROGRAM... -->  the heading is skipped where one of these is not installed

Each heading has a machine of its own: namespaces of mounts and processes, in which /srv, /mnt, /backup and
$HOME are new and empty, and `clonefs` is the program under test. So a script's daemons and mounts end with it.
This needs root.
"""
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile

from volume import FORGET_OTHERS

# What differs from run to run: numbers, and whether the drain is done by then.
VARIABLE = re.compile(r"\d[\d.,:TZ-]*|\b(CopyInProgress|Copied)\b")
LIMIT_S = 100
PATH_EXTRA = "/usr/lib/postgresql"


class Block:
    def __init__(self, kind, line):
        self.kind = kind    # "sh", "console"
        self.line = line    # in the document, of the first of its lines
        self.text = []


class Section:
    def __init__(self, title):
        self.title = title
        self.needs = []
        self.blocks = []


def sections(path):
    """What is to be run of the document."""
    found = [Section("(top)")]
    block = end = None
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file.read().split("\n"), 1):
            if block is not None:
                if line.strip() == end:
                    block = None
                else:
                    block.text.append(line)
            elif line.startswith("## "):
                found.append(Section(line[3:]))
            elif match := re.fullmatch(r"```(sh|console) run|<!-- (sh) run", line.strip()):
                block = Block(match.group(1) or match.group(2), number + 1)
                end = "```" if match.group(1) else "-->"
                found[-1].blocks.append(block)
            elif match := re.fullmatch(r"<!-- needs (.*) -->", line.strip()):
                found[-1].needs += match.group(1).split()
    return [section for section in found if section.blocks]


def commands(block):
    """[(command, its output as documented)] of a console block."""
    found = []
    for line in block.text:
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found:
            found[-1][1].append(line)
    return found


def script_of(section):
    """A bash script of all blocks; the output of each console command between two marks."""
    lines = []
    for block in section.blocks:
        lines.append(f"LINE={block.line}")
        if block.kind == "sh":
            # set -e does not look at what fails before "&&".
            lines += [*block.text, "(exit $?)"]
            continue
        for command, _ in commands(block):
            lines += ["echo '@@@ output'", command, "echo '@@@ end'"]
    return "\n".join(lines) + "\n"


WORLD = FORGET_OTHERS + r"""
set -e
forget_others
for place in /srv /mnt /backup "$HOME"; do
  mkdir -p "$BASE/$place" "$place"
  mount --bind "$BASE/$place" "$place"
done
cd
bash -euE -o pipefail -c 'trap "echo \"@@@ failed in the block at line \$LINE: \$BASH_COMMAND\"" ERR
source "$BASE/script"' && code=0 || code=$?
cd /
for at in $(awk '/ - fuse\.clonefs / { print $5 }' /proc/self/mountinfo); do
  clonefs umount "$at" || code=1
done
exit $code
"""


def run_section(section, program):
    """(exit code, output)."""
    with tempfile.TemporaryDirectory(prefix="clonefs-doc-",
                                     dir=os.environ.get("CLONEFS_TEST_DIR", "/tmp")) as base:
        os.chmod(base, 0o755)
        with open(os.path.join(base, "script"), "w", encoding="utf-8") as file:
            file.write(script_of(section))
        os.mkdir(os.path.join(base, "bin"))
        os.symlink(os.path.abspath(program), os.path.join(base, "bin/clonefs"))
        path = [os.path.join(base, "bin"), *servers(), os.environ["PATH"]]
        env = dict(os.environ, BASE=base, HOME="/root", PATH=":".join(path), LC_ALL="C.UTF-8",
                   TZ="UTC")
        env.pop("CLONEFS_MOUNT", None)
        done = subprocess.run(
            ["timeout", "-k", "5", str(LIMIT_S), "unshare", "-m", "-p", "-f", "--kill-child",
             "--mount-proc", "bash", "-c", WORLD], env=env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        return done.returncode, done.stdout.decode("utf-8", "replace")


def servers():
    """Where Debian keeps what is not in PATH."""
    if not os.path.isdir(PATH_EXTRA):
        return []
    return [os.path.join(PATH_EXTRA, version, "bin") for version in sorted(os.listdir(PATH_EXTRA))]


def missing(section):
    path = ":".join([*servers(), os.environ["PATH"]])
    return [program for program in section.needs if not shutil.which(program, path=path)]


def outputs(text):
    """What each console command printed."""
    return [part.split("@@@ end\n", 1)[0].rstrip("\n").split("\n")
            for part in text.split("@@@ output\n")[1:]]


def plain(lines):
    """Comparable: without what differs from run to run."""
    joined = [re.sub(r"\s+", " ", VARIABLE.sub("#", line)).strip() for line in lines]
    while joined and not joined[-1]:
        joined.pop()
    return [re.sub(r"-{2,}", "--", line) for line in joined]


def compare(section, text):
    """Lines that say where the document's samples are not what is printed."""
    documented = [(block.line, command, sample) for block in section.blocks
                  if block.kind == "console" for command, sample in commands(block)]
    problems = []
    for (line, command, sample), printed in zip(documented, outputs(text)):
        if plain(sample) != plain(printed):
            problems.append(f"block at line {line}: $ {command}")
            problems += difflib.unified_diff(sample, printed, "documented", "printed", lineterm="")
    return problems


def update(path, program):
    """Writes the samples of the document anew."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    offset = 0
    for section in sections(path):
        if not any(block.kind == "console" for block in section.blocks) or missing(section):
            continue
        code, text = run_section(section, program)
        if code != 0:
            sys.exit(f"{section.title}: {text}")
        printed = iter(outputs(text))
        for block in section.blocks:
            if block.kind != "console":
                continue
            new = []
            for command, _ in commands(block):
                new += ["$ " + command, *"\n".join(next(printed)).rstrip("\n").split("\n")]
            at = block.line - 1 + offset
            lines[at:at + len(block.text)] = new
            offset += len(new) - len(block.text)
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines))


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] != "--update":
        sys.exit("usage: CLONEFS_BIN=PROGRAM documented.py --update FILE...")
    for document in sys.argv[2:]:
        update(document, os.environ["CLONEFS_BIN"])
