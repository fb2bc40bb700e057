"""Puts load on a proxy and looks at what it costs."""

import contextlib
import json
import os
import re
import subprocess
import threading
import time

from . import machine
from .peers import KEY
from .setup import Trouble

# Modes of the client that wait until they are told to go.
GATED = ("http", "ws", "hs")


@contextlib.contextmanager
def client(peer, mode, cores=None, patience=120, **flags):
    """`tools/client` as a process, killed when it takes longer than `patience` seconds."""
    command = [peer.place.tool("client"), mode, "--port", str(peer.port), "--tls", str(int(not peer.plain))]
    for name, value in flags.items():
        command += [f"--{name}", str(value)]

    def settle():
        os.sched_setaffinity(0, cores or machine.LOAD)
        with contextlib.suppress(PermissionError):
            os.nice(-19)

    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=settle)
    guard = threading.Timer(patience, process.kill)
    guard.start()
    try:
        yield process
    finally:
        guard.cancel()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        process.stdout.close()


def said(process, peer):
    """The line of figures of a client."""
    line = process.stdout.readline()
    if not line.startswith("{"):
        raise Trouble(f"{peer.name}: the load ended without figures, or was not done in time")
    return json.loads(line)


def costs(before, after, began, core):
    """What was used since `began`."""
    used, took = machine.cpu_between(before, after), time.monotonic() - began
    others = machine.busy() - core - used
    return {"cpu_s": used, "busy": used / took, "others": min(1.0, max(0.0, others / took))}


def figures(seen, used):
    """Costs for each answer."""
    n = seen["done"]
    used |= seen | {"rps": n / seen["secs"] if n else 0}
    if n:
        used["cpu_us"] = used["cpu_s"] / n * 1e6
    return used


def asked(peer, mode, path, *, key=True, during=contextlib.nullcontext, copies=1, **flags):
    """Load of `tools/client`: its figures, and the proxy's CPU (`cpu_s`, `cpu_us` an answer).

    The proxy is looked at when all connections are open and when the load has ended; `during` is
    entered in between. `copies`: so many clients at once, where one is not enough.
    """
    flags = {"path": path, "secs": 2} | ({"auth": KEY} if key else {}) | flags
    patience = 90 + 4 * flags["secs"] + flags.get("count", 0) / 200
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client(peer, mode, patience=patience, **flags)) for _ in range(copies)]
        if mode in GATED:
            for one in clients:
                if one.stdout.readline() != "ready\n":
                    raise Trouble(f"{peer.name}: connections could not be opened")
        with during():
            before, core, began = machine.cpu(peer.pid), machine.busy(), time.monotonic()
            for one in clients if mode in GATED else []:
                one.stdin.write("\n")
                one.stdin.flush()
            seen = [said(one, peer) for one in clients]
            used = costs(before, machine.cpu(peer.pid), began, core)
    sums = ("done", "errors", "refused", "sent", "read", "unseen")
    whole = seen[0] | {name: sum(one.get(name, 0) for one in seen) for name in sums}
    return figures(whole, used)


def asked_h2(peer, path, secs, during=contextlib.nullcontext):
    """Load over HTTP/2 by h2load: 16 connections with 16 streams each."""
    command = ["h2load", "-t1", "--tls13-ciphers=TLS_AES_128_GCM_SHA256", "--groups=X25519", "-c16", "-m16"]
    # h2load counts seconds in whole numbers, but for its warming up.
    command += [f"--header=authorization: {KEY}", f"-D{max(1, round(secs))}", peer.url + path]
    env = dict(os.environ, OPENSSL_CONF=str(peer.place.cache / "openssl.cnf"))
    with during():
        before, core, began = machine.cpu(peer.pid), machine.busy(), time.monotonic()
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60 + 3 * secs)
        used = costs(before, machine.cpu(peer.pid), began, core)
    took = re.search(r"finished in ([\d.]+)(ms|s)", done.stdout)
    n = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", done.stdout)
    status = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", done.stdout)
    if not (took and n and status):
        raise Trouble(f"{peer.name}: h2load failed:\n{done.stdout[-800:]}{done.stderr[-800:]}")
    ok, failed, errored, late = map(int, n.groups())
    seen = {
        "done": ok,
        "errors": errored + late,
        "refused": sum(map(int, status.groups()[1:])),
        "secs": float(took[1]) * (0.001 if took[2] == "ms" else 1),
        "failed": failed,
    }
    return figures(seen, used)


@contextlib.contextmanager
def held(peer, path, n, websocket=False):
    """Holds `n` connections open, each after one request or as a WebSocket; gives the figures of opening."""
    flags = {"path": path, "auth": KEY, "conns": n} | ({"size": 1} if websocket else {})
    with client(peer, "idle", patience=300, **flags) as process:
        yield said(process, peer)
