#!/usr/bin/env python3
"""What the documents tell people to type works as it is written, and prints what they show."""
import os
import sys
import unittest

import documented
from volume import BIN, main

ROOT = os.environ.get("CLONEFS_SOURCE_DIR") or os.path.join(os.path.dirname(__file__), "../..")


@unittest.skipUnless(os.geteuid() == 0, "makes its own world to run the commands in, as root")
class Documents(unittest.TestCase):
    maxDiff = None

    def run_document(self, name):
        for section in documented.sections(os.path.join(ROOT, name)):
            with self.subTest(document=name, section=section.title):
                if missing := documented.missing(section):
                    print(f"{section.title}: not run, there is no {' '.join(missing)}",
                          file=sys.stderr)
                    continue
                code, text = documented.run_section(section, BIN)
                self.assertEqual(code, 0, text)
                self.assertEqual("\n".join(documented.compare(section, text)), "")

    def test_readme(self):
        self.run_document("README.md")

    def test_plans(self):
        self.run_document("docs/PLANS.md")

    def test_recipes(self):
        found = documented.sections(os.path.join(ROOT, "docs/RECIPES.md"))
        self.assertGreaterEqual(len(found), 6)
        self.run_document("docs/RECIPES.md")


if __name__ == "__main__":
    main()
