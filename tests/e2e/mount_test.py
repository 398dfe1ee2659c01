#!/usr/bin/env python3
"""clonefs mount and umount: in place and aside, daemon and foreground, what is refused, dead mounts,
busy ones, an ordinary user's."""
import errno
import os
import signal
import socket
import subprocess
import time
import unittest

from volume import BIN, OWN_NAMESPACE, Volume, main, mounts_beneath, run, wait_for


def fill(v):
    os.mkdir(os.path.join(v.source, "d"))
    with open(os.path.join(v.source, "d/file"), "wb") as file:
        file.write(b"data" * 10000)


class Mount(unittest.TestCase):
    def volume(self, **options):
        v = Volume(**options)
        self.addCleanup(v.clean_up)
        fill(v)
        return v

    def refused(self, *words, code=1):
        done = run(BIN, *words)
        self.assertEqual(done.returncode, code, done.stdout)
        self.assertTrue(done.stdout.startswith("clonefs: "), done.stdout)
        return done.stdout

    def test_daemon_answers_when_the_command_returns(self):
        v = self.volume(daemon=True)
        v.mount()
        self.assertEqual(os.listdir(v.at("d")), ["file"])
        self.assertEqual(os.listdir(v.at(".clonefs/clones")), [])
        self.assertTrue(v.clones_answer())
        # It belongs to nobody's terminal, working directory or pipes.
        self.assertEqual(os.readlink(f"/proc/{v.pid}/cwd"), "/")
        for fd in "012":
            self.assertEqual(os.readlink(f"/proc/{v.pid}/fd/{fd}"), "/dev/null")
        v.umount()
        self.assertTrue(os.path.exists(v.pool("clonefs.log")))

    def test_aside(self):
        v = self.volume(aside=True, daemon=True)
        v.mount()
        self.assertIn("not seen", v.said)  # the warning
        v.cli("copy", "x", "d")
        v.wait("x")
        self.assertEqual(os.listdir(v.clone("x", "d")), ["file"])
        v.umount()
        self.assertEqual(os.listdir(v.path), [])

    def test_writethrough_and_other_options(self):
        v = self.volume(options=["-o", "noauto,nosuid,noatime,cache=writethrough,track-size=4K"])
        v.mount()
        v.write("d/file", b"x" * 10000)
        with open(v.beneath("d/file"), "rb") as file:  # at once
            self.assertEqual(file.read(), b"x" * 10000)
        v.cli("create", "x", "d")
        self.assertEqual(v.status("x")["track_size"], 4096)
        with open("/proc/self/mountinfo", encoding="utf-8") as table:
            line, = [line for line in table if line.split()[4] == v.path]
        self.assertIn("nosuid", line.split()[5])

    @unittest.skipUnless(os.geteuid() == 0, "only root may set it")
    def test_reading_moves_times_of_access_unless_told(self):
        for options, moves in (([], True), (["-o", "noatime"], False), (["-o", "ro"], False)):
            with self.subTest(options=options):
                v = self.volume(options=options)
                places = [os.path.join(v.source, name) for name in ("d", "d/file")]
                for place in places:
                    os.utime(place, ns=(5, 10))  # older than mtime: relatime moves it
                v.mount()
                with open(v.at("d/file"), "rb") as file:
                    file.read()
                os.listdir(v.at("d"))
                for name in ("d", "d/file"):
                    self.assertEqual(os.stat(v.beneath(name)).st_atime_ns != 5, moves, name)

    @unittest.skipUnless(os.geteuid() == 0, "binds mounts")
    def test_what_is_bound_elsewhere(self):
        """umount of a part of the volume that was bound leaves the volume; that of the volume says
        where it is still mounted."""
        v = self.volume(daemon=True)
        v.mount()
        part, whole, single = (os.path.join(v.base, name) for name in ("part", "whole", "single"))
        os.mkdir(part)
        os.mkdir(whole)
        with open(single, "w", encoding="ascii"):
            pass
        for what, at in ((v.at("d"), part), (v.path, whole), (v.at("d/file"), single)):
            self.assertEqual(run("mount", "--bind", what, at).returncode, 0)
        self.assertEqual(os.listdir(part), ["file"])
        for at in (part, single, whole):
            said = self.refused("umount", v.path)
            self.assertIn("unmount that first", said)
            done = run(BIN, "umount", at)
            self.assertEqual(done.returncode, 0, done.stdout)
            self.assertEqual(os.listdir(v.at("d")), ["file"])
        self.assertEqual(os.listdir(whole), [])
        v.umount()

    def test_read_ahead_of_both_mounts(self):
        v = self.volume()
        v.mount()
        for path in (v.path, v.at(".clonefs/clones")):
            device = os.stat(path).st_dev
            at = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"

            def is_set():
                with open(at, encoding="ascii") as file:
                    return file.read().strip() == "512"
            wait_for(is_set, f"the read-ahead of {path}")  # set when the mount can be seen already

    def test_second_mount_of_a_volume(self):
        v = self.volume()
        v.mount()
        self.assertIn("already", self.refused("mount", v.path))
        self.assertIn("already", self.refused("mount", v.at("d")))
        other = os.path.join(v.base, "other")
        os.mkdir(other)
        self.assertIn("already", self.refused("mount", v.path, other))
        # Past the mount table, in the way a bind mount would: the pool's lock tells.
        self.assertEqual(os.listdir(v.at("d")), ["file"])
        self.assertEqual(mounts_beneath(other), [])

    def test_refused_places(self):
        v = self.volume()
        file = os.path.join(v.source, "d/file")
        below = os.path.join(v.source, "d")
        self.assertIn("nothing", self.refused("mount", os.path.join(v.base, "nothing")))
        self.assertIn("directory", self.refused("mount", file))
        self.assertIn("lies in", self.refused("mount", v.source, below))
        self.assertIn("pool", self.refused("mount", "--pool", below, v.source))
        self.assertIn("pool", self.refused("mount", "--pool", v.base, v.source))
        self.refused("mount", "-o", "bogus", v.source, code=2)
        self.refused("mount", code=2)
        self.assertEqual(os.listdir(v.source), ["d"])  # nothing was made
        self.assertEqual(mounts_beneath(v.base), [])

    def test_failure_is_reported_by_the_command(self):
        v = self.volume(pool="pool")
        with open(os.path.join(v.base, "pool"), "wb"):
            pass  # a file is no pool
        for foreground in ([], ["--foreground"]):
            text = self.refused("mount", *foreground, "--pool", v.given_pool, v.source)
            self.assertIn(f"cannot open the pool {v.given_pool}: Not a directory", text)
        self.assertEqual(mounts_beneath(v.base), [])

    def test_open_files_beneath_are_named(self):
        v = self.volume(daemon=True)
        with open(os.path.join(v.source, "d/file"), "rb") as held:
            holder = subprocess.Popen(["sleep", "600"], stdin=held)
        try:
            v.mount()
            self.assertIn(f"sleep (pid {holder.pid})", v.said)
            self.assertIn("d/file", v.said)
        finally:
            holder.kill()
            holder.wait()

    def test_busy_umount_changes_nothing(self):
        v = self.volume()
        v.mount()
        v.cli("copy", "x", "d")
        v.wait("x")
        for path in (v.at("d/file"), v.clone("x", "d/file")):
            with open(path, "rb") as held:
                done = run(BIN, "umount", v.path)
                self.assertEqual(done.returncode, 1)
                # Not with what it holds beneath the mount, by the same path.
                self.assertIn(f"(pid {os.getpid()}) uses {path} (open)", done.stdout)
                self.assertIn("still mounted", done.stdout)
                self.assertEqual(held.read(4), b"data")
            self.assertEqual(os.listdir(v.at("d")), ["file"])
            self.assertEqual(os.listdir(v.clone("x", "d")), ["file"])
            self.assertTrue(v.clones_answer())
            v.cli("copy", "again", "d")  # the flush works again
            v.cli("delete", "--force", "again")
        v.umount()

    def test_umount_waits_for_what_is_held_a_moment_longer(self):
        v = self.volume()
        v.mount()
        one, other = socket.socketpair()
        with one, other:
            fd = os.open(v.at("d/file"), os.O_RDONLY)
            socket.send_fds(one, [b"x"], [fd])  # on its way no process has it
            os.close(fd)
            with subprocess.Popen([BIN, "umount", v.path]) as command:
                time.sleep(0.1)  # less than it tries
                one.close()
                other.close()  # and what was on its way
                self.assertEqual(command.wait(30), 0)
        v.wait_end(0)

    @unittest.skipUnless(os.geteuid() == 0, "makes mount namespaces")
    def test_umount_with_copies_in_other_namespaces(self):
        v = self.volume()
        v.mount()

        def elsewhere(script):
            # It says when it is there.
            process = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sh", "-c", script, v.path],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
            process.stdout.readline()
            process.stdout.close()
            return process
        # Nobody uses it there.
        other = elsewhere("echo; exec sleep 60")
        v.umount()
        other.stdin.close()
        other.kill()
        v.mount()
        other = elsewhere("exec 3>>$0/d/file; echo; read go; echo more >&3; exec sleep 60")
        done = run(BIN, "umount", v.path)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn(f"open in another mount namespace: the daemon (pid {v.pid})", done.stdout)
        self.assertRegex(done.stdout, rf"Processes there: .*\b{other.pid}\b")
        self.assertFalse(os.path.ismount(v.path))
        other.stdin.write(b"\n")
        other.stdin.close()
        wait_for(lambda: open(v.at("d/file"), encoding="utf-8").read().endswith("more\n"), "it writes still")
        other.kill()
        v.wait_end(0)
        # A signal ends it in any case.
        for hold in ("", "exec 3>>$0/d/file; "):
            v.mount()
            other = elsewhere(hold + "echo; exec sleep 60")
            os.kill(v.pid, signal.SIGTERM)
            v.wait_end(0)
            other.kill()

    def test_nothing_is_mounted_over_the_root(self):
        self.assertIn("not mounted over /", self.refused("mount", "/"))

    def test_umount_of_what_is_none(self):
        v = self.volume()
        self.assertIn("not the mountpoint", self.refused("umount", v.source))
        self.refused("umount", os.path.join(v.base, "nothing/x"))
        self.refused("umount", code=2)

    def test_dead_mount_is_said_and_cleared(self):
        v = self.volume(daemon=True)
        v.mount()
        v.write("d/new", b"x")
        v.kill()
        self.assertIn("has ended", self.refused("status", "--mount", v.path))
        v.mount()
        self.assertIn("cleared", v.said)
        self.assertEqual(sorted(os.listdir(v.at("d"))), ["file", "new"])
        v.kill()
        done = run(BIN, "umount", v.path)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("cleared", done.stdout)
        self.assertEqual(mounts_beneath(v.base), [])

    def test_sigterm_ends_cleanly(self):
        for busy in (False, True):
            v = self.volume()
            v.mount()
            held = os.open(v.at("d/file"), os.O_RDWR)
            os.write(held, b"last words")
            if not busy:
                os.close(held)
            os.kill(v.pid, signal.SIGTERM)
            v.wait_end(0)
            self.assertEqual(mounts_beneath(v.base), [])
            with open(os.path.join(v.source, "d/file"), "rb") as file:
                self.assertEqual(file.read(10), b"last words")
            if busy:
                with self.assertRaises(OSError) as caught:
                    os.fsync(held)
                self.assertIn(caught.exception.errno, (errno.ENOTCONN, errno.ECONNABORTED))
                with self.assertRaises(OSError):  # says so too, and closes
                    os.close(held)

    def test_clones_mount_comes_back(self):
        v = self.volume()
        v.mount()
        v.cli("copy", "x", "d")
        if os.geteuid() == 0:
            self.assertEqual(run("umount", v.at(".clonefs/clones")).returncode, 0)
            wait_for(v.clones_answer, "the clones are mounted again")
            self.assertEqual(os.listdir(v.clone("x", "d")), ["file"])

    def test_mount_helper(self):
        v = self.volume()
        helper = os.path.join(v.base, "mount.fuse.clonefs")
        os.symlink(BIN, helper)
        mountpoint = os.path.join(v.base, "at")
        os.mkdir(mountpoint)
        done = run(helper, v.source, mountpoint, "-o", "rw,noauto,nofail,cache=writethrough")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(os.listdir(os.path.join(mountpoint, "d")), ["file"])
        if os.geteuid() == 0:
            for options, writable in (("remount,ro", False), ("rw,remount", True)):
                done = run(helper, v.source, mountpoint, "-o", options)
                self.assertEqual(done.returncode, 0, done.stdout)
                self.assertEqual(os.access(os.path.join(mountpoint, "d"), os.W_OK), writable)
        unhelper = os.path.join(v.base, "umount.fuse.clonefs")
        os.symlink(BIN, unhelper)
        done = run(unhelper, mountpoint)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(os.listdir(mountpoint), [])
        self.assertEqual(run(helper, v.source).returncode, 2)
        self.assertEqual(run(helper, v.source, mountpoint, "-o", "bogus").returncode, 1)


# umount(8) looks for its helper in /sbin: here one that has nothing else. It finds it when it looks into
# the mount table, as for a relative path; of an absolute one it asks statfs, which knows "fuse" only.
PLAIN_UMOUNT = OWN_NAMESPACE + r"""
set -e
mkdir "$BASE/sbin"
ln -s "$(dirname "$BIN")/umount.fuse.clonefs" "$BASE/sbin/"
umount=$(command -v umount)
mount --bind "$BASE/sbin" "$(readlink -f /sbin)"
for round in 1 2; do
  $BIN mount $V
  $BIN copy --mount $V x$round d
  refuses $umount -i $V 2>/dev/null  # without a helper
  test -e $V/.clonefs/ctl
  (cd $BASE && $umount volume)
  refuses grep " $V " /proc/self/mountinfo
done
echo all is well
"""


class PlainUmount(unittest.TestCase):
    @unittest.skipUnless(os.geteuid() == 0, "needs a mount namespace of its own")
    def test_umount_finds_its_helper(self):
        v = Volume()
        self.addCleanup(v.clean_up)
        fill(v)
        done = run("unshare", "-m", "bash", "-c", PLAIN_UMOUNT,
                   env=dict(os.environ, BASE=v.base, BIN=BIN, V=v.source))
        self.assertIn("all is well", done.stdout)
        self.assertEqual(done.returncode, 0, done.stdout)


# As an ordinary user: in a mount namespace of its own, with a /dev/fuse for all and a user that
# fusermount3 knows, so that the machine stays as it is.
AS_USER = OWN_NAMESPACE + r"""
set -e
mknod "$BASE/fuse" c 10 229 && chmod 666 "$BASE/fuse" && mount --bind "$BASE/fuse" /dev/fuse
cp /etc/passwd "$BASE/passwd"
echo "clonefs-test:x:4242:4242::/:/bin/sh" >> "$BASE/passwd"
mount --bind "$BASE/passwd" /etc/passwd
setpriv --reuid=4242 --regid=4242 --clear-groups env -u XDG_RUNTIME_DIR sh -ec "$SCRIPT"
"""
USER_SCRIPT = r"""
$BIN mount $V
test -e $V/.clonefs/ctl
$BIN copy x d
echo new > $V/d/file
test "$(cat $V/.clonefs/clones/x/d/file)" = old
test "$(cat $V/d/.clone/x/file)" = old
echo mine > $V/.clonefs/clones/x/d/file
mkdir $V/.clonefs/clones/y
test "$(cat $V/.clonefs/clones/y/d/file)" = new
rmdir $V/.clonefs/clones/y
$BIN wait x --timeout 30
$BIN terminate x
at=$(readlink $V/.clonefs/clones)
$BIN umount $V
test ! -e $at
test "$(cat $V/.clonefs/pool/clones/x/d/file)" = mine
chmod 555 $V
aside=$(mktemp -d)
$BIN mount $V $aside  # its pool is made, and may be written
$BIN umount $aside
rmdir $aside
echo all is well
"""


def run_as_user(test, script):
    """SCRIPT, as the user 4242, who owns the volume $V with d/file ("old"); it ends with "all is well"."""
    v = Volume()
    test.addCleanup(v.clean_up)
    os.mkdir(os.path.join(v.source, "d"))
    with open(os.path.join(v.source, "d/file"), "wb") as file:
        file.write(b"old\n")
    for path in (v.source, os.path.join(v.source, "d"), os.path.join(v.source, "d/file")):
        os.chown(path, 4242, 4242)
    env = dict(os.environ, BASE=v.base, SCRIPT=script, BIN=BIN, V=v.source, CLONEFS_MOUNT=v.source)
    done = run("unshare", "-m", "bash", "-c", AS_USER, env=env)
    test.assertIn("all is well", done.stdout)
    test.assertEqual(done.returncode, 0, done.stdout)


@unittest.skipUnless(os.geteuid() == 0, "mounts as another user")
class Strangers(unittest.TestCase):
    def test_what_is_not_theirs(self):
        """One sentence, that names what is in the way."""
        v = Volume()
        self.addCleanup(v.clean_up)
        own, closed = os.path.join(v.base, "own"), os.path.join(v.base, "closed")
        os.mkdir(own)
        os.chown(own, 4242, 4242)
        os.mkdir(closed, 0o700)
        for words, place in (((v.source,), v.source), ((own, "--pool", closed), closed),
                             ((own, "--pool", closed + "/pool"), closed), ((own, "--pool", v.base + "/new/"), v.base)):
            done = run("setpriv", "--reuid=4242", "--regid=4242", "--clear-groups", BIN, "mount", *words)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stdout, rf"^clonefs: mount: you may not write to {place}\S*, [^.]*\. [^.]*\.?\n$")
        self.assertEqual(os.listdir(own), [])


class OrdinaryUser(unittest.TestCase):
    @unittest.skipUnless(os.geteuid() == 0, "makes its own ordinary user, as root")
    def test_everything_on_own_files(self):
        run_as_user(self, USER_SCRIPT)


if __name__ == "__main__":
    main()
