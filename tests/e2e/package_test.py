#!/usr/bin/env python3
"""The Debian package: made by CPack, installed by dpkg, run, upgraded and removed, in a mount namespace of
its own in which the system's directories are overlays, so that the machine stays as it is."""
import glob
import os
import shutil
import tempfile
import unittest

from volume import BIN, OWN_NAMESPACE, TEST_DIR, main, run

BUILD = os.path.dirname(BIN)

# In the namespace. $DEB: the package, $WORK: a directory on a disk.
SCRIPT = OWN_NAMESPACE + r"""
set -e
for dir in usr etc var; do
  mkdir -p $WORK/$dir/upper $WORK/$dir/work
  mount -t overlay none -o lowerdir=/$dir,upperdir=$WORK/$dir/upper,workdir=$WORK/$dir/work /$dir
done
forget_others
# dpkg's own books and caches change; all else must be as before.
listing() { find /usr /etc /var -xdev \( -path /var/lib/dpkg -o -path /var/cache -o -path /var/log \
  -o -path /var/tmp \) -prune -o -print | sort; }
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
dpkg -P clonefs > /dev/null 2>&1 || true  # should one be installed here
listing > $WORK/before
dpkg -i $DEB > $WORK/dpkg.log 2>&1
test "$(dpkg-query -W -f '${db:Status-Status} ${Version}' clonefs)" = "installed $VERSION"
dpkg -V clonefs
test "$(readlink -f /usr/sbin/mount.fuse.clonefs)" = /usr/bin/clonefs

# It runs, from everywhere that it was put.
clonefs --version | grep -q "^clonefs $VERSION "
man -w 1 clonefs; man -w 5 clonefs; man -w 8 mount.fuse.clonefs; man -w 8 umount.fuse.clonefs
bash -c 'source /usr/share/bash-completion/completions/clonefs && complete -p clonefs'
mkdir $WORK/volume
echo old > $WORK/volume/f
echo "$WORK/volume $WORK/volume fuse.clonefs defaults 0 0" > $WORK/fstab
mount -T $WORK/fstab $WORK/volume
clonefs copy c --mount $WORK/volume .
echo new > $WORK/volume/f
test "$(cat $WORK/volume/.clonefs/clones/c/f)" = old
for unit in 'clonefs@srv.service' 'clonefs-clone@x.service' 'clonefs-clone@x.timer' clonefs-metrics.timer; do
  file=/usr/lib/systemd/system/$(echo $unit | sed 's/@[a-z]*/@/')
  test -e "$file"
  if command -v systemd-analyze > /dev/null; then
    cp "$file" "$WORK/$unit"
    cp /usr/lib/systemd/system/clonefs-metrics.service "/usr/lib/systemd/system/clonefs-clone@.service" $WORK/
    systemd-analyze verify "$WORK/$unit" > $WORK/verify.log 2>&1 || { cat $WORK/verify.log; false; }
    refuses grep clonefs $WORK/verify.log
  fi
done

# An upgrade leaves what is mounted; a removal is refused while it is.
dpkg -i $DEB >> $WORK/dpkg.log 2>&1
test "$(cat $WORK/volume/.clonefs/clones/c/f)" = old
refuses dpkg -r clonefs > $WORK/refused.log 2>&1
grep -q "volumes are mounted still" $WORK/refused.log
grep -q "$WORK/volume" $WORK/refused.log
test "$(cat $WORK/volume/f)" = new
(cd $WORK && umount volume)  # by its helper
test "$(dpkg-query -W -f '${db:Status-Status}' clonefs)" = installed

echo 'CLONEFS_OPTIONS=' > /etc/clonefs/srv.conf  # the administrator's own
dpkg -r clonefs >> $WORK/dpkg.log 2>&1
test -e /etc/clonefs/srv.conf
rm /etc/clonefs/srv.conf
rmdir --ignore-fail-on-non-empty /etc/clonefs/clones /etc/clonefs 2> /dev/null || true
dpkg -P clonefs >> $WORK/dpkg.log 2>&1 || true
refuses test -e /usr/bin/clonefs
listing > $WORK/after
diff $WORK/before $WORK/after
echo all is well
"""


def cache(name):
    with open(os.path.join(BUILD, "CMakeCache.txt"), encoding="utf-8") as file:
        for line in file:
            if line.startswith(name + ":"):
                return line.rstrip("\n").split("=", 1)[1]
    return ""


def supports_overlay(base):
    os.makedirs(f"{base}/try/u")
    os.makedirs(f"{base}/try/w")
    script = f"mount -t overlay none -o lowerdir=/etc,upperdir={base}/try/u,workdir={base}/try/w /etc"
    return run("unshare", "-m", "sh", "-c", script).returncode == 0


class Package(unittest.TestCase):
    @unittest.skipUnless(os.geteuid() == 0, "needs a mount namespace of its own")
    def test_build_install_run_upgrade_remove(self):
        for program in ("cpack", "dpkg-deb", "dpkg-shlibdeps", "dpkg"):
            if not shutil.which(program):
                self.skipTest(f"no {program} here")
        if cache("CLONEFS_SANITIZE"):
            self.skipTest("a build with a sanitizer is nobody's package")
        base = tempfile.mkdtemp(prefix="clonefs-package-", dir=TEST_DIR)
        self.addCleanup(shutil.rmtree, base, True)
        if not supports_overlay(base):
            self.skipTest("no overlay can be mounted here")
        done = run("cpack", "-G", "DEB", "-B", f"{base}/made", cwd=BUILD, timeout=200)
        self.assertEqual(done.returncode, 0, done.stdout)
        deb, = glob.glob(f"{base}/made/*.deb")
        control = run("dpkg-deb", "-f", deb).stdout
        self.assertRegex(control, r"(?m)^Depends: fuse3, .*libc6 \(>=")
        env = dict(os.environ, DEB=deb, WORK=f"{base}/work", VERSION=cache("CMAKE_PROJECT_VERSION"))
        os.mkdir(env["WORK"])
        done = run("unshare", "-m", "--propagation", "private", "bash", "-c", SCRIPT, env=env, timeout=200)
        log = ""
        if os.path.exists(f"{base}/work/dpkg.log"):
            with open(f"{base}/work/dpkg.log", encoding="utf-8") as file:
                log = file.read()
        self.assertIn("all is well", done.stdout, log)
        self.assertEqual(done.returncode, 0, done.stdout)
        if shutil.which("lintian"):
            done = run("lintian", "--fail-on", "error,warning", deb, timeout=200)
            self.assertEqual(done.returncode, 0, done.stdout)


if __name__ == "__main__":
    main()
