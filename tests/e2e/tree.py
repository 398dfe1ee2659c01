"""What a tree looks like to a program, and how two of them differ."""
import hashlib
import os
import stat


def _content(path):
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb", buffering=0) as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def holes(path):
    """Ranges of data as SEEK_DATA and SEEK_HOLE tell them: [(begin, end)]."""
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        ranges, at = [], 0
        while at < size:
            try:
                begin = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(fd, begin, os.SEEK_HOLE)
            ranges.append((begin, at))
        return ranges
    finally:
        os.close(fd)


def _xattrs(path):
    return {name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)}


def _describe(path, st):
    kind = stat.S_IFMT(st.st_mode)
    entry = {"kind": kind, "mode": stat.S_IMODE(st.st_mode), "uid": st.st_uid, "gid": st.st_gid,
             "mtime": st.st_mtime_ns, "ctime": st.st_ctime_ns, "xattrs": _xattrs(path)}
    if kind == stat.S_IFREG:
        entry.update(size=st.st_size, content=_content(path))
    elif kind == stat.S_IFLNK:
        entry.update(size=st.st_size, target=os.readlink(path))
    elif kind in (stat.S_IFBLK, stat.S_IFCHR):
        entry["rdev"] = st.st_rdev
    return entry


def capture(root, with_inodes=False):
    """{path: description} of ROOT ('.'), a directory or a file, and all beneath. No .clonefs."""
    root = os.fsencode(root)
    entries, groups = {}, {}

    def add(path):
        full = os.path.join(root, path) if path != b"." else root
        st = os.lstat(full)
        entry = entries[path] = _describe(full, st)
        if with_inodes:
            entry["ino"] = st.st_ino
        if entry["kind"] != stat.S_IFDIR:
            groups.setdefault((st.st_dev, st.st_ino), []).append((path, st.st_nlink))
            return
        for name in sorted(os.listdir(full)):
            if path == b"." and name == b".clonefs":
                raise AssertionError(".clonefs is listed")
            add(name if path == b"." else os.path.join(path, name))

    add(b".")
    for names in groups.values():
        first = min(path for path, _ in names)
        for path, nlink in names:
            entries[path]["same_as"] = first
            entries[path]["nlink"] = nlink
            entries[path]["names"] = len(names)
    return entries


def differences(expected, actual, ignore=()):
    """Lines that say what is different; none: nothing. nlink counts names outside the tree too, so
    it is compared only with the number of names that the clone has."""
    skip = {"nlink", *ignore}
    lines = []
    for path in sorted(expected.keys() | actual.keys()):
        if path not in actual:
            lines.append(f"{path!r} is missing")
        elif path not in expected:
            lines.append(f"{path!r} should not be there")
        else:
            want, got = expected[path], actual[path]
            for key in sorted(want.keys() | got.keys()):
                if key not in skip and want.get(key) != got.get(key):
                    lines.append(f"{path!r}: {key} is {got.get(key)!r}, not {want.get(key)!r}")
            if "nlink" not in ignore and got.get("nlink") != got.get("names"):
                lines.append(f"{path!r}: nlink {got.get('nlink')}, but it has {got.get('names')} names")
    return lines


def assert_same(test, expected, actual, where, ignore=()):
    lines = differences(expected, actual, ignore)
    if lines:
        more = f"\n... and {len(lines) - 25} more" if len(lines) > 25 else ""
        test.fail(f"{where}:\n" + "\n".join(lines[:25]) + more)
