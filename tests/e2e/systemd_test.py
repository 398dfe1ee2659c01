#!/usr/bin/env python3
"""clonefs as a service: what it tells systemd (the notify protocol, with a socket of the test's own), the
units, fstab."""
import glob
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
import unittest

from volume import BIN, OWN_NAMESPACE, Volume, main, run, wait_for

TOP = os.environ.get("CLONEFS_SOURCE_DIR") or os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                                           "../..")
UNITS = os.path.join(TOP, "packaging/systemd")


class Manager:
    """The manager's end of the notify socket."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address[0] == "@" else address)
        self.env = {"NOTIFY_SOCKET": address}
        self.got = []

    def take(self, timeout=0.0):
        """What came, and for as long as TIMEOUT what comes."""
        self.socket.settimeout(max(timeout, 0.001))
        try:
            self.got.append(self.socket.recv(65536).decode())
            return self.got[-1]
        except (TimeoutError, BlockingIOError):
            return None

    def wait(self, line, timeout=30.0):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            message = self.take(0.5)
            if message and line in message.split("\n"):
                return message
        raise AssertionError(f"waited in vain for {line}; got {self.got}")


class Notify(unittest.TestCase):
    def start(self, address, **env):
        v = Volume()
        self.addCleanup(v.clean_up)
        manager = Manager(address.replace("BASE", v.base))
        self.addCleanup(manager.socket.close)
        os.environ.update(manager.env, **env)
        try:
            v.mount()
        finally:
            for name in (*manager.env, *env):
                del os.environ[name]
        return v, manager

    def test_ready_when_the_mount_answers_and_stopping(self):
        for address in ("BASE/notify", "@clonefs-test-" + str(os.getpid())):
            v, manager = self.start(address)
            message = manager.wait("READY=1")
            self.assertIn(f"STATUS={v.source} is mounted at {v.path}", message)
            self.assertEqual(len(manager.got), 1)  # not before, not twice, no watchdog that nobody wants
            os.kill(v.pid, signal.SIGTERM)
            manager.wait("STOPPING=1")
            v.wait_end(0)

    def test_ready_is_not_said_before_the_mount_answers(self):
        """Asked at the moment when READY=1 comes, and not a poll later."""
        v = Volume()
        self.addCleanup(v.clean_up)
        manager = Manager(os.path.join(v.base, "notify"))
        self.addCleanup(manager.socket.close)
        child = subprocess.Popen(v.mount_words(), env=dict(os.environ, **manager.env),
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        v.child, v.pid = child, child.pid
        manager.wait("READY=1")
        self.assertEqual(v.status_json()["pid"], child.pid)
        self.assertTrue(v.clones_answer())

    def test_watchdog(self):
        v, manager = self.start("BASE/notify", WATCHDOG_USEC="200000")
        for _ in range(3):
            manager.wait("WATCHDOG=1", timeout=5)
        v.umount()
        v, manager = self.start("BASE/notify", WATCHDOG_USEC="200000", WATCHDOG_PID="1")
        manager.wait("READY=1")
        self.assertIsNone(manager.take(1.0))  # somebody else's watchdog

    def test_a_mount_that_fails_is_not_ready(self):
        v = Volume()
        self.addCleanup(v.clean_up)
        manager = Manager(os.path.join(v.base, "notify"))
        self.addCleanup(manager.socket.close)
        done = run(BIN, "mount", "--foreground", os.path.join(v.base, "none"),
                   env=dict(os.environ, **manager.env))
        self.assertEqual(done.returncode, 1)
        self.assertIsNone(manager.take())


def exec_lines(unit, key, instance_path, **variables):
    """The commands of KEY in a unit, with what systemd puts in."""
    found = []
    with open(os.path.join(UNITS, unit), encoding="utf-8") as file:
        text = file.read().replace("\\\n", "").replace("/usr/bin/clonefs", BIN)
    for line in re.findall(rf"^{key}=(.*)$", text, re.M):
        words = []
        for word in shlex.split(line.lstrip("-")):
            if word.startswith("$"):
                words += shlex.split(variables.get(word[1:], ""))
            else:
                words.append(word.replace("%f", instance_path).replace("%i", instance_path)
                             .replace("$$", "$"))
        found.append(words)
    return found


class Units(unittest.TestCase):
    def test_systemd_takes_them(self):
        if not shutil.which("systemd-analyze"):
            self.skipTest("no systemd-analyze here")
        v = Volume()
        self.addCleanup(v.clean_up)
        instances = []
        for path in sorted(glob.glob(os.path.join(UNITS, "*"))):
            with open(path, encoding="utf-8") as file:
                text = file.read().replace("/usr/bin/clonefs", BIN)
            with open(os.path.join(v.base, os.path.basename(path)), "w", encoding="utf-8") as file:
                file.write(text)
            name = os.path.basename(path)
            instances.append(name.replace("@.", "@srv-data."))
        self.assertGreaterEqual(len(instances), 5)
        done = run("systemd-analyze", "verify", "--man=no", *(os.path.join(v.base, name) for name in instances),
                   env=dict(os.environ, SYSTEMD_LOG_LEVEL="warning"))
        mine = [line for line in done.stdout.splitlines() if v.base in line or "clonefs" in line]
        self.assertEqual((done.returncode, mine), (0, []), done.stdout)

    def test_none_makes_a_mount_namespace(self):
        """The volume would be mounted in there."""
        for name in glob.glob(os.path.join(UNITS, "clonefs@.service")):
            with open(name, encoding="utf-8") as file:
                keys = re.findall(r"^(\w+)=", file.read(), re.M)
            for key in keys:
                self.assertNotRegex(key, r"^(Protect|Private|ReadOnly|ReadWrite|Inaccessible|Bind|Temporary|"
                                         r"Root|Mount|Dynamic|Restrict(SUIDSGID|Namespaces))", key)
            self.assertIn("ExecStart", keys)

    def test_the_commands_of_the_units(self):
        """Start, refresh by the timer's unit twice, kill and start again, stop."""
        v = Volume(aside=False)
        self.addCleanup(v.clean_up)
        with open(os.path.join(v.source, "f"), "wb") as file:
            file.write(b"one")
        start, = exec_lines("clonefs@.service", "ExecStart", v.source,
                            CLONEFS_OPTIONS="--cache writethrough --log stderr")
        start = [word for word in start if word != "journal"]
        start.remove("--log")
        v.mount_words = lambda: start
        v.mount()
        commands = exec_lines("clonefs-clone@.service", "ExecStart", "daily")
        env = dict(os.environ, CLONEFS_MOUNT=v.path, CLONEFS_PATHS=".", CLONEFS_RECREATE="--keep 1")
        for content in (b"two", b"three"):
            if content == b"three":
                with open(v.clone("daily", "f"), "rb"):  # as a backup that goes on
                    codes = [run(*command, env=env).returncode for command in commands]
                self.assertEqual(codes, [0, 0, 1], "refused while the generation before is read")
            v.write("f", content)
            for command in commands:
                done = run(*command, env=env)
                self.assertEqual(done.returncode, 0, done.stdout)
            v.wait("daily")
            with open(v.clone("daily", "f"), "rb") as file:
                self.assertEqual(file.read(), content)
        with open(v.clone("daily.1", "f"), "rb") as file:
            self.assertEqual(file.read(), b"two")
        v.kill()
        v.mount()  # Restart=on-failure
        with open(v.clone("daily", "f"), "rb") as file:
            self.assertEqual(file.read(), b"three")
        stop, = exec_lines("clonefs@.service", "ExecStop", v.source)
        self.assertEqual(run(*stop).returncode, 0)
        v.wait_end(0)


# /sbin has nothing but our helpers, in a mount namespace of its own; mount(8) and umount(8) by path.
FSTAB = OWN_NAMESPACE + r"""
set -e
mkdir "$BASE/sbin"
ln -s "$(dirname "$BIN")/mount.fuse.clonefs" "$(dirname "$BIN")/umount.fuse.clonefs" "$BASE/sbin/"
mount=$(command -v mount) umount=$(command -v umount)
mount --bind "$BASE/sbin" "$(readlink -f /sbin)"
$mount -T "$BASE/fstab" "$V"
test -e "$V/.clonefs/ctl"
grep -q "\"source\": \"$V\"" "$V/.clonefs/status.json"
grep -q "\"pool\": \"$BASE/pool\"" "$V/.clonefs/status.json"
$BIN copy c f --mount "$V"
grep -q '"track_size": 4096' "$V/.clonefs/sessions/c/status.json"
grep " $V " /proc/self/mountinfo | grep -q nosuid
(cd "$BASE" && $umount volume)
refuses grep " $V " /proc/self/mountinfo
$mount -T "$BASE/fstab" "$BASE/at"
test "$(cat "$BASE/at/f")" = data
$BIN umount "$BASE/at"
refuses $mount -T "$BASE/fstab" "$BASE/wrong" 2> "$BASE/said"
grep -q "mount option 'frobnicate' is not known" "$BASE/said"
echo all is well
"""


class Fstab(unittest.TestCase):
    @unittest.skipUnless(os.geteuid() == 0, "needs a mount namespace of its own")
    def test_mount_by_a_line_of_fstab(self):
        v = Volume()
        self.addCleanup(v.clean_up)
        with open(os.path.join(v.source, "f"), "wb") as file:
            file.write(b"data")
        other = os.path.join(v.base, "other")
        for name in ("at", "wrong", "other"):
            os.mkdir(os.path.join(v.base, name))
        with open(os.path.join(other, "f"), "wb") as file:
            file.write(b"data")
        with open(os.path.join(v.base, "fstab"), "w", encoding="utf-8") as file:
            file.write(f"{v.source} {v.source} fuse.clonefs "
                       f"rw,nosuid,nofail,x-systemd.automount,pool={v.base}/pool,track-size=4K,"
                       "cache=writethrough,log-level=debug 0 0\n"
                       f"{other} {v.base}/at fuse.clonefs noauto 0 0\n"
                       f"{other} {v.base}/wrong fuse.clonefs frobnicate 0 0\n")
        done = run("unshare", "-m", "bash", "-c", FSTAB, env=dict(os.environ, BASE=v.base, BIN=BIN, V=v.source))
        self.assertIn("all is well", done.stdout)
        self.assertEqual(done.returncode, 0, done.stdout)


if __name__ == "__main__":
    main()
