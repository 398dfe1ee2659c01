#!/usr/bin/env python3
"""Dependencies point one way: tools -> fs -> engine -> extents, and only fs (and tools) know FUSE.

Reads the includes of every source file. Checks itself first on a tree with each offence in it.
"""
import os
import re
import sys
import tempfile

LAYERS = ["extents", "engine", "fs", "tools"]  # from the bottom up
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def offences(root):
    found, files = [], 0
    for level, layer in enumerate(LAYERS):
        for folder, _, names in os.walk(os.path.join(root, layer)):
            for name in names:
                if not name.endswith((".h", ".cc")):
                    continue
                files += 1
                path = os.path.join(folder, name)
                with open(path, encoding="utf-8") as source:
                    for number, line in enumerate(source, 1):
                        match = INCLUDE.match(line)
                        if not match:
                            continue
                        why = offence(level, match.group(2))
                        if why:
                            found.append(f"{os.path.relpath(path, root)}:{number}: {why}: "
                                         f"{line.strip()}")
    return found, files


def offence(level, included):
    included = os.path.normpath(included)
    top = included.split("/")[0]
    if top == "..":
        return "include from the top of the tree, not relative to the file"
    if top == "tests":
        return "tests are above all layers"
    if top in LAYERS and LAYERS.index(top) > level:
        return f"{LAYERS[level]} is below {top}"
    if level < LAYERS.index("fs") and re.match(r"(fuse3?/|fuse|linux/fuse\.h)", included):
        return f"{LAYERS[level]} must not know FUSE"
    return None


def check_itself():
    cases = {
        "extents/a.h": ('#include "engine/engine.h"', True),
        "extents/b.cc": ("  #  include <fs/live.h>", True),
        "engine/a.cc": ('#include "fs/live.h"', True),
        "engine/deep/b.h": ('#include "../../tools/cli.h"', True),
        "engine/c.h": ("#include <fuse3/fuse_lowlevel.h>", True),
        "fs/a.cc": ('#include "tools/cli.h"', True),
        "fs/b.cc": ('#include "tests/fs/support.h"', True),
        "engine/ok.cc": ('#include "extents/track.h"\n#include <mutex>', False),
        "fs/ok.cc": ("#include <fuse3/fuse_lowlevel.h>", False),
        "tools/ok.cc": ('#include "fs/live.h"', False),
    }
    with tempfile.TemporaryDirectory() as root:
        for path, (text, _) in cases.items():
            os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
            with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                file.write(text + "\n")
        found, files = offences(root)
    assert files == len(cases), files
    named = {line.split(":")[0] for line in found}
    expected = {path for path, (_, bad) in cases.items() if bad}
    assert named == expected, named ^ expected


def main():
    check_itself()
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    found, files = offences(root)
    print("\n".join(found) or f"{files} files, no upward include")
    return 1 if found or files == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
