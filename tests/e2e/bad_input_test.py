#!/usr/bin/env python3
"""Everything that must be refused: with a clear message, a fitting errno in the control file, the
right exit code on the command line (1 refused, 2 wrong usage), and nothing changed.
"""
import errno
import os
import subprocess

import tree
from volume import BIN, Refused, Volume, VolumeTest, main, mounts_beneath, run

MIB = 1 << 20


class BadInput(VolumeTest):
    pool = "pool"

    def setUp(self):
        super().setUp()
        v = self.v
        v.write("d/file", b"data" * 50000)
        v.write("file", b"other" * 50000)
        os.symlink("/etc", v.at("outside"))
        os.symlink("../..", v.at("d/up"))
        os.symlink("d", v.at("inside"))
        os.mkfifo(v.at("fifo"))
        with open(os.path.join(v.base, "secret"), "w", encoding="ascii") as file:
            file.write("not of this volume")
        v.ctl("copy done d")
        v.wait("done")
        v.ctl("copy pending d --nocopy")
        v.ctl("create created d")
        v.ctl("create precopied d --precopy")
        v.wait("precopied", "precopied")
        v.ctl("copy ended d")
        v.wait("ended")
        v.ctl("terminate ended")

    def everything(self):
        """What a refused command must leave as it is."""
        v = self.v
        sessions = v.status_json()["sessions"]
        return (tree.capture(v.path), sessions, v.cli("list"),
                {name: tree.capture(v.clone(name)) for name in ("done", "ended")},
                sorted(os.listdir(v.at(".clonefs/clones"))), sorted(os.listdir(v.at("d/.clone"))),
                sorted(os.listdir(v.pool("clones"))), sorted(os.listdir(v.pool("incomplete"))))

    # (control line, errno, exit code of the same words, words in the message)
    LINES = [
        ("frobnicate x .", errno.EINVAL, 2, ["frobnicate"]),
        ("", errno.EINVAL, None, ["command"]),
        ("mount /tmp", errno.EINVAL, None, ["mount"]),
        ("umount .", errno.EINVAL, None, ["umount"]),
        ("create", errno.EINVAL, 2, ["NAME"]),
        ("create x", errno.EINVAL, 2, ["PATH"]),
        ("create x d --nonsense", errno.EINVAL, 2, ["--nonsense"]),
        ("create x d --extent 1M", errno.EINVAL, 2, ["1M"]),
        ("create x d --extent 0:0", errno.EINVAL, 2, ["extent"]),
        ("create x d --extent a:b", errno.EINVAL, 2, ["a"]),
        ("create x d --extent -1:4096", errno.EINVAL, 2, []),
        ("create x d --extent 9000P:1", errno.EINVAL, 2, []),
        ("create x d --track-size 5000", errno.EINVAL, 2, ["5000"]),
        ("create x d --track-size 2K", errno.EINVAL, 2, ["2K"]),
        ("create x d --track-size 32M", errno.EINVAL, 2, ["32M"]),
        ("create x d --precopy --nocopy", errno.EINVAL, (1, 2), ["nocopy"]),
        ("copy x d --precopy", errno.EINVAL, 2, ["--precopy"]),
        ("create .hidden d", errno.EINVAL, 2, [".hidden"]),
        ("create a/b d", errno.EINVAL, 2, ["a/b"]),
        ("create .. d", errno.EINVAL, 2, [".."]),
        ("create " + "n" * 65 + " d", errno.EINVAL, 2, ["nnn"]),
        ("create 'a b' d", errno.EINVAL, 2, ["a b"]),
        ("create n\u00e4me d", errno.EINVAL, 2, []),
        ("create done d", errno.EEXIST, 1, ["done"]),
        ("copy ended d", errno.EEXIST, 1, ["ended"]),
        ("copy pending .", errno.EEXIST, 1, ["pending"]),
        ("create x nothing", errno.ENOENT, 1, ["nothing"]),
        ("create x d nothing/there", errno.ENOENT, 1, ["nothing/there"]),
        ("create x d/file/deeper", errno.ENOTDIR, 1, ["d/file/deeper"]),
        ("create x ''", errno.EINVAL, (1, 2), []),
        ("create x ..", errno.EXDEV, 1, [".."]),
        ("create x ../secret", errno.EXDEV, 1, ["../secret"]),
        ("create x d/../../secret", errno.EXDEV, 1, ["d/../../secret"]),
        ("create x /etc/passwd", errno.EXDEV, 1, ["/etc/passwd"]),
        ("create x outside/passwd", errno.EXDEV, 1, ["outside/passwd"]),
        ("create x d/up/secret", errno.EXDEV, 1, ["d/up/secret"]),
        ("create x d ../secret", errno.EXDEV, 1, ["../secret"]),
        ("create x .clonefs", errno.EINVAL, 1, [".clonefs"]),
        ("create x .clonefs/pool", errno.EINVAL, 1, [".clonefs"]),
        ("create x .clonefs/clones/done", errno.EINVAL, 1, [".clonefs"]),
        ("create x d/../.clonefs", errno.EINVAL, 1, [".clonefs"]),
        ("activate nobody", errno.ENOENT, 1, ["nobody"]),
        ("activate", errno.EINVAL, 2, ["NAME"]),
        ("activate created nobody", errno.ENOENT, 1, ["nobody"]),
        ("activate created done", errno.EINVAL, 1, ["done"]),
        ("activate pending", errno.EALREADY, 1, ["pending"]),
        ("activate ended", errno.EINVAL, 1, ["ended"]),
        ("precopy nobody", errno.ENOENT, 1, ["nobody"]),
        ("precopy precopied", errno.EALREADY, 1, ["precopied"]),
        ("precopy pending", errno.EINVAL, 1, ["pending"]),
        ("precopy created nobody", errno.ENOENT, 1, ["nobody"]),
        ("terminate nobody", errno.ENOENT, 1, ["nobody"]),
        ("terminate pending", errno.EBUSY, 1, ["pending", "force"]),
        ("terminate created", errno.EBUSY, 1, ["created", "force"]),
        ("terminate done pending", errno.EBUSY, 1, ["pending"]),
        ("terminate ended", errno.EALREADY, 1, ["ended"]),
        ("delete nobody", errno.ENOENT, 1, ["nobody"]),
        ("delete created", errno.EBUSY, 1, ["created", "force"]),
        ("delete done pending", errno.EBUSY, 1, ["pending", "force"]),
        ("delete pending", errno.EBUSY, 1, ["pending"]),
        ("delete ended nobody", errno.ENOENT, 1, ["nobody"]),
        ("status nobody", errno.ENOENT, 1, ["nobody"]),
        ("wait nobody", errno.ENOENT, 1, ["nobody"]),
        ("wait created --for precopied", errno.EINVAL, 1, ["created"]),
        ("wait created --for nonsense", errno.EINVAL, 2, ["nonsense"]),
        ("wait pending", errno.EINVAL, 1, ["nocopy"]),
        ("wait created --timeout x", errno.EINVAL, 2, ["x"]),
        ("extents nobody", errno.ENOENT, 1, ["nobody"]),
        ("extents ../secret", errno.EXDEV, 1, ["../secret"]),
        ("rate nobody 1M", errno.ENOENT, 1, ["nobody"]),
        ("rate created 0", errno.EINVAL, 2, ["unlimited"]),
        ("rate created fast", errno.EINVAL, 2, ["fast"]),
    ]

    def test_refused_in_the_control_file(self):
        before = self.everything()
        for line, code, _, words in self.LINES:
            with self.subTest(line=line):
                self.assert_refused(code, lambda line=line: self.v.ctl(line + "\n"), *words)
        self.assertEqual(self.everything(), before)

    def test_refused_on_the_command_line(self):
        import shlex
        before = self.everything()
        env = dict(os.environ, CLONEFS_MOUNT=self.v.path)
        for line, _, code, words in self.LINES:
            if code is None:
                continue
            with self.subTest(line=line):
                done = subprocess.run([BIN, *shlex.split(line)], cwd=self.v.path, env=env, text=True,
                                      capture_output=True, timeout=30, check=False)
                codes = code if isinstance(code, tuple) else (code,)
                self.assertIn(done.returncode, codes, done.stderr)
                self.assertEqual(done.stdout, "")
                for word in words:
                    self.assertIn(word, done.stderr)
        self.assertEqual(self.everything(), before)

    def test_lines_that_are_none(self):
        before = self.everything()
        for line, code in ((b"status\nstatus\n", errno.EINVAL), (b"status\0\n", errno.EINVAL),
                           (b"status 'open\n", errno.EINVAL), (b"status \\", errno.EINVAL),
                           (b"create x d " + b"a" * 66000, errno.E2BIG),
                           (b"\xff\xfe\xfd\n", errno.EINVAL), (os.urandom(4000), errno.EINVAL)):
            with self.subTest(line=line[:20]):
                self.assert_refused(code, lambda line=line: self.v.ctl(line))
        with self.assertRaises(OSError):
            with open(self.v.at(".clonefs/sessions/done/ctl"), "w", encoding="ascii") as file:
                file.write("create x\n")
        self.assertEqual(self.everything(), before)

    def test_directories_that_cannot_be_clones(self):
        v = self.v
        before = self.everything()
        for path, code in ((v.clone("done"), errno.EEXIST), (v.clone(".x"), errno.EINVAL),
                           (v.clone("x y"), errno.EINVAL), (v.at("d/.clone/done"), errno.EEXIST),
                           (v.at("d/.clone/-x"), errno.EINVAL)):
            with self.subTest(mkdir=path):
                self.assert_refused(code, lambda path=path: os.mkdir(path))
        for path, code in ((v.clone("nobody"), errno.ENOENT), (v.clone("created"), errno.ENOENT),
                           (v.at("d/.clone/nobody"), errno.ENOENT)):
            with self.subTest(rmdir=path):
                self.assert_refused(code, lambda path=path: os.rmdir(path))
        for path in (v.at(".clonefs"), v.at(".clonefs/clones"), v.at(".clonefs/sessions"),
                     v.at("d/.clone")):
            with self.subTest(rmdir=path):
                with self.assertRaises(OSError):
                    os.rmdir(path)
        for action in (lambda: os.mkdir(v.at(".clonefs")), lambda: os.mkdir(v.at(".clonefs/x")),
                       lambda: os.unlink(v.at(".clonefs/ctl")),
                       lambda: os.rename(v.at(".clonefs"), v.at("x")),
                       lambda: os.rename(v.at("file"), v.at(".clonefs/clones/x")),
                       lambda: os.rename(v.at("file"), v.at(".clonefs/README")),
                       lambda: os.rename(v.clone("done"), v.clone("else")),
                       lambda: os.symlink("x", v.clone("x")),
                       lambda: open(v.clone("x"), "w", encoding="ascii").close(),
                       lambda: open(v.at(".clonefs/status"), "w", encoding="ascii").close(),
                       lambda: os.link(v.at("file"), v.clone("done", "d/x"))):
            with self.assertRaises(OSError):
                action()
        self.assertEqual(self.everything(), before)

    def test_no_free_columns(self):
        with Volume(options=("-o", "columns=3")) as v:
            v.mount()
            v.write("file", b"x")
            for i in range(3):
                v.ctl(f"create c{i} .")
            before = v.status_json()["sessions"]
            self.assert_refused(errno.EUSERS, lambda: v.ctl("create more ."), "3")
            self.assertEqual(v.status_json()["sessions"], before)
            v.ctl("terminate c0 --force")
            v.ctl("create more .")

    def test_nothing_but_the_owner_commands(self):
        if os.geteuid() != 0:
            self.skipTest("needs root, to be somebody else")
        before = self.everything()
        v = self.v
        nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
        env = dict(os.environ, CLONEFS_MOUNT=v.path)
        for words in (["create", "x", "."], ["delete", "done", "--force"], ["status"]):
            done = run(*nobody, BIN, *words, env=env)
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn("owner", done.stdout)
        for path in (v.clone("x"), v.at("d/.clone/x")):
            self.assertNotEqual(run(*nobody, "mkdir", path).returncode, 0)
        for path in (v.clone("done"), v.at("d/.clone/done")):
            self.assertNotEqual(run(*nobody, "rmdir", path).returncode, 0)
        self.assertEqual(self.everything(), before)
        # Unless the mode of the control file admits them.
        os.chmod(v.at(".clonefs/ctl"), 0o666)
        done = run(*nobody, BIN, "create", "x", "d", env=env)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("x", v.names())


class Places(VolumeTest):
    """Where a volume may be, and its pool."""

    def mount_refused(self, *words, contains=(), code=1):
        done = run(BIN, "mount", *words)
        self.assertEqual(done.returncode, code, done.stdout)
        for word in contains:
            self.assertIn(word, done.stdout)

    def test_second_mount(self):
        v = self.v
        v.write("file", b"data")
        before = tree.capture(v.path)
        mounts = mounts_beneath(v.base)
        other = os.path.join(v.base, "other")
        os.mkdir(other)
        self.mount_refused(v.path, contains=["already", "umount"])
        self.mount_refused(v.path, other, contains=["already"])
        self.mount_refused(other, v.path, contains=["already"])
        self.mount_refused(v.at(".clonefs/clones"))
        with Volume(pool="pool").mount() as w:
            # Another directory with the pool of a volume that is mounted.
            self.mount_refused("--pool", w.given_pool, other, contains=[w.given_pool])
        self.assertEqual(mounts_beneath(v.base), mounts)
        self.assertEqual(tree.capture(v.path), before)
        self.assertEqual(os.listdir(other), [])

    def test_second_mount_of_the_same_source(self):
        with Volume(aside=True).mount() as v:
            other = os.path.join(v.base, "other")
            os.mkdir(other)
            # The source is not covered; its lock tells.
            self.mount_refused(v.source, other, contains=["served by another clonefs"])
            self.mount_refused(v.source, contains=["served by another clonefs"])
            v.write("file", b"still works")

    def test_pool_places(self):
        with Volume() as v:
            os.mkdir(v.at("inner"))
            for pool in (v.at("inner"), v.at("new/pool"), v.base, v.path, "/"):
                with self.subTest(pool=pool):
                    self.mount_refused("--pool", pool, v.path, contains=["pool"])
            file = v.write("file", b"x")
            self.mount_refused("--pool", file, v.path)
            self.assertEqual(sorted(os.listdir(v.path)), ["file", "inner"])

    def test_pool_of_another_volume(self):
        with Volume(pool="pool") as v:
            v.mount()
            v.umount()
            other = os.path.join(v.base, "other")
            os.mkdir(other)
            self.mount_refused("--pool", v.given_pool, other, contains=["pool"])

    def test_directories_that_are_none(self):
        with Volume() as v:
            file = v.write("file", b"x")
            self.mount_refused(v.at("nothing"), contains=["nothing"])
            self.mount_refused(file, contains=["file", "directory"])
            self.mount_refused(v.path, file, contains=["file", "directory"])
            self.mount_refused(v.path, v.at("nothing"), contains=["nothing"])
            self.mount_refused("--cache", "nonsense", v.path, contains=["nonsense"], code=2)
            self.mount_refused("-o", "track-size=7", v.path, contains=["7"], code=2)
            self.mount_refused(code=2)
            self.mount_refused(v.path, v.path, v.path, code=2)
            self.assertEqual(os.listdir(v.path), ["file"])

    def test_umount_of_what_is_none(self):
        with Volume() as v:
            done = run(BIN, "umount", v.path)
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn(v.path, done.stdout)
            self.assertEqual(run(BIN, "umount").returncode, 2)

    def test_umount_while_in_use(self):
        v = self.v
        v.write("file", b"x")
        v.ctl("copy c .")
        with subprocess.Popen(["sleep", "1000"], cwd=v.path) as user:
            try:
                done = run(BIN, "umount", v.path)
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertIn(str(user.pid), done.stdout)
                self.assertEqual(os.listdir(v.clone("c")), ["file"])
                v.ctl("copy d .")
            finally:
                user.kill()
        with subprocess.Popen(["sleep", "1000"], cwd=v.clone("c")) as user:
            try:
                done = run(BIN, "umount", v.path)
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertEqual(os.listdir(v.clone("c")), ["file"])
            finally:
                user.kill()

    def test_no_mount_is_found(self):
        done = run(BIN, "--mount", "/", "status")
        self.assertEqual(done.returncode, 1, done.stdout)
        done = run(BIN, "status", cwd="/", env={**os.environ, "CLONEFS_MOUNT": "/nothing"})
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("/nothing", done.stdout)

    def test_too_little_space(self):
        if os.geteuid() != 0:
            self.skipTest("needs root, to mount a small file system")
        with Volume(pool="small/pool") as v:
            small = os.path.join(v.base, "small")
            os.mkdir(small)
            done = run("mount", "-t", "tmpfs", "-o", "size=8m", "clonefs-e2e", small)
            if done.returncode != 0:
                self.skipTest("no tmpfs can be mounted: " + done.stdout)
            v.mount()
            v.write("big", b"x" * (32 * MIB))
            v.write("little", b"y" * MIB)
            os.sync()
            free = os.statvfs(small).f_bavail
            self.assert_refused(errno.ENOSPC, lambda: v.ctl("copy big big"), "thin")
            self.assertEqual(v.names(), [])
            # Less what the catalog says of it.
            self.assertGreater(os.statvfs(small).f_bavail, free - 64)
            self.assertEqual(os.listdir(v.pool("incomplete")), [])
            v.ctl("copy little little")
            v.ctl("create thin big --thin")
            with open(v.at("big"), "rb") as file:
                self.assertEqual(len(file.read()), 32 * MIB)
            v.ctl("delete thin --force")
            # The pool runs full while a clone drains: that pauses. A write to what cannot be saved
            # fails the clone, the volume goes on.
            v.ctl("copy full big --thin")
            self.assert_refused(errno.EIO, lambda: v.wait("full"), "paused", "clonefs resume full")
            self.assertEqual(v.status("full")["state"], "CopyInProgress")
            self.assertEqual(v.status("full")["op_status"], "paused")
            self.assertIn("No space left", v.status("full")["error"])
            v.write("big", b"z" * (33 * MIB))
            os.sync()
            self.assertEqual(v.status("full")["state"], "Failed")
            self.assertIn("big", v.status("full")["error"])
            v.ctl("delete full --force")
            v.wait("little")


if __name__ == "__main__":
    main()
