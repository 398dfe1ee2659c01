"""A clonefs volume under test: the real program over a real directory.

Every wait is for a condition and bounded. Whatever a test does, leaving `with Volume()` (or the end
of a VolumeTest) unmounts, ends the daemon that was started here and removes the directory.
"""
import contextlib
import ctypes
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

BIN = os.environ.get("CLONEFS_BIN", "")
LONG = os.environ.get("CLONEFS_LONG") == "1"
SEED = int(os.environ.get("CLONEFS_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
TEST_DIR = os.environ.get("CLONEFS_TEST_DIR") or "/tmp"
# A script that takes longer hangs: its daemons are killed, so that it fails instead. So are those of a
# script that was killed itself.
LIMIT_S = float(os.environ.get("CLONEFS_TEST_LIMIT") or (3000 if LONG else 240))
SKIPPED = 77

# Kills the daemons whose pids it is told when the time is over. A process, not a thread: a thread
# that waits in a page fault of the mount holds the interpreter's lock.
WATCHDOG = """
import ctypes, os, select, signal, sys, time
end = time.monotonic() + float(sys.argv[1])
pids, text = {}, b''
while True:
    left = end - time.monotonic()
    if left <= 0 or not select.select([0], [], [], left)[0]:
        break
    part = os.read(0, 4096)
    if not part:
        break
    text += part
    *lines, text = text.split(b'\\n')
    for line in lines:
        pid, _, path = line.partition(b' ')
        pids[int(pid)] = path
        if not path:
            del pids[int(pid)]
if pids:
    sys.stderr.write(f'watchdog: the time is over or the test has ended; killing {list(pids)}\\n')
for pid, path in pids.items():
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    ctypes.CDLL(None).umount2(path, 1)  # MNT_FORCE: whoever waits gets an error
    ctypes.CDLL(None).umount2(path, 2)  # MNT_DETACH
"""
_watchdog = None


def _watch(pid, path=""):
    """Kill daemon PID of the mount PATH when the time is over; without PATH: it has ended."""
    global _watchdog
    if _watchdog is None:
        _watchdog = subprocess.Popen([sys.executable, "-c", WATCHDOG, str(LIMIT_S)],
                                     stdin=subprocess.PIPE, start_new_session=True)
    try:
        _watchdog.stdin.write(b"%d %s\n" % (pid, os.fsencode(path)) if path else b"%d\n" % pid)
        _watchdog.stdin.flush()
    except BrokenPipeError:
        pass


# Shell, in a mount namespace of its own: what others have mounted is not here. From the outermost: what is
# beneath one goes with it, and may be out of reach, since those others may end their daemon at any time.
FORGET_OTHERS = r"""
forget_others() {
  local at
  while at=$(awk '/ - fuse\.clonefs/ { print $5; exit }' /proc/self/mountinfo) && [ -n "$at" ]; do
    umount -i -l "$(printf %b "$at")" || return
  done
}
"""
# The begin of a script that has a mount namespace of its own. set -e does not look at "!". When the script
# fails its daemon is left, which nobody else can reach: a process in that namespace that is not the script.
OWN_NAMESPACE = FORGET_OTHERS + r"""
refuses() { if "$@"; then echo "went: $*"; exit 1; fi; }
own=$(readlink /proc/self/ns/mnt)
[ "$own" != "$(readlink /proc/$PPID/ns/mnt)" ] || { echo "no namespace of its own"; exit 1; }
trap 'for process in /proc/[0-9]*; do
  [ "$(readlink $process/ns/mnt)" != "$own" ] || [ $process = /proc/$$ ] || kill ${process#/proc/} || true
done 2> /dev/null' EXIT
"""
MNT_FORCE = 1  # aborts the connection, so that nobody waits for a daemon that is gone
libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent():
    """In a forked child: it ends when the test does, however that ends."""
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def wait_for(condition, what, timeout=30.0):
    """Polls CONDITION until it is true and returns what it returned."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout} s in vain for: {what}")
        time.sleep(0.005)


def stand_still(pid):
    """Stops the process. Each of its threads goes on until the signal has got to it; one that waits for an
    answer of its own daemon (it asks its new mount something) has to get that first."""
    def stopped():
        states = set()
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/stat", encoding="utf-8") as file:
                states.add(file.read().rpartition(")")[2].split()[0])
        return states == {"T"}
    for _ in range(30):
        os.kill(pid, signal.SIGSTOP)
        with contextlib.suppress(AssertionError):
            return wait_for(stopped, f"process {pid} stands still", timeout=1)
        os.kill(pid, signal.SIGCONT)
    raise AssertionError(f"process {pid} does not stand still")


def run(*command, timeout=60, **options):
    """A command's exit code and output; never raises for a failure."""
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="surrogateescape",
                          timeout=timeout, check=False, **options)


def can_mount():
    """None, or why no test here can run."""
    if not BIN:
        sys.exit("set CLONEFS_BIN to the clonefs program")
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as e:
        return f"/dev/fuse cannot be opened: {e}"
    return None


def mounts_beneath(path):
    """Mountpoints at or beneath PATH, innermost first."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            at = line.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
            if at == path or at.startswith(path + "/"):
                found.append(at)
    return found[::-1]


class Refused(Exception):
    """A command that failed: its errno (control file) or exit code (command line), its message."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class Volume:
    """A directory in TEST_DIR, and the mount over it.

    path     what applications use
    source   the directory that is mounted; the same unless aside
    pool     where the clones lie, by a way that does not lead through the mount
    """

    def __init__(self, aside=False, pool=None, options=(), daemon=False, prefix=(), base=None):
        # BASE: a directory that may have a volume in it already.
        self.base = base or tempfile.mkdtemp(prefix="clonefs-e2e-", dir=TEST_DIR)
        os.chmod(self.base, 0o755)
        self.source = os.path.join(self.base, "volume")
        os.makedirs(self.source, exist_ok=True)
        self.path = os.path.join(self.base, "mount") if aside else self.source
        if aside:
            os.mkdir(self.path)
        self.given_pool = os.path.join(self.base, pool) if pool else None
        self.options = list(options)
        self.daemon = daemon
        self.prefix = list(prefix)  # words before the command
        self.pid = None      # the daemon's, while it is mounted
        self.child = None    # the daemon, in the foreground
        self.said = ""       # by the command that started a daemon in the background
        self.log = os.path.join(self.base, "daemon.log")
        # Opened before the mount, so it leads beneath it.
        self.beneath_fd = os.open(self.source, os.O_PATH | os.O_DIRECTORY)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.clean_up()

    # --- mount and unmount

    def mount_words(self):
        words = [*self.prefix, BIN, "mount", *self.options]
        if self.given_pool:
            words += ["--pool", self.given_pool]
        if not self.daemon:
            words.append("--foreground")
        words.append(self.source)
        return words + ([self.path] if self.path != self.source else [])

    def mount(self):
        if self.daemon:
            done = run(*self.mount_words())
            if done.returncode != 0:
                raise Refused(done.returncode, done.stdout)
            self.said = done.stdout
            self.pid = self.status_json()["pid"]
            _watch(self.pid, self.path)
            return self
        with open(self.log, "ab") as log:
            start = log.tell()
            self.child = subprocess.Popen(self.mount_words(), stdin=subprocess.DEVNULL, stdout=log,
                                          stderr=log, start_new_session=True)
        self.pid = self.child.pid
        _watch(self.pid, self.path)

        def answers():
            if self.child.poll() is not None:
                code = self.child.returncode
                self._ended()
                with open(self.log, "rb") as log:
                    log.seek(start)
                    raise Refused(code, log.read().decode("utf-8", "replace"))
            try:
                # The clones mount comes last.
                return (self.status_json()["pid"] == self.pid and
                        self.clones_answer())
            except OSError:
                return False
        wait_for(answers, "the mount answers")
        return self

    def clones_answer(self):
        clones = self.at(".clonefs/clones")
        if os.path.islink(clones):
            return os.path.ismount(os.readlink(clones))
        return os.stat(clones).st_dev != os.stat(self.path).st_dev

    def umount(self):
        done = run(BIN, "umount", self.path)
        if done.returncode != 0:
            raise Refused(done.returncode, done.stdout)
        left = mounts_beneath(self.path)
        assert not left, f"still mounted after umount: {left}"
        self.wait_end(0)

    def wait_end(self, code):
        """Waits until the daemon has ended, in the foreground with exit code CODE."""
        if self.child is not None:
            got = self.child.wait(timeout=30)
            self._ended()
            assert got == code, f"the daemon ended with {got}, not {code}; {self.log_tail()}"
        elif self.pid is not None:
            pid = self.pid
            wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the daemon's end")
            self._ended()

    def remount(self):
        self.umount()
        return self.mount()

    def kill(self):
        """SIGKILL of the daemon. What it leaves is a dead mount."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait_end(-signal.SIGKILL)

    def _ended(self):
        if self.pid is not None:
            _watch(self.pid)
        self.pid = self.child = None

    def log_tail(self):
        try:
            with open(self.log, encoding="utf-8", errors="replace") as log:
                return "its log ends with:\n" + "".join(log.readlines()[-30:])
        except OSError:
            return "it has no log"

    def clean_up(self):
        problems = []
        if self.pid is not None:
            try:
                self.umount()
            except (Exception, AssertionError) as e:  # pylint: disable=broad-except
                problems.append(f"umount: {e}")
                try:
                    if self.pid is not None:
                        os.kill(self.pid, signal.SIGKILL)
                        libc.umount2(os.fsencode(self.path), MNT_FORCE)
                        self.wait_end(-signal.SIGKILL)
                except (OSError, AssertionError, subprocess.TimeoutExpired) as more:
                    problems.append(str(more))
        for at in mounts_beneath(self.base):
            run("umount", "-l", at)
            if os.geteuid() != 0:
                run("fusermount3", "-u", "-z", at)
        os.close(self.beneath_fd)
        text = ""
        if os.path.exists(self.log):
            with open(self.log, encoding="utf-8", errors="replace") as log:
                text = log.read()
        for sign in ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "runtime error:",
                     "WARNING: ThreadSanitizer"):
            if sign in text:
                problems.append(text[max(0, text.index(sign) - 200):][:6000])
        shutil.rmtree(self.base, ignore_errors=True)
        if problems:
            raise AssertionError("\n".join(problems))

    # --- places

    def at(self, *parts):
        return os.path.join(self.path, *parts)

    def clone(self, name, *parts):
        return self.at(".clonefs/clones", name, *parts)

    def beneath(self, *parts):
        """The same file in the backing file system, past the mount. Look only."""
        return os.path.join(f"/proc/{os.getpid()}/fd/{self.beneath_fd}", *parts)

    def pool(self, *parts):
        return os.path.join(self.given_pool or self.beneath(".clonefs/pool"), *parts)

    def write(self, path, data, mode=0o644):
        path = self.at(path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        os.chmod(path, mode)
        return path

    # --- commands

    def ctl(self, line, session=None):
        """One command line through the control file; its reply."""
        where = f".clonefs/sessions/{session}/ctl" if session else ".clonefs/ctl"
        fd = os.open(self.at(where), os.O_RDWR)
        try:
            failed = None
            try:
                os.write(fd, line if isinstance(line, bytes) else line.encode())
            except OSError as e:
                failed = e.errno
            text = b""
            while part := os.read(fd, 65536):
                text += part
            text = text.decode("utf-8", "surrogateescape")
            if failed is not None:
                raise Refused(failed, text)
            return text
        finally:
            os.close(fd)

    def cli(self, *words, code=0, **options):
        """`clonefs WORDS` for this volume; its output. Exit code must be CODE."""
        options.setdefault("env", dict(os.environ, CLONEFS_MOUNT=self.path))
        done = run(BIN, *words, **options)
        if done.returncode != code:
            raise Refused(done.returncode, f"{' '.join(map(str, words))}: {done.stdout}")
        return done.stdout

    def status_json(self):
        with open(self.at(".clonefs/status.json"), encoding="utf-8") as file:
            return json.load(file)

    def status(self, name):
        with open(self.at(f".clonefs/sessions/{name}/status.json"), encoding="utf-8") as file:
            return json.load(file)

    def names(self):
        return [session["name"] for session in self.status_json()["sessions"]]

    def wait(self, name, goal="copied", timeout=60):
        self.ctl(f"wait {name} --for {goal} --timeout {timeout}")

    def stall(self, name):
        """The copy program of the session comes to a stop, near enough."""
        self.ctl(f"rate {name} 1")

    def drain(self, name):
        """Lets it go on, to the end."""
        self.ctl(f"rate {name} unlimited")
        self.wait(name)
        assert self.status(name)["state"] == "Copied", self.status(name)


class VolumeTest(unittest.TestCase):
    """A test with one mounted volume, self.v. Class attributes choose how it is mounted."""
    aside = False
    pool = None
    options = ()
    daemon = False
    maxDiff = 4000

    def setUp(self):
        self.v = Volume(aside=self.aside, pool=self.pool, options=self.options, daemon=self.daemon)
        self.addCleanup(self.v.clean_up)
        self.v.mount()

    def assert_refused(self, code, action, *words):
        """ACTION fails with errno CODE, and its message contains all WORDS."""
        with self.assertRaises((Refused, OSError)) as caught:
            action()
        e = caught.exception
        got = e.code if isinstance(e, Refused) else e.errno
        self.assertEqual(errno.errorcode.get(got, got), errno.errorcode.get(code, code), str(e))
        for word in words:
            self.assertIn(word, str(e))


class TimedResult(unittest.TextTestResult):
    """Says how long each test took."""

    def startTest(self, test):
        self.begun = time.monotonic()
        super().startTest(test)

    def stopTest(self, test):
        super().stopTest(test)
        self.stream.writeln(f"    {time.monotonic() - self.begun:.1f} s")


def main():
    why = can_mount()
    if why:
        print(f"skipped: {why}")
        sys.exit(SKIPPED)
    print(f"seed {SEED} (CLONEFS_TEST_SEED to repeat)", flush=True)
    unittest.main(testRunner=unittest.TextTestRunner(verbosity=2, resultclass=TimedResult))
