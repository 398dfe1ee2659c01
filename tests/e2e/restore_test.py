#!/usr/bin/env python3
"""clonefs diff and clonefs restore: what changed since a clone, and getting it back."""
import base64
import errno
import json
import mmap
import os
import random
import shutil
import socket
import stat
import subprocess
import tempfile
import time
import unittest

import tree
from mount_test import run_as_user
from volume import BIN, SEED, TEST_DIR, Refused, Volume, VolumeTest, main, run, wait_for

KIB = 1 << 10
MIB = 1 << 20
# A clone's atime and the ctime of what was restored are no difference.
NOT_RESTORED = ("ctime",)

USER_SCRIPT = r"""
$BIN mount $V

echo old > $V/d/file
$BIN copy x d
echo newer > $V/d/file
$BIN diff x | grep -q 'modified  d/file  (data, size, mtime)'
$BIN restore x --guard
test "$(cat $V/d/file)" = old
$BIN umount $V
echo all is well
"""


def pattern(seed, size):
    return random.Random(seed).randbytes(size)


class Case(VolumeTest):
    def clone_now(self, *paths, name="c"):
        self.v.cli("copy", name, *(paths or ["."]))

    def diff(self, *words, code=0):
        """{path: (kind, attributes, path now)} of what diff --json says."""
        answer = json.loads(self.v.cli("diff", "--json", *words, code=code))
        self.assertEqual(answer["schema"], 1)
        return {c["path"]: (c["change"], c["attributes"], c.get("path_now"))
                for c in answer["changes"]}

    def restore(self, *words, code=0):
        return json.loads(self.v.cli("restore", "--json", *words, code=code))

    def assert_restored(self, name="c", path=".", at=None):
        where = at or self.v.path
        tree.assert_same(self, tree.capture(os.path.join(self.v.clone(name), path)),
                         tree.capture(os.path.join(where, path)), "restored", NOT_RESTORED)

    def content(self, path):
        with open(self.v.at(path), "rb") as file:
            return file.read()


class Diff(Case):
    def test_nothing(self):
        self.v.write("d/a", b"a")
        self.clone_now()
        self.assertEqual(self.diff("c"), {})
        self.assertRegex(self.v.cli("diff", "c"), r"^no differences since 20\S+Z\n$")
        self.v.cli("diff", "c", "--exit-code")
        self.assertEqual(self.v.cli("diff", "c", "-q"), "")

    def test_each_kind(self):
        v = self.v
        v.write("d/data", b"old data")
        v.write("d/longer", b"x" * 100)
        v.write("d/mode", b"")
        v.write("d/touched", b"same")
        v.write("d/xattr", b"")
        v.write("d/acl", b"")
        v.write("d/gone", b"gone")
        v.write("d/old name", b"content of this one")
        v.write("d/type", b"")
        v.write("sub/inner/deep", b"deep")
        os.symlink("old", v.at("d/link"))
        os.mkfifo(v.at("d/fifo"))
        os.utime(v.at("d"), (1, 1))
        self.clone_now()
        v.write("d/data", b"new data")
        os.utime(v.at("d/data"), ns=(1, os.stat(v.clone("c", "d/data")).st_mtime_ns))  # hides nothing
        v.write("d/longer", b"y" * 101)
        os.chmod(v.at("d/mode"), 0o600)
        os.utime(v.at("d/touched"), (5, 5))
        os.setxattr(v.at("d/xattr"), "user.color", b"red")
        subprocess.run(["setfacl", "-m", "u:1234:r", v.at("d/acl")], check=True)
        os.remove(v.at("d/gone"))
        v.write("d/young", b"young")
        os.rename(v.at("d/old name"), v.at("d/new name"))
        os.remove(v.at("d/type"))
        os.mkdir(v.at("d/type"))
        os.remove(v.at("d/link"))
        os.symlink("new", v.at("d/link"))
        os.rename(v.at("sub/inner"), v.at("sub/outer"))
        v.write("sub/outer/deep", b"DEEP")
        if os.geteuid() == 0:
            os.chown(v.at("d/fifo"), 7, 8)
        os.utime(v.at("d"), (1, 1))
        os.utime(v.at("sub"), ns=(1, os.stat(v.clone("c", "sub")).st_mtime_ns))
        expected = {
            "d/data": ("modified", ["data"], None),
            "d/longer": ("modified", ["data", "size", "mtime"], None),
            "d/mode": ("modified", ["mode"], None),
            "d/touched": ("modified", ["mtime"], None),
            "d/xattr": ("modified", ["xattrs"], None),
            "d/acl": ("modified", ["acl"], None),
            "d/gone": ("removed", [], None),
            "d/young": ("added", [], None),
            "d/old name": ("renamed", [], "d/new name"),
            "d/type": ("replaced", [], None),
            "d/link": ("modified", ["mtime", "target"], None),
            "sub/inner": ("renamed", [], "sub/outer"),
            "sub/inner/deep": ("modified", ["data", "mtime"], "sub/outer/deep"),
        }
        if os.geteuid() == 0:
            expected["d/fifo"] = ("modified", ["owner", "group"], None)
        got = self.diff("c")
        self.assertEqual(got, expected)
        with self.assertRaises(Refused) as caught:
            v.cli("diff", "c", "--exit-code")
        self.assertEqual(caught.exception.code, 3)
        text = caught.exception.text
        self.assertIn("renamed   'd/old name' -> 'd/new name'\n", text)
        self.assertIn("replaced  d/type  (file -> directory)\n", text)
        self.assertIn("modified  sub/inner/deep -> sub/outer/deep  (data, mtime)\n", text)
        self.assertEqual(self.diff("c", "d/mode", "d/gone"),
                         {path: expected[path] for path in ("d/mode", "d/gone")})

    def test_a_change_in_the_same_tick(self):
        """Data that were changed right after the consistency point, with the old times put back."""
        self.v.write("f", b"1" * 4096)
        self.clone_now()
        then = os.stat(self.v.clone("c", "f"))
        with open(self.v.at("f"), "r+b") as file:
            file.write(b"2")
        os.utime(self.v.at("f"), ns=(then.st_atime_ns, then.st_mtime_ns))
        self.assertEqual(self.diff("c"), {"f": ("modified", ["data"], None)})

    def test_times_decide(self):
        """What is older than the clone on both sides is not read."""
        self.v.umount()
        big = os.path.join(self.v.source, "big")
        with open(big, "wb") as file:
            file.write(pattern(1, 8 * MIB))
        wait_for(lambda: os.stat(big).st_ctime_ns + 2_100_000_000 < time.time_ns(), "the file to be old enough")
        self.v.mount()
        self.clone_now()
        self.v.wait("c")

        def reads():
            with open(f"/proc/{self.v.pid}/io", encoding="ascii") as file:
                return int(file.read().split()[1])
        before = reads()
        self.assertEqual(self.diff("c"), {})
        self.assertLess(reads() - before, 4 * MIB)
        self.assertEqual(self.diff("c", "--thorough"), {})
        self.assertGreater(reads() - before, 4 * MIB)

    def test_every_way_to_write_is_seen(self):
        """Where the times decide: a store into a page that was dirty at the consistency point, and
        writes past the cache."""
        for cache in ("writeback", "writethrough"):
            with self.subTest(cache=cache), Volume(options=("--cache", cache)) as v:
                for name in ("mapped", "direct", "left"):
                    with open(os.path.join(v.source, name), "wb") as file:
                        file.write(pattern(1, 64 * KIB))
                v.mount()
                with open(v.at("mapped"), "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
                    mapped[0] ^= 1
                    newest = os.stat(v.at("mapped")).st_ctime_ns
                    wait_for(lambda: time.time_ns() > newest + 2_100_000_000, "all to be old enough")
                    v.cli("copy", "c", ".")
                    mapped[1] ^= 1
                    subprocess.run(["dd", "if=/dev/urandom", f"of={v.at('direct')}", "bs=4096", "count=1",
                                    "conv=notrunc", "oflag=direct", "status=none"], check=True)
                    answer = json.loads(v.cli("diff", "c", "--json"))
                    self.assertEqual([c["path"] for c in answer["changes"]], ["direct", "mapped"])

    def test_an_inode_number_that_is_used_again(self):
        """A new file with the number of one that is gone is no rename."""
        v = self.v
        old = [v.write(f"a{n}", b"content of a") for n in range(40)]
        numbers = {os.stat(path).st_ino for path in old}
        self.clone_now()
        v.wait("c")
        for path in old:
            os.remove(path)

        def again():  # when the kernel has forgotten the inodes
            for n in range(40):
                if os.path.exists(v.at(f"b{n}")):
                    os.remove(v.at(f"b{n}"))
            made = [v.write(f"b{n}", b"something else") for n in range(40)]
            return numbers & {os.stat(path).st_ino for path in made}
        wait_for(again, "numbers that are used again", 20)
        kinds = {path: kind for path, (kind, *_) in self.diff("c").items() if path != "."}
        self.assertEqual(kinds, dict.fromkeys([f"a{n}" for n in range(40)], "removed") |
                         dict.fromkeys([f"b{n}" for n in range(40)], "added"))

    def test_names(self):
        odd = [b"new\nline", b"no utf-8 \xff\xfe", b"esc\x1b[31m", "üml".encode(), b"it's"]
        self.clone_now()
        for name in odd:
            with open(os.path.join(os.fsencode(self.v.path), name), "wb"):
                pass
        answer = json.loads(self.v.cli("diff", "--json", "c"))
        names = {base64.b64decode(c["path_base64"]) if "path_base64" in c else c["path"].encode()
                 for c in answer["changes"]}
        self.assertEqual(names - {b"."}, set(odd))
        text = run(BIN, "diff", "c", env=dict(os.environ, CLONEFS_MOUNT=self.v.path)).stdout
        self.assertNotIn("\x1b", text)
        for line in (r"$'new\nline'", r"$'no utf-8 \xff\xfe'", r"$'esc\x1b[31m'", "'üml'",
                     r"'it'\''s'"):
            self.assertIn(f"added     {line}\n", text)
        self.assertEqual(self.restore("c", "--delete")["summary"]["delete"], len(odd))
        self.assertEqual(self.diff("c"), {})

    def test_part_of_each_file(self):
        self.v.write("f", pattern(1, 256 * KIB))
        self.v.cli("copy", "c", "f", "--extent", "64K:64K")
        with open(self.v.at("f"), "r+b") as file:
            file.write(b"outside of the extent")
        os.utime(self.v.at("f"), ns=(1, os.stat(self.v.clone("c", "f")).st_mtime_ns))
        self.assertEqual(self.diff("c"), {})
        with open(self.v.at("f"), "r+b") as file:
            file.seek(70000)
            file.write(b"within")
        self.assertEqual(self.diff("c"), {"f": ("modified", ["data", "mtime"], None)})
        self.restore("c")
        data = self.content("f")
        self.assertEqual(data[:21], b"outside of the extent")
        self.assertEqual(data[64 * KIB:], pattern(1, 256 * KIB)[64 * KIB:])

    def test_refused(self):
        self.v.write("d/a", b"")
        self.v.write("b", b"")
        self.clone_now("d")
        self.v.cli("create", "young", "d")
        for words, texts in ((("nothing",), ("nothing",)), (("young",), ("clonefs activate young",)),
                             (("c", "b"), ("not in the clone", " d.")),
                             (("c", "d/none"), ("neither in the clone",)),
                             (("c", "/etc"), ("does not lie in the volume",))):
            for verb in ("diff", "restore"):
                with self.assertRaises(Refused) as caught:
                    self.v.cli(verb, *words)
                self.assertEqual(caught.exception.code, 1, caught.exception)
                for text in texts:
                    self.assertIn(text, caught.exception.text)
        with open(self.v.at("d/a"), "wb") as file:
            file.write(b"newer")
        for words, code, text in (  # of scripts whose variable is not set
                (("restore", "c", "--to", ""), 2, "--to: it is empty"),
                (("restore", "c", "d", "--to="), 2, "--to"),
                (("restore", "c", ""), 1, "an empty path was given"),
                (("restore", "c", "d/a", "", "-n"), 1, "an empty path was given"),
                (("diff", "c", ""), 1, "an empty path was given"),
                (("restore", "--mount", "", "c"), 2, "--mount: it is empty")):
            with self.assertRaises(Refused, msg=words) as caught:
                self.v.cli(*words)
            self.assertEqual(caught.exception.code, code, caught.exception)
            self.assertIn(text, caught.exception.text)
        self.assertEqual(self.content("d/a"), b"newer")
        with self.assertRaises(Refused) as caught:
            self.v.cli("restore", "c", "--to", "/tmp/x", "--delete")
        self.assertEqual(caught.exception.code, 2)


@unittest.skipUnless(os.geteuid() == 0 and shutil.which("mkfs.ext4"),
                     "needs root and mkfs.ext4, to mount a small file system")
class SmallDisk(unittest.TestCase):
    """A volume on a small disk of its own, the pool elsewhere."""

    def setUp(self):
        outside = tempfile.mkdtemp(prefix="clonefs-e2e-", dir=TEST_DIR)
        self.addCleanup(shutil.rmtree, outside)
        image, base = os.path.join(outside, "image"), os.path.join(outside, "disk")
        os.mkdir(base)
        with open(image, "wb") as file:
            file.truncate(32 * MIB)
        done = run("mkfs.ext4", "-q", "-F", "-m", "0", image)
        self.assertEqual(done.returncode, 0, done.stdout)
        done = run("mount", "-o", "loop", image, base)
        self.v = Volume(base=base, pool=os.path.join(outside, "pool"))
        self.v.log = os.path.join(outside, "daemon.log")
        self.addCleanup(self.v.clean_up)
        if done.returncode != 0:
            self.skipTest("no loop device can be mounted: " + done.stdout)
        self.v.mount()

    def fill(self):
        with self.assertRaises(OSError) as caught, open(self.v.at("filler"), "wb", buffering=0) as file:
            while True:
                file.write(bytes(MIB))
                os.fsync(file.fileno())
        self.assertEqual(caught.exception.errno, errno.ENOSPC)

    def test_no_room(self):
        """The cache takes what is written; that there is no place for it shows later."""
        v = self.v
        v.write("missing", pattern(SEED, 8 * MIB))
        v.write("sparse", b"")
        with open(v.at("sparse"), "r+b") as file:
            file.write(pattern(SEED + 1, 8 * MIB))
        v.cli("copy", "c", ".")
        v.cli("wait", "c")
        os.remove(v.at("missing"))
        os.truncate(v.at("sparse"), 0)
        self.fill()
        answer = json.loads(v.cli("restore", "c", "--json", code=1))
        outcomes = {c["path"]: c for c in answer["changes"]}
        for path in ("missing", "sparse"):
            self.assertFalse(outcomes[path]["done"], outcomes[path])
            self.assertEqual(outcomes[path]["error"]["code"], "ENOSPC")
            self.assertEqual(outcomes[path]["bytes_written"], 0)
        self.assertEqual(answer["summary"]["bytes_written"], 0)
        self.assertFalse(os.path.exists(v.at("missing")))
        os.remove(v.at("filler"))
        v.cli("restore", "c")
        for path in ("missing", "sparse"):
            with open(v.beneath(path), "rb") as now, open(v.clone("c", path), "rb") as then:
                self.assertTrue(now.read() == then.read(), path)


class Restore(Case):
    def test_random_trees(self):
        """Whatever was done to the tree: restored with --delete it is the clone's."""
        v = self.v
        rng = random.Random(SEED)
        for n in range(40):
            v.write(f"d{n % 5}/e{n % 2}/{n}", pattern(n, rng.randrange(200 * KIB)),
                    rng.choice((0o644, 0o600, 0o4755, 0o400)))
        for n in range(0, 40, 7):
            os.link(v.at(f"d{n % 5}/e{n % 2}/{n}"), v.at(f"link{n}"))
            os.symlink(f"target{n}", v.at(f"d{n % 5}/symlink{n}"))
            os.setxattr(v.at(f"link{n}"), "user.n", b"%d" % n)
        subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx", v.at("d1")], check=True)
        os.mkfifo(v.at("fifo"))
        with open(v.at("sparse"), "wb") as file:
            file.truncate(64 * MIB)
            file.seek(32 * MIB)
            file.write(b"data")
        self.clone_now()

        def paths(kinds):
            found = []
            for directory, directories, files in os.walk(v.path):
                found += [os.path.join(directory, name) for name in (*directories, *files)]
            return [p for p in found if kinds(os.lstat(p).st_mode)]
        for _ in range(80):
            kind = rng.choice(("write", "truncate", "remove", "rename", "new", "chmod", "link", "swap",
                               "rmtree", "type", "hole"))
            files = paths(stat.S_ISREG)
            directories = paths(stat.S_ISDIR) + [v.path]
            files = files or [v.write(f"again/{rng.randrange(1 << 30)}", b"")]
            path = rng.choice(files)
            where = os.path.join(rng.choice(directories), f"name{rng.randrange(1000)}")
            try:
                if kind in ("write", "hole"):
                    with open(path, "r+b") as file:
                        file.seek(rng.randrange(300 * KIB))
                        file.write(rng.randbytes(rng.randrange(70 * KIB)))
                elif kind == "truncate":
                    os.truncate(path, rng.randrange(300 * KIB))
                elif kind == "remove":
                    os.remove(path)
                elif kind == "rename":
                    os.rename(rng.choice(files + directories), where)
                elif kind == "new":
                    with open(where, "wb") as file:
                        file.write(b"new")
                elif kind == "chmod":
                    os.chmod(path, rng.choice((0o640, 0o755)))
                elif kind == "link":
                    os.link(path, where)
                elif kind == "swap":
                    other = rng.choice(files)
                    os.rename(path, where)
                    os.rename(other, path)
                    os.rename(where, other)
                elif kind == "rmtree" and rng.random() < 0.2:
                    subprocess.run(["rm", "-rf", "--", rng.choice(directories[:-1] or [path])],
                                   check=True)
                elif kind == "type":
                    os.remove(path)
                    os.mkdir(path)
            except OSError as e:
                if e.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.EINVAL, errno.ENOENT,
                                   errno.ENOTDIR, errno.EISDIR, errno.EBUSY, errno.EXDEV):
                    raise
        planned = self.restore("c", "--delete", "--dry-run")
        self.assertTrue(planned["changes"])
        self.assertFalse(any(c["done"] for c in planned["changes"]))
        answer = self.restore("c", "--delete")
        self.assertEqual(answer["summary"]["failed"], 0)
        self.assert_restored()
        self.assertEqual(self.diff("c"), {})
        self.assertEqual(self.restore("c", "--delete")["changes"], [])

    def test_only_what_differs_in_place(self):
        """One track of many is written, into the same inode, and who has it open sees it."""
        v = self.v
        data = pattern(1, 16 * MIB)
        v.write("big", data)
        os.link(v.at("big"), v.at("other name"))
        self.clone_now("big")
        self.v.wait("c")
        with open(v.at("big"), "r+b") as opened:
            opened.seek(5 * MIB)
            opened.write(b"damage")
            opened.flush()
            number = os.fstat(opened.fileno()).st_ino
            answer = self.restore("c")
            self.assertEqual(answer["summary"]["bytes_written"], 64 * KIB)
            opened.seek(0)
            self.assertEqual(opened.read(), data)
        self.assertEqual(os.stat(v.at("big")).st_ino, number)
        self.assertEqual(self.content("other name"), data)

    def test_what_the_clone_hasnt_is_kept(self):
        v = self.v
        v.write("d/old", b"old")
        self.clone_now("d")
        v.write("d/young", b"young")
        os.rename(v.at("d/old"), v.at("d/renamed"))
        text = v.cli("restore", "c", "--dry-run")
        self.assertIn("create    d/old\n", text)
        self.assertIn("keep      d/young\n", text)
        self.assertIn("would do: 1 create, 1 update, 2 keep\n", text)
        self.assertFalse(os.path.exists(v.at("d/old")))
        v.cli("restore", "c")
        self.assertEqual(sorted(os.listdir(v.at("d"))), ["old", "renamed", "young"])
        number = os.stat(v.at("d/renamed")).st_ino
        os.remove(v.at("d/old"))
        v.cli("restore", "c", "--delete")
        self.assertEqual(os.listdir(v.at("d")), ["old"])
        self.assertEqual(os.stat(v.at("d/old")).st_ino, number)

    def test_hard_links(self):
        """Names of one file are that again: made anew, joined, and parted."""
        v = self.v
        for name in ("gone", "one-left", "parted", "joined"):
            v.write(f"d/{name}", name.encode())
        for name in ("gone", "one-left", "parted"):
            os.link(v.at(f"d/{name}"), v.at(f"d/{name}-too"))
        v.write("d/joined-too", b"not the same file")
        self.clone_now("d")
        for name in ("d/gone", "d/gone-too", "d/one-left-too", "d/parted-too", "d/joined-too"):
            os.remove(v.at(name))
        v.write("d/parted-too", b"another")
        os.link(v.at("d/joined"), v.at("d/joined-too"))
        self.assertIn("links", self.diff("c")["d/joined-too"][1])
        self.assertIn("links", self.diff("c")["d/parted-too"][1])
        v.cli("restore", "c")
        self.assert_restored(path="d")
        self.assertEqual(self.diff("c"), {})

    def test_directories_in_the_place_of_files(self):
        v = self.v
        v.write("d/file", b"file")
        os.makedirs(v.at("d/directory/inner"))
        v.write("d/directory/inner/f", b"f")
        self.clone_now()
        os.remove(v.at("d/file"))
        v.write("d/file/deep/er/young", b"")
        subprocess.run(["rm", "-r", v.at("d/directory")], check=True)
        v.write("d/directory", b"a file")
        answer = self.restore("c", code=1)
        self.assertEqual([(c["path"], c["error"]["code"]) for c in answer["changes"] if c["error"]],
                         [("d/file", "ENOTEMPTY")])
        self.assertEqual(os.listdir(v.at("d/file/deep/er")), ["young"])  # nothing was removed
        self.assertEqual(self.content("d/directory/inner/f"), b"f")
        self.assertEqual(self.restore("c", "--delete")["summary"]["failed"], 0)
        self.assert_restored()

    def test_generations(self):
        """While the next one is prepared, and after: what the name shows is what counts."""
        v = self.v
        v.write("f", b"first")
        self.clone_now()
        v.wait("c")
        v.write("f", b"second")
        v.cli("recreate", "c", "--precopy")
        self.assertEqual(self.diff("c"), {"f": ("modified", ["data", "size", "mtime"], None)})
        v.cli("activate", "c")
        self.assertEqual(self.diff("c"), {})
        v.write("f", b"third")
        v.cli("restore", "c")
        self.assertEqual(self.content("f"), b"second")

    def test_selected_paths_and_guard(self):
        v = self.v
        for name in ("a/b/one", "a/b/two", "c"):
            v.write(name, b"old")
        self.clone_now(name="night")
        for name in ("a/b/one", "a/b/two", "c"):
            v.write(name, b"new")
        answer = self.restore("night", "a/b/one", "--guard")
        self.assertEqual([self.content(n) for n in ("a/b/one", "a/b/two", "c")],
                         [b"old", b"new", b"new"])
        guard = answer["guard"]
        self.assertRegex(guard, r"^night-before-restore-\d{8}-\d{6}$")
        self.assertEqual(self.diff(guard), {"a/b/one": ("modified", ["data", "mtime"], None)})
        v.cli("restore", guard)
        self.assertEqual(self.content("a/b/one"), b"new")
        subprocess.run(["rm", "-r", v.at("a")], check=True)
        os.chmod(v.clone("night", "a"), 0o711)
        v.cli("restore", "night", "a/b/two")
        self.assertEqual(self.content("a/b/two"), b"old")
        self.assertFalse(os.path.exists(v.at("a/b/one")))
        self.assertEqual(stat.S_IMODE(os.stat(v.at("a")).st_mode), 0o711)

    def test_a_directory_that_is_gone(self):
        v = self.v
        v.write("d/e/file", b"content")
        self.clone_now()
        for cwd, path in ((v.path, "d/e/file"), (v.base, "volume/d/e/file"), (v.base, "./volume/d/../d/e")):
            shutil.rmtree(v.at("d"))
            if ".." in path:
                os.mkdir(v.at("d"))
            v.cli("restore", "c", path, cwd=cwd)
            self.assertEqual(self.content("d/e/file"), b"content")

    def test_elsewhere(self):
        v = self.v
        v.write("d/e/file", b"content", 0o640)
        os.link(v.at("d/e/file"), v.at("d/linked"))
        os.symlink("e/file", v.at("d/symlink"))
        self.clone_now()
        v.write("d/e/file", b"changed")
        to = os.path.join(v.base, "elsewhere")
        self.assertIn("create    d/e/file\n", v.cli("restore", "c", "d", "--to", to, "--dry-run"))
        self.assertFalse(os.path.exists(to))
        v.cli("restore", "c", "d", "--to", to)
        self.assert_restored(path="d", at=to)
        self.assertEqual(self.content("d/e/file"), b"changed")
        with open(os.path.join(to, "d/linked"), "ab") as file:
            file.write(b"...")
        v.cli("restore", "c", "d", "--to", to)
        self.assert_restored(path="d", at=to)

    @unittest.skipUnless(os.geteuid() == 0, "owners and devices are root's to give")
    def test_owners_devices_and_set_id_bits(self):
        v = self.v
        v.write("tool", b"tool", 0o755)
        os.chown(v.at("tool"), 5, 6)
        os.chmod(v.at("tool"), 0o6755)
        os.mknod(v.at("null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(v.at("socket"))
        self.clone_now()
        os.chown(v.at("tool"), 0, 0)
        v.write("tool", b"TOOL")
        for name in ("null", "socket"):
            os.remove(v.at(name))
        os.mknod(v.at("null"), stat.S_IFCHR | 0o666, os.makedev(1, 5))
        self.assertEqual(self.diff("c")["null"], ("modified", ["mtime", "device"], None))
        v.cli("restore", "c")
        self.assert_restored()

    def test_a_program_that_runs(self):
        v = self.v
        with open("/bin/sleep", "rb") as file:
            v.write("program", file.read(), 0o755)
        v.write("z", b"old")
        self.clone_now()
        with open(v.at("program"), "ab") as file:
            file.write(b"\0")
        v.write("z", b"new")
        running = subprocess.Popen([v.at("program"), "60"])
        try:
            answer = self.restore("c", code=1)
            failed = [c for c in answer["changes"] if c["error"]]
            self.assertEqual([(c["path"], c["error"]["code"]) for c in failed],
                             [("program", "ETXTBSY")])
            self.assertEqual(self.content("z"), b"old")  # the others are done
        finally:
            running.kill()
            running.wait()
        v.cli("restore", "c")
        self.assert_restored()

    def test_interrupted(self):
        """Killed anywhere, and run again: all is restored."""
        v = self.v
        for n in range(30):
            v.write(f"d/{n}", pattern(n, 300 * KIB))
        self.clone_now()
        for n in range(30):
            if n % 3 == 0:
                os.remove(v.at(f"d/{n}"))
            else:
                v.write(f"d/{n}", pattern(n + 100, 200 * KIB))
        env = dict(os.environ, CLONEFS_MOUNT=v.path)
        for n in range(6):
            child = subprocess.Popen([BIN, "restore", "c"], env=env, stdout=subprocess.DEVNULL)
            try:
                child.wait(timeout=0.02 * (n + 1))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            self.assertEqual([name for name in os.listdir(v.at("d"))
                              if os.path.getsize(v.at("d", name)) == 0], [])
        v.cli("restore", "c", "--delete")
        self.assert_restored()

    @unittest.skipUnless(os.geteuid() == 0, "swaps as another user")
    def test_links_in_the_way(self):
        """A directory that became a link: nothing is written where it leads."""
        v = self.v
        v.write("d/inner/file", b"old")
        self.clone_now()
        outside = os.path.join(v.base, "outside")
        for directory in (outside, v.at("other")):
            os.makedirs(os.path.join(directory, "inner"))
            with open(os.path.join(directory, "inner/file"), "wb") as file:
                file.write(b"not to be touched")
            subprocess.run(["rm", "-r", v.at("d")], check=True)
            os.symlink(os.path.relpath(directory, v.path), v.at("d"))
            with self.assertRaises(Refused):
                v.cli("restore", "c", "d/inner/file")
            with open(os.path.join(directory, "inner/file"), "rb") as file:
                self.assertEqual(file.read(), b"not to be touched")
        v.cli("restore", "c")
        self.assert_restored(path="d")


class OrdinaryUser(unittest.TestCase):
    @unittest.skipUnless(os.geteuid() == 0, "makes its own ordinary user, as root")
    def test_own_volume(self):
        run_as_user(self, USER_SCRIPT)


@unittest.skipUnless(os.geteuid() == 0, "commands as another user")
class Strangers(Case):
    def test_refused(self):
        self.v.write("f", b"")
        self.clone_now()
        for words in (("diff", "c"), ("restore", "c"), ("events",)):
            done = run("setpriv", "--reuid=4242", "--regid=4242", "--clear-groups", BIN, *words,
                       env=dict(os.environ, CLONEFS_MOUNT=self.v.path), cwd="/")
            self.assertEqual(done.returncode, 1)
            self.assertIn("only the owner of the volume", done.stdout)


if __name__ == "__main__":
    main()
