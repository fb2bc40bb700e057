"""The machine: its cores, and what processes use of it."""

import contextlib
import glob
import os
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

from .setup import Trouble

CORES = sorted(os.sched_getaffinity(0))
PROXY = {CORES[0]}
# Load, backend and this program; never the proxy's core.
LOAD = set(CORES[1:])
CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
OPEN_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def check():
    """Cores enough, and this program off the proxy's."""
    if len(CORES) < 2:
        raise Trouble("two cores are needed: one for the proxy, one for the load")
    os.sched_setaffinity(0, LOAD)  # what is started from here stays there, too


@contextlib.contextmanager
def congestion(wanted):
    """The system's congestion control is `wanted` meanwhile; as it is for `None`. Gives its name."""
    found = CONGESTION.read_text().strip()
    if wanted in (None, found):
        yield found
        return
    there = CONGESTION.with_name("tcp_available_congestion_control").read_text().split()
    if wanted not in there:
        raise Trouble(f"no congestion control {wanted}; there are {', '.join(there)}")
    try:
        CONGESTION.write_text(wanted)
    except OSError as error:
        raise Trouble(f"--congestion {wanted}: {error}; it wants root") from error
    try:
        yield wanted
    finally:
        CONGESTION.write_text(found)


def most_sockets():
    """How many WebSockets a proxy can hold: two open files each, and some for itself."""
    return (OPEN_FILES - 1400) // 2 // 100 * 100


def free_port(taken=set()):  # noqa: B006  one set for all calls: no port is given out twice
    """A port nobody listens on, out of the range that outgoing connections use."""
    for port in range(18000 + os.getpid() % 1000 * 10, 32000):
        if port in taken:
            continue
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("0.0.0.0", port))  # noqa: S104
            taken.add(port)
            return port
    raise Trouble("no free port below 32000")


def tree(root):
    """The process and all that descend from it."""
    children = {}
    for file in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError), open(file) as f:
            text = f.read()
            parent = int(text.rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(text.split(" ", 1)[0]))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def cpu(root):
    """Nanoseconds each thread below a process has run so far, by thread."""
    threads = {}
    for pid in tree(root) if root else []:
        for file in glob.glob(f"/proc/{pid}/task/*/schedstat"):
            with contextlib.suppress(OSError), open(file) as f:
                threads[file] = int(f.read().split()[0])
    return threads


def cpu_between(before, after):
    """Seconds that were run between two looks; a thread that ended meanwhile takes its part with it."""
    return sum(ns - before.get(thread, 0) for thread, ns in after.items()) / 1e9


def memory(root):
    """KiB a process and its children hold: resident, and with shared pages in proportion."""
    held = {"rss": 0, "pss": 0}
    for pid in tree(root):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as f:
            for line in f:
                name = line[:4].lower()
                if name in ("rss:", "pss:"):
                    held[name[:3]] += int(line.split()[1])
    return held


def busy():
    """Seconds the proxy's core was busy so far, stolen time included."""
    with open("/proc/stat") as f:
        for line in f:
            if line.startswith(f"cpu{CORES[0]} "):
                v = [int(x) for x in line.split()[1:9]]
                return (sum(v) - v[3] - v[4]) / os.sysconf("SC_CLK_TCK")
    return 0.0


class Process:
    """A process on some cores, ended with all that descends from it."""

    def __init__(self, command, cores, env=None, log=None):
        def settle():
            os.sched_setaffinity(0, cores)
            with contextlib.suppress(PermissionError):
                os.nice(-19)  # other jobs of the machine disturb less

        self.log = open(log, "ab") if log else subprocess.DEVNULL  # noqa: SIM115
        self.child = subprocess.Popen(command, env=env, stdout=self.log, stderr=self.log, preexec_fn=settle)
        self.pid = self.child.pid

    def ended(self):
        """Whether it has ended by itself."""
        return self.child.poll() is not None

    def stop(self):
        """SIGTERM, and three seconds later SIGKILL to it and its children."""
        all_of_it = tree(self.pid)
        self.child.terminate()
        try:
            self.child.wait(3)
        except subprocess.TimeoutExpired:
            for pid in all_of_it:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self.child.wait(5)
        if self.log is not subprocess.DEVNULL:
            self.log.close()


def until_open(port, process=None, seconds=20):
    """Waits until `port` accepts; False when it does not, or the process has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process and process.ended():
            return False
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        time.sleep(0.02)
    return False
