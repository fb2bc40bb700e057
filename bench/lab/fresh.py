"""Rows that give each measurement a process of its own: memory, the start, two cores, churn."""

import statistics
import time

from . import load, machine
from .peers import GET, KEY, Peer
from .verify import SOCKET

# Slices with one worker, and as many with two, of the row of two cores.
PAIRS = 8


def idle(peer, o):
    """Memory of a TLS connection that was asked once and is quiet."""
    peer.start(clients=o.conns)
    time.sleep(o.settle / 4)
    before = machine.memory(peer.pid)
    with load.held(peer, GET, o.conns) as seen:
        time.sleep(o.settle)  # buffers may be given back after a while
        after = machine.memory(peer.pid)
    return seen | {"kib": (after["pss"] - before["pss"]) / max(1, seen["done"]), "before": before, "after": after}


def idle_ws(peer, o):
    """Memory of a quiet WebSocket: of the first some, and of many."""
    few, many = o.sockets
    peer.start(clients=many)
    time.sleep(o.settle / 4)
    before = machine.memory(peer.pid)
    with load.held(peer, SOCKET, few, websocket=True) as first:
        time.sleep(o.settle)
        at_few = machine.memory(peer.pid)
        with load.held(peer, SOCKET, many - few, websocket=True) as rest:
            time.sleep(o.settle)
            at_many = machine.memory(peer.pid)
    seen = {name: first[name] + rest[name] for name in ("done", "errors", "refused")}
    grown = lambda held, n: (held["pss"] - before["pss"]) / max(1, n)  # noqa: E731
    seen |= {"kib_few": grown(at_few, first["done"]), "kib_many": grown(at_many, seen["done"])}
    return seen | {"before": before, "at_few": at_few, "at_many": at_many}


def start(peer, o):
    """Time from the moment the program is executed until a client has its first answer, and memory then."""
    took, held = [], []
    stamp = peer.place.work / "stamp"
    for _ in range(o.starts):
        stamp.unlink(missing_ok=True)
        flags = {"path": GET, "auth": KEY, "secs": 30}
        with load.client(peer, "first", **flags) as process:  # asks before there is anybody
            peer.start(stamp=stamp)
            seen = load.said(process, peer)
        took.append((seen["at"] - float(stamp.read_text())) * 1000)
        if len(held) < 3:
            time.sleep(min(1.0, o.settle))
            held.append(machine.memory(peer.pid)["pss"] / 1024)
        peer.stop()
    return {
        "done": len(took),
        "errors": 0,
        "refused": 0,
        "first_ms": statistics.median(took),
        "pss_mib": statistics.median(held),
        "all_ms": took,
    }


def cores(peer, o):
    """Requests a second of two workers on two cores against one worker on one.

    Both run all the while and have the load in turns, in short slices: what the machine does meanwhile meets
    both. The load must not be the limit. Where there are four cores it has two or more for itself, and what was
    measured counts if the proxy's cores were busy all the time. Else proxy and load share all cores, with one
    worker as with two, and the answer is computed: two cores do 2 * (CPU of a request with one worker) /
    (CPU of a request with two). That holds what two workers cost each other (counters, caches, locks that
    spin), and not what waiting for each other would cost.
    """
    apart = len(machine.CORES) >= 4
    copies = max(1, min(4, len(machine.CORES) - 3))
    whole = {"done": 0, "errors": 0, "refused": 0}
    both = {1: peer, 2: Peer(peer.name, peer.place, peer.backend)}
    slices = {1: [], 2: []}
    load_cores = machine.LOAD
    machine.LOAD = set(machine.CORES[2:] if apart else machine.CORES)
    try:
        for workers, one in both.items():
            one.start(workers=workers, cores=set(machine.CORES[:workers] if apart else machine.CORES))
            load.asked(one, "http", GET, conns=64, secs=o.secs / 4)
        for number in range(PAIRS):
            for workers in (1, 2) if number % 2 == 0 else (2, 1):
                seen = load.asked(both[workers], "http", GET, conns=64, secs=o.secs / 2, copies=copies)
                slices[workers].append(seen)
                for name in whole:
                    whole[name] += seen[name]
    finally:
        machine.LOAD = load_cores
        for one in both.values():
            one.stop()
    middle = {
        f"{name}_{workers}": statistics.median(seen[name] for seen in of)
        for workers, of in slices.items()
        for name in ("rps", "busy", "cpu_us")
    }
    measured = apart and middle["busy_1"] > 0.95 and middle["busy_2"] > 1.9
    computed = 2 * middle["cpu_us_1"] / middle["cpu_us_2"]
    whole |= middle | {"measured": int(measured), "computed": computed}
    return whole | {"scaling": middle["rps_2"] / middle["rps_1"] if measured else computed}


def churn(peer, o):
    """What memory grew by while connections came and went, full handshakes, one GET each."""
    peer.start()
    load.asked(peer, "hs", GET, conns=32, count=max(32, o.churn // 5))  # pools and caches fill
    time.sleep(o.settle / 4)
    before = machine.memory(peer.pid)
    seen = load.asked(peer, "hs", GET, conns=32, count=o.churn)
    time.sleep(o.settle / 4)
    after = machine.memory(peer.pid)
    grown = (after["rss"] - before["rss"]) * 1024
    return seen | {"bytes": grown / max(1, seen["done"]), "before": before, "after": after}
