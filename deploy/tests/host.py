"""The Debian package on a host whose first process is systemd: installed as docs/host.md says, started,
looked at, reloaded, restarted, upgraded, stopped and removed, under load.

    host.py PACKAGE ROOT      (a Debian with systemd in the folder ROOT, which is copied)

The host is a copy of ROOT in namespaces of its own: processes, mounts, network, control groups. systemd is
the real one, as process 1, with the units of the package. What is not there: a kernel of its own, udev, and
the controllers of control groups (the units ask for none). Needs root.
"""

import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

from pod import BASE, HOST, KEY, WORK, Clients, certificate, run, served, tell, until

PACKAGE = "cobrowse-gateway"
SERVICE = "cobrowse-gateway.service"
# Process 1 of the host: a tree of mounts as a container engine makes one, and then systemd.
BEGIN = r"""
set -e
root=$1
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
for folder in run tmp dev sys; do mount -t tmpfs -o mode=755 tmpfs "$root/$folder"; done
chmod 1777 "$root/tmp"
mkdir -p "$root/sys/fs/cgroup" "$root/dev/pts" "$root/dev/shm" "$root/old"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s pts/ptmx "$root/dev/ptmx"
cd "$root"
pivot_root . old
umount -l /old
exec env -i container=namespaces PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --show-status=no
"""
# Around it: a group of its own in the unified hierarchy, which may be mounted anywhere or nowhere.
ENTER = r"""
set -e
mount --make-rprivate /
mount -t cgroup2 cgroup2 "$2"
mkdir "$2/$3"
echo $$ >"$2/$3/cgroup.procs"
exec unshare --cgroup --pid --fork --kill-child --ipc --uts --net --mount bash -c "$4" begin "$1"
"""


class Host:
    """A machine under systemd."""

    public = 443
    ip, ending = "10.214.1.2", False

    def __init__(self, root):
        self.root = WORK / "root"
        run("cp", "--archive", "--reflink=auto", str(root), str(self.root))
        # Drivers are the machine's outside.
        (self.root / "etc/systemd/system/systemd-modules-load.service").symlink_to("/dev/null")
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.0.1 {HOST}\n")
        self.hierarchy, self.group = WORK / "cgroup", f"cobrowse-host-{os.getpid()}"
        self.hierarchy.mkdir()
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "bash", "-c", ENTER, "enter", str(self.root), str(self.hierarchy), self.group, BEGIN]
        self.log = (WORK / "systemd.log").open("w")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.pid = until("a first process", 20, self.first)
        until("systemd", 60, lambda: self("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"))
        self.network()

    def first(self):
        """The first process, once it is systemd."""
        if self.process.poll() is not None:
            raise RuntimeError((WORK / "systemd.log").read_text())
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        is_systemd = children and pathlib.Path(f"/proc/{children[0]}/comm").read_text().strip() == "systemd"
        return int(children[0]) if is_systemd else None

    def network(self):
        outside = f"cbh{os.getpid() % 100000}"
        run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        run("ip", "addr", "add", "10.214.1.1/24", "dev", outside)
        run("ip", "link", "set", outside, "up")
        for command in (["addr", "add", f"{self.ip}/24", "dev", "eth0"], ["link", "set", "eth0", "up"], ["link", "set", "lo", "up"]):
            run("nsenter", "-t", str(self.pid), "-n", "ip", *command)

    def __call__(self, *command, check=True, **more):
        """What an administrator types."""
        return run("nsenter", "-t", str(self.pid), "-a", "--", *command, check=check, **more)

    def shell(self, text):
        return self("bash", "-ec", text).stdout

    def property(self, name, unit=SERVICE):
        return self("systemctl", "show", "--value", "--property", name, unit).stdout.strip()

    def main(self):
        return int(self.property("MainPID"))

    def admin(self, path):
        """An answer of the admin address, which is on the host's loopback."""
        script = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:9180{path}', timeout=5).read().decode())"
        return run("nsenter", "-t", str(self.pid), "-n", sys.executable, "-c", script).stdout

    def journal(self):
        lines = self("journalctl", "-u", SERVICE, "-o", "cat", "--no-pager").stdout.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def tell_why(self, kind, *_):
        """What systemd and the gateway said before a failure."""
        if kind:
            said = self("journalctl", "-u", SERVICE, "-o", "short-precise", "--no-pager", check=False).stdout
            print("".join(f"            {line}\n" for line in said.splitlines() if '"access"' not in line))

    def remove(self):
        # Process 1 dies with its parent, and all others with it.
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            os.waitpid(-1, os.WNOHANG)
        run("mount", "-t", "cgroup2", "cgroup2", str(self.hierarchy))
        group = self.hierarchy / self.group

        def empty():
            for folder, _, _ in os.walk(group, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    return False
            return True

        until("no process is left", 10, empty)
        run("umount", str(self.hierarchy))


def expect(holds, sentence):
    if not holds:
        raise RuntimeError(sentence)


def newer(package):
    """The same package with a higher version."""
    folder, made = WORK / "newer", WORK / "newer.deb"
    run("dpkg-deb", "--raw-extract", str(package), str(folder))
    control = folder / "DEBIAN/control"
    lines = [f"{line}+next" if line.startswith("Version:") else line for line in control.read_text().splitlines()]
    control.write_text("\n".join(lines) + "\n")
    # Another inode and other bytes: it is another binary that is started.
    with (folder / "usr/bin/cobrowse-gateway").open("ab") as binary:
        binary.write(b"next")
    run("dpkg-deb", "-Zgzip", "-z1", "--build", "--root-owner-group", str(folder), str(made))
    return made


def put(host, pair):
    """As a certificate tool's hook does it: docs/host.md."""
    for name, text in pair.items():
        (host.root_now / "root" / name).write_text(text)
        host("install", "-g", PACKAGE, "-m", "640", f"/root/{name}", f"/etc/cobrowse-gateway/{name}")


def raised():
    """What LimitNOFILE=131072 can become on this machine, which may not let its own limit be raised."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits[0], 131072))
    except (OSError, ValueError):
        return str(limits[1])
    return "131072"


def locked_in(host):
    """What the unit asks for is in force on the process."""
    pid = host.main()
    status = dict(line.split(":", 1) for line in host.shell(f"cat /proc/{pid}/status").splitlines())
    status = {name: value.strip() for name, value in status.items()}
    for name, wanted in [("NoNewPrivs", "1"), ("Seccomp", "2"), ("CapEff", "0" * 16), ("CapBnd", "0" * 16), ("CapAmb", "0" * 16)]:
        expect(status[name] == wanted, f"{name} is {status[name]}")
    expect("0" not in status["Uid"].split(), f"user {status['Uid']}")
    limits = host.shell(f"cat /proc/{pid}/limits")
    files = next(line.split() for line in limits.splitlines() if line.startswith("Max open files"))
    expect(files[3] == raised(), f"open files: {files}")
    mounts = host.shell(f"cat /proc/{pid}/mountinfo").splitlines()
    root = next(line.split() for line in mounts if line.split()[4] == "/")
    expect("ro" in root[5].split(","), f"the root is {root[5]}")
    # Root itself, in the mounts of the service, writes nowhere but to its private temporary files.
    for place, allowed in [("/etc/cobrowse-gateway", False), ("/usr/bin", False), ("/var", False), ("/tmp", True)]:
        done = host("nsenter", "-t", str(pid), "-m", "touch", f"{place}/written", check=False)
        expect((done.returncode == 0) == allowed, f"{place}: {done.stderr or 'can be written'}")
    expect(not (host.root_now / "tmp/written").exists(), "/tmp is not its own")
    score = host("systemd-analyze", "security", "--no-pager", SERVICE).stdout.splitlines()[-1]
    tell(f"locked in: NoNewPrivs, Seccomp 2, no capability, root read only, own /tmp, {files[3]} files; {score.strip('→ ')}")


def main(package, root):
    first, second = certificate("first"), certificate("second")
    authorities = [first["tls.crt"], second["tls.crt"]]
    with contextlib.ExitStack() as left:
        left.callback(shutil.rmtree, WORK, ignore_errors=True)
        host = Host(root)
        left.callback(host.remove)
        left.push(host.tell_why)
        host.root_now = pathlib.Path(f"/proc/{host.pid}/root")
        tell(f"{host('systemctl', '--version').stdout.splitlines()[0]} is process 1: {host('systemctl', 'is-system-running', check=False).stdout.strip()}")

        # The quick start of docs/host.md.
        shutil.copy(package, host.root_now / "root/gateway.deb")
        host("dpkg", "--install", "/root/gateway.deb")
        expect(host("systemctl", "is-active", SERVICE, check=False).stdout.strip() == "inactive", "the installation starts it")
        # What Prometheus and Grafana are led to is of this very version.
        for command, file in [("alerts", "prometheus/cobrowse-gateway.rules.yaml"), ("dashboards", "grafana/cobrowse-gateway.json")]:
            host.shell(f"cobrowse-gateway {command} | cmp - /usr/share/cobrowse-gateway/{file}")
        host("systemd-run", "--unit", "service", "--setenv", f"REST_KEY={KEY}", "/usr/bin/cobrowse-gateway", "visitor", "--listen", "127.0.0.1:5002", "--base-endpoint", f"https://{HOST}{BASE}")
        file = host.root_now / "etc/cobrowse-gateway/gateway.toml"
        # Restarts wait for WebSockets no longer than this.
        file.write_text(file.read_text() + '\n[drain]\nbudget = "5s"\n')
        put(host, first)
        host.shell(f'(umask 027; echo "back-office: {KEY}" > /etc/cobrowse-gateway/keys; chgrp {PACKAGE} /etc/cobrowse-gateway/keys)')
        host("cobrowse-gateway", "check", "--config", "/etc/cobrowse-gateway/gateway.toml")
        host("systemctl", "enable", "--now", "cobrowse-gateway.socket", SERVICE)
        # Type=notify: the command is back when it serves.
        expect(served(host, authorities) == first["tls.crt"].strip(), "it is started, and does not serve")
        doctor = host("cobrowse-gateway", "doctor", "--config", "/etc/cobrowse-gateway/gateway.toml", "--grace", "40s", check=False)
        tell("doctor:\n" + "\n".join(f"            {line}" for line in doctor.stdout.splitlines()))
        expect(doctor.returncode == 0, "doctor finds problems")
        host.admin("/readyz")
        version = int(host("systemctl", "--version").stdout.split()[1])
        kind = host.property("Type")
        expect(kind == ("notify-reload" if version >= 253 else "notify"), f"Type={kind}")
        sockets = host("systemctl", "show", "--value", "--property", "Listen", "cobrowse-gateway.socket").stdout
        expect("[::]:443" in sockets and host.property("TriggeredBy") == "cobrowse-gateway.socket", f"sockets: {sockets}")
        held = host.shell("cat /proc/net/tcp6").split(":01BB ")[1].split()
        expect(held[1] == "0A", f"nobody listens on 443: {held}")
        tell(f"started: Type={kind}, port 443 is systemd's, {host.property('StatusText')!r}")
        locked_in(host)

        clients = Clients(lambda: [host], authorities)
        left.callback(clients.stop)

        def held_on(what):
            clients.go_on(300)
            until("WebSockets are back", 30, lambda: clients.sockets - len(clients.closes) >= 20 or clients.failures)
            expect(not clients.failures, f"{what}: {clients.failures[:10]}")

        held_on("first load")
        tell(f"{clients.total} answers, {clients.sockets} WebSockets open")

        # systemctl reload: over when the new certificate is in force.
        before = host.main()
        # Nothing is to be found by watching: what is seen is the work of the signal.
        put(host, second)
        host("systemctl", "reload", SERVICE)
        if kind == "notify-reload":
            expect(served(host, authorities) == second["tls.crt"].strip(), "reload is back, and the old certificate is served")
        until("the new certificate", 10, lambda: served(host, authorities) == second["tls.crt"].strip())
        expect(host.main() == before and not clients.closes, "the reload closed something")
        good = file.read_text()
        file.write_text(good + "\n[no_such_table]\n")
        host("systemctl", "reload", SERVICE, check=False)
        until("it is said that it failed", 10, lambda: "gateway_config_last_reload_successful 0" in host.admin("/metrics"))
        expect(host.property("ActiveState") == "active" and host.main() == before, "a wrong file ended it")
        file.write_text(good)
        host("systemctl", "reload", SERVICE)
        until("it is right again", 10, lambda: "gateway_config_last_reload_successful 1" in host.admin("/metrics"))
        held_on("reload")
        tell("reloaded: the new certificate at once, a wrong file rejected and told of, no WebSocket closed")

        # An upgrade of the package: SIGUSR2, a new process, the same sockets.
        shutil.copy(newer(package), host.root_now / "root/newer.deb")
        begun, closed = time.monotonic(), len(clients.closes)
        host("dpkg", "--install", "/root/newer.deb")
        until("systemd knows the new process", 20, lambda: host.main() not in (0, before))
        took, after = time.monotonic() - begun, host.main()
        until("the old process is gone", 40, lambda: host(*f"test -e /proc/{before}".split(), check=False).returncode != 0)
        held_on("upgrade")
        expect(host.property("ActiveState") == "active" and host.property("NRestarts") == "0", "it was restarted")
        tell(f"upgraded by dpkg: process {before}, {after} after {took:.1f} s; {len(clients.closes) - closed} WebSockets closed with {sorted(set(clients.closes[closed:]))}, {len(clients.failures)} failures")
        locked_in(host)

        # A restart: who comes meanwhile waits in systemd's socket.
        begun, closed = time.monotonic(), len(clients.closes)
        host("systemctl", "restart", SERVICE)
        expect(host.main() != after, "it was not restarted")
        took = time.monotonic() - begun
        held_on("restart")
        drained = next(line for line in reversed(host.journal()) if line.get("message") == "drained")
        expect(drained["cut"] == 0 and host.property("NRestarts") == "0", f"no clean end: {drained}")
        tell(f"restarted in {took:.1f} s: {len(clients.closes) - closed} WebSockets closed with {sorted(set(clients.closes[closed:]))}, {len(clients.failures)} failures")

        clients.stop()
        # A crash: systemd starts it anew.
        after = host.main()
        os.kill(int(host_pid(host, after)), signal.SIGKILL)
        until("it is started anew", 20, lambda: host.main() not in (0, after) and host.property("ActiveState") == "active")
        expect(host.property("NRestarts") == "1", host.property("NRestarts"))
        # The end.
        host("systemctl", "stop", "cobrowse-gateway.socket", SERVICE)
        expect(host.property("Result") == "success" and host.property("ExecMainStatus") == "0", host("systemctl", "status", SERVICE, check=False).stdout)
        last = [line for line in host.journal() if line.get("message") == "drained" or line.get("fields", {}).get("message") == "drained"]
        expect(last, "no word of the drain")
        tell(f"killed: started anew; stopped: Result=success, {clients.total} answers, {clients.sockets} WebSockets, {len(clients.failures)} failures in all")

        host("systemctl", "start", "cobrowse-gateway.socket", SERVICE)
        host("dpkg", "--purge", PACKAGE)
        expect(host("systemctl", "is-active", SERVICE, check=False).stdout.strip() == "inactive", "it runs on when it is removed")
        kept = host.shell("ls /etc/cobrowse-gateway").split()
        expect(kept == ["keys", "tls.crt", "tls.key"], f"kept: {kept}")
        expect(host("getent", "passwd", PACKAGE, check=False).returncode != 0, "its user is left")
        failed = host("systemctl", "--failed", "--plain", "--no-legend").stdout
        expect(not failed, failed)
        tell(f"purged: stopped, the user is gone, the administrator's {', '.join(kept)} are left")
    tell("all held")


def host_pid(host, pid):
    """The number that a process of the host has outside."""
    for status in pathlib.Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            text = status.read_text()
            numbers = next(line.split()[1:] for line in text.splitlines() if line.startswith("NSpid:"))
            if len(numbers) > 1 and numbers[-1] == str(pid) and os.readlink(status.parent / "ns/pid") == os.readlink(f"/proc/{host.pid}/ns/pid"):
                return numbers[0]
    raise RuntimeError(f"no process {pid}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
