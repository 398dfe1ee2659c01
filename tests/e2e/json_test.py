#!/usr/bin/env python3
"""--json of every command, and docs/JSON.md, whose samples are made here."""
import json
import os
import re
import subprocess
import sys
import unittest

from volume import BIN, Volume, VolumeTest, main

DOCUMENT = os.path.join(os.path.dirname(__file__), "../../docs/JSON.md")
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
# What differs from run to run and from machine to machine, as the document shows it.
VOLATILE = {"pid": 4711, "version": "0.1.0", "pool_free_bytes": 53687091200, "pool_needed_bytes": 0,
            "journal_records": 12, "journal_commits": 5, "journal_bytes": 790528,
            "fence_ns": 412000, "rate_bytes_per_s": 104857600, "requests": "dev_fuse", "uid": 1000,
            "gid": 1000, "fence_longest_wait_ns": 301000, "transfer": "write", "warnings": [],
            "last_track": "db/data:3",
            "metrics": "# HELP clonefs_up 1: the daemon of the volume answers\n..."}
for key, ns in (("cofw_latency", 290000), ("fence", 412000), ("fence_wait", 301000)):
    VOLATILE[key] = {"count": 1, "sum_ns": ns, "max_ns": ns, "last_ns": ns,
                     "buckets": [{"le_ns": 500000, "count": 1}]}


def run_json(*words, at=None):
    """Exit code, the one object on stdout, stderr."""
    env = dict(os.environ)
    env.pop("CLONEFS_MOUNT", None)
    if at:
        env["CLONEFS_MOUNT"] = at
    done = subprocess.run([BIN, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=60, check=False, env=env, cwd="/")
    text = done.stdout.decode("utf-8")  # raises if it is none
    try:
        return done.returncode, json.loads(text), done.stderr.decode()
    except ValueError as e:
        raise AssertionError(f"{words}: {e}: {text!r} {done.stderr!r}") from e


def verbs():
    text = subprocess.run([BIN, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
    found = re.findall(r"^  ([a-z][a-z-]*) ", text[text.lower().index("\nsubcommands:"):], re.M)
    assert len(found) > 15, found
    return found


class Answers(unittest.TestCase):
    def check(self, answer, words):
        self.assertIsInstance(answer, dict, words)
        self.assertEqual(next(iter(answer)), "schema", words)
        self.assertEqual(answer["schema"], 1, words)

    def test_every_verb(self):
        """Whatever is wrong, the answer is an object; nothing is on stderr."""
        for verb in verbs():
            # Without --mount it would be the volume of another test.
            for words in ([verb, "--json", "--mount", "/nowhere"], ["--json", "--mount", "/nowhere", verb],
                          [verb, "--json", "--no-such-option"],
                          [verb, "--json", "--mount", "/nowhere", "x", "x"]):
                with self.subTest(words=words):
                    code, answer, err = run_json(*words)
                    self.check(answer, words)
                    self.assertEqual(err, "")
                    if code not in (0, 1, 2) or "error" in answer:
                        self.assertIn(code, (1, 2, 125))
                        self.assertEqual(sorted(answer["error"]), ["code", "errno", "message"])
                        self.assertTrue(answer["error"]["message"])
                        self.assertTrue(answer["error"]["code"].startswith("E"))
        code, answer, _ = run_json("frobnicate", "--json")
        self.assertEqual((code, answer["error"]["code"]), (2, "EINVAL"))
        for verb in verbs():
            text = subprocess.run([BIN, verb, "--help"], stdout=subprocess.PIPE, text=True, check=True)
            self.assertIn("--json", text.stdout, verb)


def normalized(value, base, key=""):
    """VALUE as the document shows it."""
    if key in VOLATILE and value is not None:
        return VOLATILE[key]
    if isinstance(value, dict):
        return {k: normalized(v, base, k) for k, v in value.items() if k != "last_track_base64"}
    if isinstance(value, list):
        return [normalized(v, base, key) for v in value]
    if isinstance(value, str):
        if RFC3339.fullmatch(value):
            return "2026-11-27T02:00:00.118000000Z"
        return value.replace(base + "/volume", "/srv/data").replace(base, "/srv")
    return value


class Document(VolumeTest):
    def samples(self):
        v = self.v
        base = v.base
        made = {}

        def sample(name, *words, code=0):
            got, answer, err = run_json(*words, at=v.path)
            self.assertEqual((got, err), (code, ""), (words, answer))
            made[name] = answer
            return answer
        v.umount()
        _, made["mount"], err = run_json("mount", "--json", v.source)
        self.assertEqual(err, "")
        v.pid = made["mount"]["pid"]
        self.assertTrue(os.path.exists(v.at(".clonefs/ctl")))
        v.write("db/data", b"data" * 65536)
        v.write("db/log", b"log")
        with open(os.path.join(os.fsencode(v.path), b"db/odd \xff"), "wb") as file:
            file.write(b"odd")
        os.utime(v.at("db"), (1, 1))
        run_json("copy", "nightly", "db", "--ttl", "7d", "--json", at=v.path)
        self.assertEqual(run_json("hold", "nightly", "restic", "--json", at=v.path)[0], 0)
        self.assertEqual(run_json("wait", "nightly", "--json", at=v.path)[0], 0)
        sample("status", "status", "--json")
        sample("error", "status", "nothing", "--json", code=1)
        sample("usage", "copy", "--json", code=2)
        sample("extents", "extents", "nightly", "--json")
        sample("map", "map", "nightly", "--json", "--cells", "2")
        made["map"]["samples"] = made["map"]["samples"][-1:]
        sample("report", "report", "nightly", "--html", os.path.join(base, "nightly.html"), "--json")
        sample("verify", "verify", "nightly", "--json")
        with open(v.at("db/data"), "r+b") as file:
            file.seek(70000)
            file.write(b"DATA")
        os.rename(v.at("db/log"), v.at("db/log.1"))
        os.remove(os.path.join(os.fsencode(v.path), b"db/odd \xff"))
        os.utime(v.at("db"), (1, 1))
        sample("diff", "diff", "nightly", "--json")
        sample("restore", "restore", "nightly", "--json")
        code, made["doctor"], _ = run_json("doctor", "--json")
        self.assertIn(code, (0, 1))
        made["doctor"]["findings"] = [{"check": "fuse", "grade": "ok", "text": "/dev/fuse can be opened",
                                       "remedy": None}] if made["doctor"]["findings"][0].keys() == {
                                           "check", "grade", "text", "remedy"} else None
        with open(os.path.join(base, "nightly.toml"), "w", encoding="utf-8") as file:
            file.write('activate_at = "2026-11-28T02:00:00Z"\nprecopy_window = "1h"\n'
                       'before = "systemctl stop app"\n[[clone]]\nname = "nightly"\npaths = ["db"]\n')
        sample("plan", "plan", "--json", "--now", "2026-11-27T12:00:00Z", os.path.join(base, "nightly.toml"))
        lines = v.cli("events", "--json").splitlines()
        made["events"] = next(e for e in map(json.loads, lines) if e["event"] == "activated")
        sample("metrics", "metrics", "--mount", v.path, "--json")
        sample("log_level", "log-level", "debug", "--json")
        sample("umount", "umount", "--json", v.path)
        v.pid = None
        sample("fsck", "fsck", "--json", os.path.join(v.source, ".clonefs/pool"))
        return {name: json.dumps(normalized(answer, base), indent=2, ensure_ascii=False)
                for name, answer in made.items()}

    def test_samples(self):
        samples = self.samples()
        with open(DOCUMENT, encoding="utf-8") as file:
            text = file.read()

        def block(match):
            return f"```json sample={match[1]}\n{samples.pop(match[1])}\n```"
        pattern = re.compile(r"^```json sample=(\w+)\n.*?^```", re.M | re.S)
        fresh = pattern.sub(block, text)
        self.assertEqual(samples, {}, "the document does not show these")
        if os.environ.get("CLONEFS_WRITE_DOCS") == "1":
            with open(DOCUMENT, "w", encoding="utf-8") as file:
                file.write(fresh)
            text = fresh
        self.maxDiff = None
        self.assertEqual(fresh, text, "docs/JSON.md is not what clonefs says; CLONEFS_WRITE_DOCS=1 writes it anew")


class Odd(VolumeTest):
    def test_names_that_are_no_utf8(self):
        odd = os.fsencode(self.v.path) + b"/d\xff"
        os.mkdir(odd)
        with open(odd + b"/f", "wb") as file:
            file.write(b"x")
        code, answer, _ = run_json("copy", "c", odd, "--json", at=self.v.path)
        self.assertEqual(code, 0, answer)
        session = answer["sessions"][0]
        self.assertEqual(session["paths"], ["d\ufffd"])
        self.assertEqual(session["paths_base64"], ["ZP8="])
        run_json("wait", "c", "--json", at=self.v.path)
        code, answer, _ = run_json("extents", "c", "--json", at=self.v.path)
        self.assertEqual(answer["sessions"][0]["files"][0]["path_base64"], "ZP8vZg==")
        with open(odd + b"/f", "wb") as file:
            file.write(b"y")
        code, answer, _ = run_json("diff", "c", "--json", at=self.v.path)
        self.assertEqual([c["path_base64"] for c in answer["changes"]], ["ZP8vZg=="])
        code, answer, _ = run_json("restore", "c", odd + b"/f", "--json", at=self.v.path)
        self.assertEqual((code, answer["summary"]["update"]), (0, 1), answer)

    def test_in_use(self):
        with open(self.v.write("f", b"")):
            code, answer, err = run_json("umount", self.v.path, "--json")
            self.assertEqual((code, answer["error"]["code"], err), (1, "EBUSY", ""))
            self.assertEqual([user["pid"] for user in answer["used_by"]], [os.getpid()])

    def test_mount_refused(self):
        with Volume() as v:
            code, answer, err = run_json("mount", "--json", os.path.join(v.base, "nothing"))
            self.assertEqual((code, answer["error"]["code"], err), (1, "ENOENT", ""))
        code, answer, err = run_json("mount", "--json", self.v.path)
        self.assertEqual((code, answer["error"]["code"], err), (1, "EBUSY", ""))

    def test_exec(self):
        self.v.cli("copy", "c", ".")
        code, answer, err = run_json("exec", "nothing", "--json", "--", "true", at=self.v.path)
        self.assertEqual((code, answer["error"]["code"], err), (125, "ENOENT", ""))
        code, answer, err = run_json("exec", "c", "--", "echo", '{"--json": 1}', at=self.v.path)
        self.assertEqual((code, answer), (0, {"--json": 1}))

    def test_watch(self):
        self.v.write("f", b"x" * 100000)
        self.v.cli("copy", "c", ".")
        text = self.v.cli("status", "--watch", "--json")
        for line in text.splitlines():
            self.assertEqual(next(iter(json.loads(line))), "schema")
        self.assertEqual(json.loads(text.splitlines()[-1])["state"], "Copied")


if __name__ == "__main__":
    main()
