#!/usr/bin/env python3
"""Backup programs at one clone name that is made again and again: what did not change between two
generations is skipped, what did is seen, and what is restored is the tree of the consistency point.

The tree: 1,000 files, with hard links, a sparse file, xattrs and ACLs among them, and one more, NEWEST,
whose ctime is later than theirs. Borg does not remember the file with the newest ctime that it saw, as
it may have been changed again within the clock's grain, and reads it each time. That one must be none
of the thousand, or how many of these are unchanged would depend on the clock.
"""
import collections
import json
import os
import re
import shutil
import sys
import unittest

import tree
from mount_test import run_as_user
from volume import BIN, Volume, VolumeTest, main, run, wait_for

FILES = 1000
SIZE = 3000            # of an ordinary one
NEWEST = "newest"
MIB = 1 << 20
SPARSE_SIZE = 40 * MIB
CHANGED, CHMODDED, RENAMED, RENAMED_TO = "d3/303", "d4/404", "d5/505", "d6/was 505"


def fill(place):
    """The tree; paths of its thousand files."""
    names = ["sparse", "linked", "linked too", "attributes", "acl"]
    names += [f"d{i % 10}/{i}" for i in range(FILES - len(names))]
    for name in names:
        path = os.path.join(place, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if name == "linked too":
            os.link(os.path.join(place, "linked"), path)
            continue
        with open(path, "wb") as file:
            if name == "sparse":
                for at in (MIB, 30 * MIB):
                    file.seek(at)
                    file.write(b"island" * 5000)
                file.truncate(SPARSE_SIZE)
            else:
                file.write((name.encode() + b"\n") * (SIZE // (len(name) + 1)))
    os.symlink("d1/1", os.path.join(place, "symlink"))
    os.mkdir(os.path.join(place, "empty directory"))
    os.setxattr(os.path.join(place, "attributes"), "user.origin", b"\0binary\xff")
    os.setxattr(os.path.join(place, "d2"), "user.of", b"a directory")
    # In a user namespace (exec --in-place as an ordinary user) other ids than one's own have no number.
    user, group = (4243, 4244) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    for words in (("-m", f"u:{user}:rw", "acl"), ("-d", "-m", f"g:{group}:rx", "d7")):
        done = run("setfacl", *words, cwd=place)
        assert done.returncode == 0, done.stdout
    return names


class Program:
    """One backup program and its repository. RUN_IT runs a command and returns what it said, or fails."""

    def __init__(self, test):
        self.test = test
        self.base = test.v.base
        self.env = dict(os.environ)

    def out(self):
        return os.path.join(self.base, "out-" + type(self).__name__)


class Restic(Program):
    def __init__(self, test):
        super().__init__(test)
        self.env.update(RESTIC_PASSWORD="x", RESTIC_REPOSITORY=os.path.join(self.base, "restic"),
                        RESTIC_CACHE_DIR=os.path.join(self.base, "restic-cache"))
        test.ok("restic", "init", env=self.env)

    def backup(self, run_it, place, *options):
        """The summary of `restic backup`, and {what became of it: names} of the files."""
        text = run_it("restic", "backup", "--json", "--verbose=2", *options, place, env=self.env)
        summary, items = None, collections.defaultdict(list)
        for line in text.splitlines():
            if not line.startswith("{"):
                continue
            message = json.loads(line)
            if message["message_type"] == "summary":
                summary = message
            elif message["message_type"] == "verbose_status" and not message["item"].endswith("/"):
                items[message["action"]].append(os.path.relpath(message["item"], place))
        return summary, items

    def check(self, results):
        test = self.test
        (first, _), (second, items) = results
        test.assertEqual((first["files_new"], first["files_changed"]), (FILES + 1, 0), first)
        test.assertEqual((second["files_new"], second["files_changed"], second["files_unmodified"]),
                         (1, 3, FILES + 1 - 4), second)
        test.assertEqual(items["new"], [RENAMED_TO])
        test.assertEqual(sorted(items["modified"]), [CHANGED, CHMODDED, NEWEST])
        test.assertEqual(len([n for n in items["unchanged"] if n != "symlink"]), FILES + 1 - 4)

    def restore(self, place):
        """Where the last backup of PLACE was restored, and how much room its sparse file may take."""
        sparse = "--sparse" in self.test.ok("restic", "restore", "--help")  # since 0.15
        self.test.ok("restic", "restore", "latest", *["--sparse"] * sparse, "--target", self.out(),
                     env=self.env)
        return os.path.join(self.out(), place.lstrip("/")), MIB if sparse else SPARSE_SIZE + MIB


class Borg(Program):
    def __init__(self, test):
        super().__init__(test)
        self.env.update(BORG_REPO=os.path.join(self.base, "borg"),
                        BORG_BASE_DIR=os.path.join(self.base, "borg-base"))
        test.ok("borg", "init", "-e", "none", env=self.env)
        self.count = 0

    def backup(self, run_it, place):
        """{status: names} as `borg create --list` says; without directories and the symbolic link."""
        self.count += 1
        text = run_it("borg", "create", "--log-json", "--list", f"::{self.count}", place, env=self.env)
        items = collections.defaultdict(list)
        for line in text.splitlines():
            message = json.loads(line) if line.startswith("{") else {}
            if message.get("type") == "file_status" and message["status"] not in "ds":
                items[message["status"]].append(os.path.relpath("/" + message["path"], place))
        return items

    def check(self, results):
        test = self.test
        first, second = results
        # The second name of a hard link is "h".
        test.assertEqual({key: len(first[key]) for key in first}, {"A": FILES, "h": 1})
        test.assertEqual({key: len(second[key]) for key in "Uh"}, {"U": FILES - 4, "h": 1})
        test.assertEqual(sorted(name for key in second if key not in "Uh" for name in second[key]),
                         sorted([CHANGED, CHMODDED, RENAMED_TO, NEWEST]))
        test.assertIn(RENAMED_TO, second["A"])
        test.assertLessEqual({CHANGED, CHMODDED}, set(second["M"]))

    def restore(self, place):
        os.mkdir(self.out())
        self.test.ok("borg", "extract", "--sparse", "--numeric-ids", f"::{self.count}",
                     cwd=self.out(), env=self.env)
        # Its chunks, of up to 8 MiB, become holes when they are zeros from end to end.
        return os.path.join(self.out(), place.lstrip("/")), 20 * MIB


class Rsync(Program):
    def backup(self, run_it, place):
        """{path: rsync's letters} of what differed, and its --stats."""
        text = run_it("rsync", "-aHAXS", "--delete", "--itemize-changes", "--stats", place + "/",
                      self.out())
        items = re.findall(r"^([<>ch.][fdLDS][.+cstpoguaxbn?]{9}|\*deleting) +(.*)$", text, re.M)
        numbers = re.findall(r"^(.*?): ([\d,]+)", text, re.M)
        return ({name: letters for letters, name in items},
                {key: int(value.replace(",", "")) for key, value in numbers})

    def check(self, results):
        test = self.test
        (_, first), (items, second) = results
        # Of two names of a file one.
        test.assertEqual(first["Number of regular files transferred"], FILES)
        files = {name: letters for name, letters in items.items() if letters[1] == "f"}
        test.assertEqual(set(files), {CHANGED, CHMODDED, RENAMED_TO, NEWEST}, items)
        test.assertEqual([name for name, letters in items.items() if letters.startswith("*")],
                         [RENAMED])
        test.assertEqual(files[CHMODDED], ".f...p.....")
        # The data of the changed one, the renamed one (rsync knows no renames) and the newest.
        sent = sum(os.path.getsize(os.path.join(self.out(), name))
                   for name in (CHANGED, RENAMED_TO, NEWEST))
        test.assertEqual(second["Literal data"], sent)
        test.assertEqual(second["Total transferred file size"], sent)

    def restore(self, place):
        del place
        return self.out(), MIB


PROGRAMS = [program for program in (Restic, Borg, Rsync) if shutil.which(program.__name__.lower())]


class Backup(VolumeTest):
    def setUp(self):
        super().setUp()
        v = self.v
        os.mkdir(v.at("t"))
        fill(v.at("t"))
        self.touch_newest()
        self.expected = None  # the tree at the consistency point of the last generation

    def touch_newest(self):
        v = self.v
        latest = max(os.lstat(os.path.join(folder, name)).st_ctime_ns
                     for folder, _, names in os.walk(v.at("t")) for name in names)

        def later():
            with open(v.at("t", NEWEST), "wb") as file:
                file.write(b"x" * 100)
                os.fsync(file.fileno())
            return os.lstat(v.at("t", NEWEST)).st_ctime_ns > latest
        wait_for(later, "the clock moves on")

    def delete_and_copy(self):
        if os.path.exists(self.v.clone("nightly")):
            self.v.ctl("delete --force nightly")
        self.v.ctl("copy nightly .")

    def recreate(self):
        if not os.path.exists(self.v.clone("nightly")):
            self.v.ctl("copy nightly .")
            return
        self.v.wait("nightly")
        self.v.ctl("recreate nightly --precopy")
        self.v.ctl("activate nightly")
        # Most of what did not change was there already.
        self.assertGreater(self.v.status("nightly")["tracks_inherited"], FILES // 2)

    def three_changes(self):
        v = self.v
        with open(v.at("t", CHANGED), "r+b") as file:
            file.write(b"CHANGED")  # the size stays
        os.chmod(v.at("t", CHMODDED), 0o600)
        os.rename(v.at("t", RENAMED), v.at("t", RENAMED_TO))
        self.touch_newest()

    def many_changes(self):
        for i in range(0, FILES - 10, 7):
            path = self.v.at(f"t/d{i % 10}/{i}")
            if os.path.exists(path):
                os.rename(path, path + "~")
                with open(path + "~", "ab") as file:
                    file.write(b"more")

    def generations(self, refresh, run_it, place):
        """Two generations that differ by three changes, each saved by all programs. What is changed
        between the consistency point and the backup must not be seen."""
        programs = [program(self) for program in PROGRAMS]
        refresh()
        self.three_changes()
        first = [program.backup(run_it, place) for program in programs]
        self.expected = tree.capture(self.v.at("t"))
        refresh()
        self.many_changes()
        second = [program.backup(run_it, place) for program in programs]
        for program, *results in zip(programs, first, second):
            with self.subTest(type(program).__name__):
                program.check(results)
                self.assert_restored(*program.restore(place))

    def ok(self, *command, **options):
        options.setdefault("timeout", 120)
        done = run(*command, **options)
        self.assertEqual(done.returncode, 0, f"{command}: {done.stdout[-2000:]}")
        return done.stdout

    def exec_in_place(self, *command, **options):
        env = dict(options.pop("env", os.environ), CLONEFS_MOUNT=self.v.path)
        return self.ok(BIN, "exec", "--in-place", "nightly", "--", *command, env=env, **options)

    def assert_restored(self, place, room):
        """PLACE has what the live tree had at the consistency point; its sparse file is sparse."""
        actual = tree.capture(place)
        tree.assert_same(self, self.expected, actual, "restored", ("ctime",))
        self.assertEqual(actual[b"linked"]["nlink"], 2)
        self.assertLess(os.lstat(os.path.join(place, "sparse")).st_blocks * 512, room)

    def test_clone(self):
        self.generations(self.recreate, self.ok, self.v.clone("nightly", "t"))

    def test_in_place(self):
        """A job that names the volume's own path; nobody else sees the clone there."""
        self.generations(self.delete_and_copy, self.exec_in_place, self.v.at("t"))

    @unittest.skipUnless(Restic in PROGRAMS, "restic is not installed")
    def test_history_of_the_live_tree(self):
        """A job that has saved the live tree until now goes on in place. Clones have inode numbers of
        their own, so once it reads all again, unless told --ignore-inode; it stores nothing anew."""
        place = self.v.at("t")
        restic = Restic(self)
        live, _ = restic.backup(self.ok, place)
        self.assertEqual(live["files_new"], FILES + 1)
        self.delete_and_copy()
        once, _ = restic.backup(self.exec_in_place, place)
        self.assertEqual((once["files_changed"], once["data_blobs"]), (FILES + 1, 0), once)
        again, _ = restic.backup(self.exec_in_place, place)
        self.assertEqual((again["files_new"], again["files_changed"]), (0, 0), again)
        live, _ = restic.backup(self.ok, place)
        self.assertEqual(live["files_changed"], FILES + 1, live)
        told, _ = restic.backup(self.exec_in_place, place, "--ignore-inode")
        self.assertEqual((told["files_new"], told["files_changed"]), (0, 0), told)


class OrdinaryUser(unittest.TestCase):
    @unittest.skipUnless(os.geteuid() == 0, "makes its own ordinary user, as root")
    def test_in_place(self):
        """The same as a user without rights, who mounts, clones and saves what is his own."""
        python = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
        run_as_user(self, f"""
            export CLONEFS_BIN=$BIN CLONEFS_TEST_DIR=$V HOME=$V
            {python} {os.path.abspath(__file__)} Backup.test_in_place
            echo all is well""")


if __name__ == "__main__":
    main()
