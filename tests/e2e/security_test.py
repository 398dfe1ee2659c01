#!/usr/bin/env python3
"""What other users of the machine get through clonefs: no more than the source gives them. Who may
command, paths that change while they are resolved, clones in every state, set-id files and devices."""
import ctypes
import errno
import os
import random
import shutil
import signal
import stat
import struct
import sys
import traceback
import unittest

from volume import BIN, LONG, SEED, SKIPPED, Refused, Volume, VolumeTest, libc, main, run, wait_for

OWNER, OTHER, MEMBER, GROUP = 10001, 10002, 10003, 20001
AT_FDCWD = -100
RENAME_EXCHANGE = 2
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8


def as_user(uid, action, gid=None):
    """What ACTION returned in a process of user UID: a text, or an OSError's errno."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(gid or uid)
            os.setuid(uid)
            try:
                text = f"={action()}"
            except OSError as e:
                text = f"!{e.errno}"
            os.write(into, text.encode("utf-8", "surrogateescape"))
            code = 0
        except BaseException:  # pylint: disable=broad-except
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        text = pipe.read().decode("utf-8", "surrogateescape")
    _, status = os.waitpid(pid, 0)
    if status != 0 or not text:
        raise AssertionError(f"user {uid}: the process ended with {status}")
    return int(text[1:]) if text[0] == "!" else text[1:]


def content(path):
    with open(path, "rb") as file:
        return file.read()


def command(v, line, session=None):
    """One control line: "done", or an OSError."""
    where = f".clonefs/sessions/{session}/ctl" if session else ".clonefs/ctl"
    fd = os.open(v.at(where), os.O_WRONLY)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)
    return "done"


class Commands(VolumeTest):
    def setUp(self):
        super().setUp()
        os.makedirs(self.v.at("d"))
        os.chmod(self.v.at("d"), 0o777)
        self.v.write("d/file", b"x" * 10000)
        os.chown(self.v.path, OWNER, OWNER)

    def test_the_owner_alone_commands(self):
        v = self.v
        command(v, "copy mine . --nocopy")
        attempts = {
            "ctl": lambda: command(v, "copy c1 ."),
            "ctl of a session": lambda: command(v, "rate 1M", "mine"),
            "mkdir in clones": lambda: os.mkdir(v.clone("c2")),
            "rmdir in clones": lambda: os.rmdir(v.clone("mine")),
            "mkdir in .clone": lambda: os.mkdir(v.at("d/.clone/c3")),
            "rmdir in .clone": lambda: os.rmdir(v.at("d/.clone/mine")),
            "status": lambda: content(v.at(".clonefs/status")),
            "status.json": lambda: content(v.at(".clonefs/sessions/mine/status.json")),
            "events": lambda: content(v.at(".clonefs/events")),
            "events.json": lambda: content(v.at(".clonefs/events.json")),
            "log": lambda: content(v.at(".clonefs/log")),
            "metrics": lambda: content(v.at(".clonefs/metrics")),
        }
        for what, attempt in attempts.items():
            self.assertEqual(as_user(OTHER, attempt), errno.EACCES, what)
        for what, attempt in {
                "chmod": lambda: os.chmod(v.at(".clonefs/ctl"), 0o666),
                "chgrp": lambda: os.chown(v.at(".clonefs/ctl"), -1, OTHER)}.items():
            self.assertEqual(as_user(OTHER, attempt), errno.EPERM, what)
        for words in (["copy", "c4", "."], ["delete", "--force", "mine"]):
            done = as_user(OTHER, lambda w=words: (
                lambda p: f"{p.returncode} {p.stdout}")(run(BIN, "--mount", v.path, *w)))
            self.assertTrue(done.startswith("1 "), done)
            self.assertIn("only the owner", done)
        for uid, why in ((OTHER, "only the owner"), (OWNER, "only the user who mounted")):
            self.assertIn(why, as_user(uid, lambda: run(BIN, "umount", v.path).stdout))
        self.assertEqual(v.names(), ["mine"])

        self.assertEqual(as_user(OWNER, attempts["ctl"]), "done")
        for what in ("mkdir in clones", "mkdir in .clone"):
            self.assertEqual(as_user(OWNER, attempts[what]), "None", what)
        v.wait("c3")
        self.assertEqual(as_user(OWNER, lambda: os.rmdir(v.at("d/.clone/c3"))), "None")
        self.assertEqual(as_user(OWNER, attempts["rmdir in clones"]), "None")
        self.assertEqual(v.names(), ["c1", "c2"])

    def test_a_group_that_the_mode_admits(self):
        v = self.v
        def copy(name):
            return lambda: command(v, f"copy {name} d")
        os.chown(v.at(".clonefs/ctl"), -1, GROUP)
        self.assertEqual(as_user(MEMBER, copy("a"), GROUP), errno.EACCES)
        self.assertEqual(as_user(OWNER, lambda: os.chmod(v.at(".clonefs/ctl"), 0o660)), "None")
        self.assertEqual(as_user(MEMBER, copy("b"), GROUP), "done")
        self.assertEqual(as_user(OTHER, copy("c")), errno.EACCES)
        self.assertEqual(as_user(MEMBER, lambda: os.mkdir(v.clone("d")), GROUP), errno.EACCES)
        os.chown(v.path, MEMBER, GROUP)  # at once
        self.assertEqual(as_user(MEMBER, lambda: os.mkdir(v.clone("e")), GROUP), "None")
        self.assertEqual(as_user(OWNER, copy("f")), errno.EACCES)


class Paths(VolumeTest):
    """Somebody who may write in the volume changes directories for links while they are cloned."""
    SECRET = b"only root reads this\n" * 100

    def setUp(self):
        super().setUp()
        v = self.v
        self.outside = os.path.join(v.base, "outside")
        os.makedirs(os.path.join(self.outside, "x/y"))
        for name in ("x/y/f", "x/f", "f"):
            with open(os.path.join(self.outside, name), "wb") as file:
                file.write(self.SECRET)
            os.chmod(os.path.join(self.outside, name), 0o600)
        os.makedirs(v.at("w"))
        os.chown(v.at("w"), OTHER, OTHER)

    def attack(self):
        """Until it is killed: w/d and w/d/x are now a directory, now a link out of the volume."""
        v = self.v
        os.setgid(OTHER)
        os.setuid(OTHER)
        os.makedirs(v.at("w/d/x/y"))
        for name in ("x/y/f", "x/f", "f"):
            with open(v.at("w/d", name), "wb") as file:
                file.write(b"harmless")
        links = [self.outside, "../../outside", "/", ".clonefs", "../.clonefs/pool"]
        rng = random.Random(SEED)
        os.symlink(self.outside, v.at("w/d/l"))
        os.symlink(self.outside + "/x", v.at("w/l"))
        swap = [(v.at("w/d"), v.at("w/l")), (v.at("w/d/x"), v.at("w/d/l"))]
        while True:
            a, b = rng.choice(swap)
            libc.renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE)
            if rng.random() < 0.1:
                try:
                    target = rng.choice(links)
                    os.symlink(target + rng.choice(["", "/x"]), v.at("w/new"))
                    os.rename(v.at("w/new"), v.at("w/l"))
                except OSError:
                    pass

    def secrets_in(self, top):
        found = []
        for folder, _, files in os.walk(top):
            for name in files:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path) and self.SECRET[:20] in content(path):
                    found.append(path)
        return found

    def test_nothing_from_outside_gets_into_a_clone(self):
        v = self.v
        attacker = os.fork()
        if attacker == 0:
            try:
                libc.prctl(1, signal.SIGKILL)
                self.attack()
            finally:
                os._exit(1)
        taken = refused = 0
        try:
            wait_for(lambda: os.path.lexists(v.at("w/l")), "the attack")
            rounds = 600 if LONG else 60
            for i in range(rounds):
                path = ("w/d/x/y", "w/d/x", "w/d", "w", "w/d/x/f", "w/l", ".")[i % 7]
                by = (i // 7) % 3
                try:
                    if by == 0:
                        v.ctl(f"copy c{i} {path}")
                    elif by == 1:
                        v.ctl(f"create c{i} {path} --precopy")
                        v.ctl(f"activate c{i}")
                    else:
                        os.mkdir(v.at("w/d" if path != "." else "", f".clone/c{i}"))
                    taken += 1
                except (Refused, OSError) as e:
                    refused += 1
                    self.assertNotIn("root", str(e).lower().replace("root of", ""))
                    continue
                self.assertEqual(self.secrets_in(v.clone(f"c{i}")), [], f"{path} by way {by}")
                v.wait(f"c{i}")
                self.assertEqual(self.secrets_in(v.pool("clones", f"c{i}")), [], f"{path} by way {by}")
                v.ctl(f"delete c{i}")
        finally:
            os.kill(attacker, signal.SIGKILL)
            os.waitpid(attacker, 0)
        print(f"    {taken} clones taken, {refused} refused", flush=True)
        self.assertGreater(taken, 10)
        self.assertGreater(refused, 0)
        self.assertEqual(content(os.path.join(self.outside, "f")), self.SECRET)

    def test_a_link_in_a_clone_leads_nowhere(self):
        # The clone's user puts a link in the place of a directory; .clone must not follow it.
        v = self.v
        os.makedirs(v.at("w/a/x"))
        v.write("w/a/x/f", b"harmless")
        for path in ("w/a", "w/a/x"):
            os.chown(v.at(path), OTHER, OTHER)
        v.ctl("copy c w")
        self.assertEqual(os.listdir(v.at("w/a/x/.clone/c")), ["f"])
        # Within the pool's file system, where the daemon opens by handles.
        def replace():
            os.rename(v.clone("c", "w/a"), v.clone("c", "w/moved"))
            os.symlink(self.outside, v.clone("c", "w/a"))
            return "done"
        self.assertEqual(as_user(OTHER, replace), "done")
        for attempt in (lambda: os.listdir(v.at("w/a/x/.clone/c")),
                        lambda: content(v.at("w/a/x/.clone/c/f"))):
            with self.assertRaises(OSError) as caught:
                attempt()
            self.assertIn(caught.exception.errno, (errno.ELOOP, errno.ENOENT))
        self.assertEqual(os.listdir(v.at("w/a/x/.clone")), [])


class Views(VolumeTest):
    """A clone gives each user what the source gave at the consistency point, in every state."""
    USERS = (OWNER, OTHER)

    def setUp(self):
        super().setUp()
        v = self.v
        self.paths = []
        for path, mode, owner in (
                ("open", 0o755, 0), ("open/all", 0o644, OWNER), ("open/own", 0o600, OWNER),
                ("open/none", 0o000, OWNER), ("open/group", 0o640, OWNER), ("open/run", 0o4711, OWNER),
                ("closed", 0o700, OWNER), ("closed/all", 0o644, OWNER), ("closed/in", 0o755, OWNER),
                ("closed/in/all", 0o644, OWNER), ("pass", 0o711, OWNER), ("pass/all", 0o644, OWNER),
                ("drop", 0o1777, 0), ("drop/own", 0o600, OTHER), ("acl", 0o600, OWNER)):
            directory = path in ("open", "closed", "closed/in", "pass", "drop")
            if directory:
                os.mkdir(v.at(path))
            else:
                v.write(path, path.encode() * 30000)
            os.chown(v.at(path), owner, owner)
            os.chmod(v.at(path), mode)
            self.paths.append(path)
        self.acl = run("setfacl", "-m", f"u:{OTHER}:r", v.at("acl")).returncode == 0

    @staticmethod
    def rights(top, paths, uid):
        """What user UID can do with each path."""
        def look():
            found = []
            for path in paths:
                at = os.path.join(top, path)
                for what in (lambda: os.stat(at).st_mode, lambda: len(content(at)),
                             lambda: os.listdir(at) and "listed",
                             lambda: os.close(os.open(at, os.O_WRONLY))):
                    try:
                        found.append(f"{path} {what()}")
                    except OSError as e:
                        found.append(f"{path} {errno.errorcode[e.errno]}")
            return "\n".join(found)
        return as_user(uid, look)

    def all_rights(self, top, paths=None):
        return {uid: self.rights(top, paths or self.paths, uid) for uid in self.USERS}

    def assert_gives(self, expected, name, when):
        for uid in self.USERS:
            self.assertEqual(self.rights(self.v.clone(name), self.paths, uid), expected[uid],
                             f"{when}, user {uid}")

    def test_in_every_state(self):
        v = self.v
        if self.acl:
            self.assertNotIn("acl EACCES\nacl EACCES", self.rights(v.path, ["acl"], OTHER))
        v.ctl("create c . --precopy")
        v.wait("c", "precopied")
        for uid in (0, *self.USERS):  # locked
            self.assertEqual(as_user(uid, lambda: os.stat(v.clone("c"))), errno.ENOENT)
        # Tightened after it was precopied, before ACTIVATE.
        os.chmod(v.at("open/all"), 0o600)
        os.chmod(v.at("pass"), 0o700)
        expected = self.all_rights(v.path)
        self.assertIn("open/all EACCES", expected[OTHER])
        v.ctl("activate c")
        self.assert_gives(expected, "c", "after the activation of what was precopied")
        v.ctl("create n . --nocopy")
        v.ctl("activate n")
        self.assert_gives(expected, "n", "undrained")
        # Loosened and rewritten afterwards: that is the source's affair.
        for path in self.paths:
            os.chmod(v.at(path), 0o777)
        v.write("open/own", b"new" * 20000, 0o777)
        run("setfacl", "-b", v.at("acl"))
        self.assertNotEqual(self.all_rights(v.path), expected)
        self.assert_gives(expected, "n", "undrained, and loosened in the source")
        v.wait("c")
        self.assert_gives(expected, "c", "drained")
        v.ctl("terminate c")
        self.assert_gives(expected, "c", "terminated")
        v.remount()
        for name in ("c", "n"):
            self.assert_gives(expected, name, f"{name} after umount and mount")

    def test_dot_clone_is_no_way_around_a_directory(self):
        v = self.v
        v.ctl("create c . --nocopy")
        v.ctl("activate c")
        os.chmod(v.at("closed"), 0o755)  # now, but not at the consistency point
        self.assertEqual(as_user(OTHER, lambda: os.listdir(v.at("closed/in"))), "['all']")
        self.assertEqual(as_user(OWNER, lambda: os.listdir(v.at("closed/in/.clone/c"))), "['all']")
        for name in ("", "all"):
            self.assertEqual(as_user(OTHER, lambda n=name: os.stat(v.at("closed/in/.clone/c", n))),
                             errno.EACCES)

    def test_the_pool_is_the_daemons(self):
        v = self.v
        v.ctl("copy c .")
        v.wait("c")
        for uid in (0, OTHER):
            for path in (".clonefs/pool", ".clonefs/limbo", ".clonefs/pool/catalog.db"):
                self.assertEqual(as_user(uid, lambda p=path: os.stat(v.at(p))), errno.ENOENT)
        pool = os.stat(v.pool())
        self.assertEqual((stat.S_IMODE(pool.st_mode), pool.st_uid), (0o700, 0))
        seen = 0
        for folder in ("", "tracks", "journal"):
            for name in os.listdir(v.pool(folder)):
                self.assertEqual(os.stat(v.pool(folder, name)).st_mode & 0o077, 0, name)
                seen += 1
        self.assertGreater(seen, 8)

    def test_names_of_attributes_that_only_root_sees(self):
        v = self.v
        try:
            os.setxattr(v.at("open/all"), "trusted.t", b"1")
        except OSError as e:
            self.skipTest(f"no trusted attributes here: {e}")
        os.setxattr(v.at("open/all"), "user.u", b"1")
        v.ctl("copy c open")
        for path in (v.at("open/all"), v.clone("c", "open/all")):
            self.assertEqual(as_user(OTHER, lambda p=path: os.listxattr(p)), "['user.u']")
            self.assertIn("trusted.t", os.listxattr(path))

    def test_the_daemons_own_way_to_open_files_is_nobody_elses(self):
        # It flushes a file by a name in the root that leads past the directories above the file.
        v = self.v
        inotify = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        self.assertGreaterEqual(libc.inotify_add_watch(inotify, os.fsencode(v.path), 0x20), 0)  # IN_OPEN
        with open(v.at("closed/all"), "r+b") as held:
            held.write(b"dirty")
            held.flush()
            v.ctl("copy c .")
            names = set()
            data = os.read(inotify, 1 << 16)
            while data:
                _, _, _, length = struct.unpack_from("iIII", data)
                names.add(data[16:16 + length].rstrip(b"\0").decode())
                data = data[16 + length:]
            os.close(inotify)
            own = [name for name in names if name.startswith(".clonefs-self-")]
            self.assertTrue(own, names)  # seen, so that what follows means something
            for name in own:
                for uid in (0, OTHER):
                    self.assertEqual(as_user(uid, lambda n=name: content(v.at(n))), errno.ENOENT)


class Flags(unittest.TestCase):
    """Set-id files and devices count through clonefs where they count on the source's own mount."""

    def mounted(self, flags):
        v = Volume()
        self.addCleanup(v.clean_up)
        done = libc.mount(b"tmpfs", os.fsencode(v.source), b"tmpfs", flags, b"size=64m,mode=755")
        self.assertEqual(done, 0, os.strerror(ctypes.get_errno()))
        shutil.copy("/usr/bin/id", os.path.join(v.source, "id"))
        os.chmod(os.path.join(v.source, "id"), 0o4755)
        os.mknod(os.path.join(v.source, "null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.chmod(os.path.join(v.source, "null"), 0o666)
        self.native = self.behaviour(v.source)
        v.mount()
        v.ctl("copy c .")
        v.wait("c")
        return v

    @staticmethod
    def behaviour(top):
        def ask():
            try:
                ids = run(os.path.join(top, "id"), "-u").stdout.strip()
            except OSError as e:
                ids = e.errno
            try:
                os.close(os.open(os.path.join(top, "null"), os.O_RDWR))
                device = "open"
            except OSError as e:
                device = e.errno
            return f"{ids} {device}"
        return as_user(OTHER, ask)

    def end(self, v):
        done = run(BIN, "umount", v.path)
        self.assertEqual(done.returncode, 0, done.stdout)
        v.wait_end(0)
        libc.umount2(os.fsencode(v.source), 2)  # MNT_DETACH: the Volume holds it

    def test_as_on_the_source(self):
        for flags, expected in ((0, "0 open"), (MS_NOSUID, f"{OTHER} open"),
                                (MS_NODEV, f"0 {errno.EACCES}"),
                                (MS_NOSUID | MS_NODEV | MS_NOEXEC, f"{errno.EACCES} {errno.EACCES}")):
            v = self.mounted(flags)
            self.assertEqual(self.native, expected)
            self.assertEqual(self.behaviour(v.path), expected, flags)
            self.assertEqual(self.behaviour(v.clone("c")), expected, flags)
            self.end(v)

    def test_asking_for_more_than_the_source_has(self):
        v = Volume(options=["-o", "suid,dev"])
        self.addCleanup(v.clean_up)
        self.assertEqual(libc.mount(b"tmpfs", os.fsencode(v.source), b"tmpfs", MS_NOSUID | MS_NODEV,
                                    b"size=64m"), 0)
        v.mount()
        with open("/proc/self/mountinfo", encoding="utf-8") as table:
            flags = [line.split()[5] for line in table if line.split()[4].startswith(v.path)]
        self.assertEqual(len(flags), 3)  # the source, the volume, the clones
        for text in flags:
            self.assertIn("nosuid,nodev", text)
        self.end(v)


class Pools(unittest.TestCase):
    def test_a_pool_that_the_volumes_owner_planted(self):
        v = Volume()
        self.addCleanup(v.clean_up)
        os.chown(v.source, OWNER, OWNER)
        self.assertEqual(as_user(OWNER, lambda: os.makedirs(os.path.join(v.source, ".clonefs/pool"))),
                         "None")
        with self.assertRaises(Refused) as caught:
            v.mount()
        self.assertIn(f"belongs to user {OWNER}", caught.exception.text)


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("skipped: only root can be several users")
        sys.exit(SKIPPED)
    main()
