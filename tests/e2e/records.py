"""Writers that number what they do, and checkers that tell from a clone which instant it shows.

A writer is a process. It publishes, in memory outside the volume, the number of the last operation
that it began and of the last that had returned; so a clone that is activated between two looks at
these must show an operation in between.
"""
import ctypes
import mmap
import os
import struct
import time
import zlib

from volume import die_with_parent

RECORD = 512
BEGUN, DONE, FAILED, STOP = 0, 1, 2, 3  # of the shared numbers


def record(writer, number):
    body = struct.pack("<8sQQ", b"clonefs", writer, number)
    body += (b"%d " % number * 256)[:RECORD - len(body) - 4]
    return body + struct.pack("<I", zlib.crc32(body))


def number_of(writer, raw, what):
    """The number of a record; 0: never written. An AssertionError for anything else."""
    if raw == bytes(len(raw)):
        return 0
    magic, who, number = struct.unpack_from("<8sQQ", raw)
    assert len(raw) == RECORD and magic.rstrip(b"\0") == b"clonefs" and \
        struct.unpack("<I", raw[-4:])[0] == zlib.crc32(raw[:-4]), f"{what}: a torn record: {raw!r}"
    assert who == writer, f"{what}: the record of another writer ({who})"
    assert raw == record(writer, number), f"{what}: a record that was never written"
    return number


class Writer:
    """Base: a process that runs step(n) for n = 1, 2, ... until it is stopped or an operation fails
    (the daemon was killed)."""
    number = 1     # in its records
    PAUSE_S = 0.0  # leaves the processor to others; nothing depends on it

    def __init__(self, folder):
        self.folder = folder
        # Words that are stored whole: struct.pack_into clears them first, which others would see.
        self.shared = (ctypes.c_uint64 * 8).from_buffer(mmap.mmap(-1, 64))
        self.pid = None
        self.prepare()

    def __getitem__(self, index):
        return self.shared[index]

    def _set(self, index, value):
        self.shared[index] = value

    def start(self):
        self.pid = os.fork()
        if self.pid:
            return self
        code = 1
        try:
            die_with_parent()
            self.open()
            number = self[DONE]
            while not self[STOP]:
                number += 1
                self._set(BEGUN, number)
                try:
                    self.step(number)
                except OSError as e:
                    self._set(FAILED, e.errno)
                    break
                self._set(DONE, number)
                if self.PAUSE_S:
                    time.sleep(self.PAUSE_S)
            code = 0
        finally:
            os._exit(code)

    def stop(self):
        self._set(STOP, 1)
        self.wait()

    def wait(self):
        if self.pid:
            pid, self.pid = self.pid, None
            _, status = os.waitpid(pid, 0)
            assert status in (0, 7), f"writer {type(self).__name__} ended with status {status}"

    def prepare(self):
        """Makes what it needs, before it starts."""
        os.mkdir(self.folder)

    def open(self):
        """In its process."""

    def step(self, number):
        raise NotImplementedError

    def check(self, folder, first, last, what):
        """FOLDER is a copy of its folder at an instant when operations FIRST (had returned) to LAST
        (had begun) were the newest. Returns the numbers of the operations that it may show."""
        raise NotImplementedError


class Slots(Writer):
    """Record n overwrites slot n % SLOTS of file n % FILES. Files are of several tracks."""
    FILES, SLOTS = 3, 1024

    def __init__(self, folder, files=None, slots=None):
        self.files, self.slots = files or self.FILES, slots or self.SLOTS
        super().__init__(folder)

    def path(self, folder, file):
        return os.path.join(folder, f"{file}.rec")

    def prepare(self):
        os.mkdir(self.folder)
        for file in range(self.files):
            with open(self.path(self.folder, file), "wb") as f:
                f.write(bytes(self.slots * RECORD))

    def open(self):
        self.fds = [os.open(self.path(self.folder, i), os.O_RDWR | self.FLAGS)
                    for i in range(self.files)]

    FLAGS = 0

    def place(self, number):
        return number % self.files, number // self.files % self.slots

    def step(self, number):
        file, slot = self.place(number)
        os.pwrite(self.fds[file], record(self.number, number), slot * RECORD)

    def read(self, folder, what):
        """{(file, slot): number}"""
        found = {}
        for file in range(self.files):
            found.update(self.read_file(folder, file, what))
        return found

    def read_file(self, folder, file, what):
        found, path = {}, self.path(folder, file)
        with open(path, "rb") as f:
            content = f.read()
        assert len(content) == self.slots * RECORD, f"{what}: {path} has {len(content)} bytes"
        for slot in range(self.slots):
            raw = content[slot * RECORD:(slot + 1) * RECORD]
            number = number_of(self.number, raw, f"{what}: {path} at {slot * RECORD}")
            assert number == 0 or self.place(number) == (file, slot), \
                f"{what}: record {number} lies in {path} at {slot * RECORD}"
            found[file, slot] = number
        return found

    def latest(self, file, slot, number):
        """The newest operation up to NUMBER that wrote the slot; 0: none."""
        cycle = self.files * self.slots
        # place(n) == (file, slot): n % files == file and n // files % slots == slot.
        n = slot * self.files + file
        if n > number or n < 0:
            return 0
        return n + (number - n) // cycle * cycle

    def check(self, folder, first, last, what):
        """Unordered: each slot holds what had returned, or something newer that had begun."""
        for (file, slot), number in self.read(folder, what).items():
            low = self.latest(file, slot, first)
            assert number >= low, \
                f"{what}: file {file} slot {slot} has {number}; {low} had returned before ({first})"
            assert number <= last, f"{what}: file {file} slot {slot} has {number}, later than {last}"
        return None


class Durable(Slots):
    """Each operation is durable before the next begins: a clone shows all up to one, none after."""
    number = 2
    FLAGS = os.O_DSYNC

    def check(self, folder, first, last, what):
        return range(*self.instants(self.read(folder, what), first, last, what))

    def instants(self, found, first, last, what):
        shown = max(found.values(), default=0)
        low, high = first, last
        for (file, slot), number in found.items():
            want = self.latest(file, slot, shown)
            assert number == want, (f"{what}: record {shown} is there, but file {file} slot {slot} "
                                    f"has {number}, not {want}")
        assert low <= shown <= high, f"{what}: shows {shown}, not one of {low} to {high}"
        return shown, shown + 1


class Ordered(Durable):
    """Buffered writes, which are in order only without a write-back cache."""
    number = 3
    FLAGS = 0


class Mapped(Slots):
    """Stores to a shared mapping."""
    number = 4
    PAUSE_S = 0.0003

    def open(self):
        super().open()
        self.maps = [mmap.mmap(fd, 0) for fd in self.fds]

    def step(self, number):
        file, slot = self.place(number)
        self.maps[file][slot * RECORD:(slot + 1) * RECORD] = record(self.number, number)


class Buffered(Slots):
    number = 5
    PAUSE_S = 0.0003


class Names(Writer):
    """A chain of names: for n = 0, 1, ... seven operations, and only the last KEPT n are there."""
    KEPT, CYCLE = 8, 7

    def step(self, number):
        n, what = divmod(number - 1, self.CYCLE)
        at, old = self.folder, n - self.KEPT
        if what == 0:
            os.close(os.open(f"{at}/new-{n}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        elif what == 1:
            os.rename(f"{at}/new-{n}", f"{at}/name-{n}")
        elif what == 2:
            os.link(f"{at}/name-{n}", f"{at}/link-{n}")
        elif what == 3:
            os.mkdir(f"{at}/dir-{n}")
        elif old >= 0:
            if what == 4:
                os.rename(f"{at}/link-{n}", f"{at}/name-{old}")
            elif what == 5:
                os.unlink(f"{at}/name-{old}")
            else:
                os.rmdir(f"{at}/dir-{old}")

    def model(self, number):
        """Names after operation NUMBER."""
        n, rest = divmod(number, self.CYCLE)
        kept = range(max(0, n - self.KEPT), n)
        names = {f"{kind}-{i}" for i in kept for kind in ("name", "dir")}
        names |= {f"link-{i}" for i in range(min(n, self.KEPT))}
        old = n - self.KEPT
        if rest == 1:
            names.add(f"new-{n}")
        if rest >= 2:
            names.add(f"name-{n}")
        if rest >= 3:
            names.add(f"link-{n}")
        if rest >= 4:
            names.add(f"dir-{n}")
        if rest >= 5 and old >= 0:
            names.discard(f"link-{n}")
        if rest >= 6 and old >= 0:
            names.discard(f"name-{old}")
        return names

    def check(self, folder, first, last, what):
        found = set(os.listdir(folder))
        possible = [number for number in range(first, last + 1) if self.model(number) == found]
        assert possible, (f"{what}: the names are not those after any of {first} to {last}: "
                          f"{sorted(found)}")
        return possible
