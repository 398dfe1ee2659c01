"""Where things are measured: a native directory, a clonefs volume, file systems in loop images.

All of it lies in one working directory and is gone when `with Workplace()` ends, however it ends.
Every wait is bounded. The directories get the same content by the same functions.
"""
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

MIB = 1 << 20
GIB = 1 << 30
COMMAND_LIMIT_S = 600
RUN_LIMIT_S = 2 * 3600  # no daemon lives longer, whatever happens to us


class Missing(Exception):
    """Something cannot be measured here; the text says why."""


def run(*command, timeout=COMMAND_LIMIT_S, **options):
    """Runs a command; its output. Raises Missing with its message when it fails."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False,
                              **options)
    except FileNotFoundError as e:
        raise Missing(f"{command[0]} is not installed") from e
    except subprocess.TimeoutExpired as e:
        raise Missing(f"{command[0]} took more than {timeout} s") from e
    if done.returncode != 0:
        raise Missing(f"{' '.join(map(str, command))}: {done.stdout.strip()[-300:]}")
    return done.stdout


def wait_for(condition, what, timeout=30):
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise Missing(f"waited {timeout} s in vain for {what}")
        time.sleep(0.005)


def syncfs(path):
    run("sync", "-f", path)


def end_mount(path):
    """Unmounts PATH, and whatever is mounted in it, however busy it is."""
    try:
        run("umount", path, timeout=120)
    except Missing:
        with open("/proc/self/mountinfo", encoding="utf-8") as table:
            left = [line.split()[4] for line in table]
        for mount in reversed(left):
            if mount == path or mount.startswith(path + "/"):
                subprocess.run(["umount", "-l", mount], check=False)


# --- content

def make_file(path, size, every=None, length=64 << 10):
    """SIZE bytes that don't compress; EVERY: only LENGTH bytes of each EVERY, the rest is a hole."""
    with open(path, "wb") as file:
        if every is None:
            for at in range(0, size, 1 << 20):
                file.write(os.urandom(min(1 << 20, size - at)))
        else:
            for at in range(0, size, every):
                file.seek(at)
                file.write(os.urandom(length))
            file.truncate(size)


def make_tree(path, files, size, a_directory=200):
    """FILES files of SIZE bytes in directories 0, 1, ... of PATH."""
    data = os.urandom(size)
    for n in range(files):
        folder = f"{path}/{n // a_directory}"
        if n % a_directory == 0:
            os.makedirs(folder)
        with open(f"{folder}/{n % a_directory}", "wb") as file:
            file.write(n.to_bytes(8, "little") + data[8:])


# --- places

class Workplace:
    """ON: a kind of file system; all work is then done in an image with it. PLACE: what it lies on,
    "disk" or "memory"."""

    def __init__(self, parent, build, on=None, place="disk"):
        self.build = build
        self.place = place
        self.images = tempfile.mkdtemp(prefix="clonefs-bench-", dir=parent)
        self.path = self.images
        self.open = []  # what is to be closed, in order of opening
        try:
            os.chmod(self.images, 0o755)
            if on:
                self.path = self.loop(on, 32 << 30, "work").path
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for thing in reversed(self.open):
            thing.close()
        shutil.rmtree(self.images, ignore_errors=True)
        if os.path.exists(self.images):
            print(f"tools/bench: {self.images} could not be removed", flush=True)

    def directory(self, name):
        """A new one, empty."""
        path = os.path.join(self.path, name)
        os.mkdir(path)
        return path

    def volume(self, name, fill=None, options=()):
        volume = Volume(self, self.directory(name), options)
        self.open.append(volume)
        if fill:
            fill(volume.path)
        volume.mount()
        return volume

    def loop(self, kind, size, name=None):
        image = Loop(os.path.join(self.images, name or kind), kind, size)
        self.open.append(image)
        image.mount()
        return image

    def remove(self, thing):
        """Before the end."""
        self.open.remove(thing)
        thing.close()
        shutil.rmtree(thing.path, ignore_errors=True)


class Volume:
    """A directory with clonefs mounted in place."""

    def __init__(self, work, path, options):
        self.path = path
        self.program = os.path.join(work.build, "clonefs")
        self.options = list(options)
        self.log = os.path.join(work.path, os.path.basename(path) + ".log")
        # Leads beneath the mount: opened before.
        self.beneath_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self.process = None
        self.pid = None

    def beneath(self, *parts):
        return os.path.join(f"/proc/{os.getpid()}/fd/{self.beneath_fd}", *parts)

    def mount(self):
        syncfs(self.path)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["timeout", "--kill-after=5", str(RUN_LIMIT_S), self.program, "mount",
                 *self.options, "--foreground", self.path],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

        def answers():
            if self.process.poll() is not None:
                with open(self.log, encoding="utf-8", errors="replace") as log:
                    raise Missing("clonefs mount: " + log.read()[-500:].strip())
            try:
                self.pid = self.status()["pid"]
                clones = os.path.join(self.path, ".clonefs/clones")
                if os.path.islink(clones):
                    return os.path.ismount(os.readlink(clones))
                return os.stat(clones).st_dev != os.stat(self.path).st_dev
            except OSError:
                return False
        wait_for(answers, "the mount")

    def close(self):
        os.close(self.beneath_fd)
        if self.process is None:
            return
        try:
            run(self.program, "umount", self.path, timeout=20)
            self.process.wait(timeout=30)
        except (Missing, subprocess.TimeoutExpired) as e:
            print(f"tools/bench: clonefs did not end well: {e}", flush=True)
            for pid in (self.pid, self.process.pid):
                try:
                    os.kill(pid or self.process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.process.wait(timeout=30)
            end_mount(self.path)

    def status(self, name=None):
        where = f"sessions/{name}/status.json" if name else "status.json"
        with open(f"{self.path}/.clonefs/{where}", encoding="utf-8") as file:
            return json.load(file)

    def control(self, line):
        """A command line; the begin and the end of the call, monotonic ns."""
        fd = os.open(f"{self.path}/.clonefs/ctl", os.O_RDWR)
        try:
            begin = time.monotonic_ns()
            try:
                os.write(fd, line.encode())
            except OSError as e:
                text = os.read(fd, 4096).decode("utf-8", "replace")
                raise Missing(f"{line}: {text.strip() or e}") from e
            return begin, time.monotonic_ns()
        finally:
            os.close(fd)

    def wait(self, name, goal="copied"):
        self.control(f"wait {name} --for {goal} --timeout {COMMAND_LIMIT_S}")

    def discard(self, name):
        """Session and clone, whatever their state."""
        with contextlib.suppress(Missing):  # there is none
            self.control(f"delete {name} --force")


class Loop:
    """A file system of its own in an image file PATH.img, mounted at PATH."""

    def __init__(self, path, kind, size):
        self.kind = kind
        self.image = path + ".img"
        self.path = path
        self.size = size
        self.mounted = False

    def mount(self):
        if os.geteuid() != 0:
            raise Missing("mounting a loop image needs root")
        os.mkdir(self.path)
        with open(self.image, "wb") as file:
            file.truncate(self.size)
        run(f"mkfs.{self.kind}", "-q", self.image)
        # Direct: else all data would be cached twice, and no read would be cold.
        device = run("losetup", "--find", "--show", "--direct-io=on", self.image).strip()
        try:
            run("mount", device, self.path)
            self.mounted = True
        finally:
            run("losetup", "--detach", device)  # once it is not mounted any more

    def close(self):
        if self.mounted:
            end_mount(self.path)
            self.mounted = False
        if os.path.exists(self.image):
            os.unlink(self.image)


# --- the worker

class Writer:
    """clonefs-bench write, while something happens."""

    def __init__(self, work, files, modes, **options):
        words = [os.path.join(work.build, "clonefs-bench"), "write", "--mode", *modes]
        for key, value in options.items():
            words += ["--" + key.replace("_", "-"), str(value)]
        self.process = subprocess.Popen(words + ["--file", *files], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline().strip() != "ready":
            self.process.wait(timeout=30)
            raise Missing("the writer did not begin")
        self.windows = []

    def window(self, name, begin, end):
        self.windows.append(f"window {name} {begin} {end}\n")

    def end(self):
        try:
            out, _ = self.process.communicate("".join(self.windows) + "end\n", timeout=60)
        except subprocess.TimeoutExpired as e:
            self.process.kill()
            raise Missing("the writer does not end") from e
        if self.process.returncode != 0:
            raise Missing("the writer failed")
        return json.loads(out)

    def stop(self):
        """After an error: no result is wanted."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def io_case(work, name, directory, beneath=None, seconds=2.0, files=2000):
    """The rows of one case of clonefs-bench io."""
    words = [os.path.join(work.build, "clonefs-bench"), "io", name, "--dir", directory,
             "--seconds", str(seconds), "--files", str(files)]
    if beneath:
        words += ["--beneath", beneath]
    return json.loads(run(*words))["rows"]


def io_cases(work):
    return json.loads(run(os.path.join(work.build, "clonefs-bench"), "cases"))
