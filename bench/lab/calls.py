"""System calls per answer, by perf where it is there (it costs the proxy little), else by strace."""

import contextlib
import re
import signal
import subprocess
import time

from . import load, machine
from .peers import GET
from .setup import Trouble, there
from .verify import SOCKET

# What proxies do on a request's way; the rest is counted together.
NAMES = """
    read write readv writev recvfrom sendto recvmsg sendmsg splice epoll_wait epoll_pwait epoll_ctl futex
    clock_gettime getsockopt setsockopt getsockname ioctl fcntl nanosleep clock_nanosleep sched_yield madvise
    brk mmap munmap timerfd_settime socket connect accept4 close shutdown rt_sigprocmask getpid tgkill
""".split()  # noqa: SIM905
TOTAL = "raw_syscalls:sys_enter"


def by_perf(pid, file):
    """The command that counts."""
    events = ",".join([TOTAL, *(f"syscalls:sys_enter_{name}" for name in NAMES)])
    return ["perf", "stat", "-x;", "-o", str(file), "-e", events, "-p", ",".join(map(str, machine.tree(pid)))]


def read_perf(text):
    """Calls by name out of the file of perf."""
    counts = {}
    for line in text.splitlines():
        fields = line.split(";")
        if len(fields) > 2 and fields[0].isdigit():
            counts[fields[2]] = int(fields[0])
    total = counts.pop(TOTAL, 0)
    counts = {name.removeprefix("syscalls:sys_enter_"): n for name, n in counts.items() if n}
    rest = total - sum(counts.values())
    return counts | ({"others": rest} if rest > 0 else {})


def by_strace(pid, file):
    """The same of strace."""
    processes = [word for one in machine.tree(pid) for word in ("-p", str(one))]
    return ["strace", "-f", "-c", "-o", str(file), *processes]


def read_strace(text):
    """Calls by name out of the table of strace."""
    rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?([a-z_0-9]+)$", text, re.M)
    return {name: int(n) for n, name in rows if name != "total"}


@contextlib.contextmanager
def counted(peer, into):
    """Counts the proxy's calls by name into `into`."""
    file = peer.place.work / "calls"
    file.unlink(missing_ok=True)
    perf = there("perf")
    command = (by_perf if perf else by_strace)(peer.pid, file)
    tool = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)  # until it has attached
    try:
        yield
    finally:
        tool.send_signal(signal.SIGINT)
        said = tool.communicate(timeout=20)[1]
    counts = (read_perf if perf else read_strace)(file.read_text() if file.exists() else "")
    if not counts:
        raise Trouble(f"{command[0]} counts no system calls here:\n{said[-500:]}")
    into |= counts | {"": command[0]}


def measure(peer, o):
    """Calls per answer of three kinds of load, in all and by name."""
    whole = {"done": 0, "errors": 0, "refused": 0}
    peer.start()
    load.asked(peer, "http", GET, conns=64, secs=o.secs / 4)
    for kind in ("h1", "h2", "ws"):
        counts = {}

        def during(counts=counts):
            return counted(peer, counts)

        if kind == "h1":
            seen = load.asked(peer, "http", GET, conns=64, secs=o.secs, during=during)
        elif kind == "h2":
            seen = load.asked_h2(peer, GET, o.secs, during)
        else:
            seen = load.asked(peer, "ws", SOCKET, conns=64, secs=o.secs, size=100, during=during)
        whole["by"] = counts.pop("")
        each = {name: n / max(1, seen["done"]) for name, n in counts.items()}
        whole |= {
            f"calls_{kind}": sum(each.values()),
            f"names_{kind}": {k: round(v, 3) for k, v in each.items() if v >= 0.005},
        }
        for name in ("done", "errors", "refused"):
            whole[name] += seen[name]
    return whole
