"""The rows: what is measured, in which unit, with which goal."""

from collections.abc import Callable
from dataclasses import dataclass, field

from . import calls, fresh, load, machine
from .peers import GET
from .verify import POST, SOCKET, UPLOAD


@dataclass(frozen=True)
class Line:
    """One line of the table. `key` names a figure that the row's `measure` gives."""

    key: str
    title: str
    unit: str
    goal: float | None = None
    # The goal is one of the ratio ours / best peer; else of our figure itself.
    ratio: bool = True
    # More is better.
    more: bool = False
    # Counted from what the same costs without any proxy, in the same round.
    added: bool = False
    digits: int = 1


@dataclass(frozen=True)
class Row:
    """What is measured in one go. `measure(peer, options)` gives figures by name."""

    name: str
    about: str
    lines: list
    measure: Callable
    # What a peer must be able to do.
    needs: set = field(default_factory=set)
    # Has a floor: the relay takes part.
    floor: bool = True
    # Is measured without any proxy, too.
    direct: bool = False
    # Each measurement has a process of its own, and the others do not run.
    fresh: bool = False


def http(path, *, key=True, size=0):
    """A measure of requests on 64 kept connections."""

    def measure(peer, o):
        seen = load.asked(peer, "http", path, key=key, conns=64, secs=o.secs, size=size)
        if not key:  # to be refused is right here
            seen["refused"] = seen["done"] - seen["refused"]
        return seen

    return measure


def h2(peer, o):
    """Requests over HTTP/2."""
    return load.asked_h2(peer, GET, o.secs)


def latency(peer, o):
    """Waits at a fixed rate."""
    return load.asked(peer, "http", GET, conns=32, **at_a_fixed_rate(o))


def at_a_fixed_rate(o):
    """How the client is to ask: long enough that there are some of the slowest thousandth, whatever other slices
    are; and what meets a moment in which the machine stands still is not counted."""
    secs = 2.5 * (o.secs if o.small else max(1, o.secs))
    return {"rate": o.rate, "secs": secs, "watch": min(machine.PROXY)}


def connections(resume):
    """A measure of new connections, 32 at a time."""

    def measure(peer, o):
        seen = load.asked(peer, "hs", GET, conns=32, secs=o.secs, resume=int(resume))
        shaken = seen["full"] + seen["resumed"]
        seen["resumed_share"] = seen["resumed"] / shaken if shaken else 0
        return seen

    return measure


def stream(path, up):
    """A measure of large bodies on 4 connections, by what really went through."""

    def measure(peer, o):
        where, size = (path, o.mib << 20) if up else (f"{path}?{o.mib}", 0)
        seen = load.asked(peer, "http", where, conns=4, secs=o.secs, size=size)
        gib = seen["sent" if up else "read"] / 2**30
        # A body that is on its way when the slice ends was carried as well.
        seen["done"] = max(seen["done"], int(gib > 0))
        return seen | {"gib": gib, "cpu_s_per_gib": seen["cpu_s"] / gib if gib else None}

    return measure


MESSAGES = (100, 1024, 4096)


def messages(peer, o):
    """Echoed WebSocket messages on 64 sockets, each size in turn."""
    whole = {"errors": 0, "refused": 0, "done": 0, "others": 0.0}
    for size in MESSAGES:
        seen = load.asked(peer, "ws", SOCKET, conns=64, secs=o.secs, size=size)
        whole |= {f"cpu_us_{size}": seen.get("cpu_us"), f"rps_{size}": seen["rps"], f"busy_{size}": seen["busy"]}
        for name in ("errors", "refused", "done"):
            whole[name] += seen[name]
        whole["others"] = max(whole["others"], seen["others"])
    return whole


def message_latency(peer, o):
    """Waits for an echo at a fixed rate, on 64 sockets."""
    whole = {"errors": 0, "refused": 0, "done": 0, "unseen": 0, "others": 0.0}
    for size in (MESSAGES[0], MESSAGES[-1]):
        seen = load.asked(peer, "ws", SOCKET, conns=64, size=size, **at_a_fixed_rate(o))
        whole |= {f"{p}_us_{size}": seen[f"{p}_us"] for p in ("p50", "p99")}
        for name in ("errors", "refused", "done", "unseen"):
            whole[name] += seen[name]
        whole["others"] = max(whole["others"], seen["others"])
    return whole


REQUEST, MESSAGE, EACH = "CPU µs per request", "CPU µs per message", "KiB each"

ROWS = [
    Row(
        "h1",
        "GET of 600 B of JSON over HTTP/1.1, 64 kept connections",
        [Line("cpu_us", "HTTP/1.1, kept connections", REQUEST, 0.85)],
        http(GET),
    ),
    Row(
        "h2",
        "the same over HTTP/2, 16 connections with 16 streams",
        [Line("cpu_us", "HTTP/2", REQUEST, 0.90)],
        h2,
        {"h2"},
    ),
    Row(
        "401",
        "the same without the key",
        [Line("cpu_us", "refused: 401", REQUEST, 1.0)],
        http(GET, key=False),
        floor=False,
    ),
    Row("post", "POST of 1 KiB", [Line("cpu_us", "POST of 1 KiB", REQUEST, 0.85)], http(POST, size=1024)),
    Row(
        "lat",
        "GET at a fixed rate, 32 connections, from the moment a request was due; added to no proxy at all",
        [
            Line(f"{k}_us", f"latency added, {t}", "µs", 1.0, added=True, digits=0)
            for k, t in (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9"))
        ],
        latency,
        direct=True,
    ),
    Row(
        "connect",
        "a new connection for each GET, full handshake",
        [Line("cpu_us", "new connection, full", "CPU µs", 0.70, digits=0)],
        connections(False),
    ),
    Row(
        "resume",
        "a new connection for each GET, resumed session",
        [Line("cpu_us", "new connection, resumed", "CPU µs", 0.75, digits=0)],
        connections(True),
    ),
    Row(
        "download",
        "bodies of 100 MiB to the client, 4 connections",
        [Line("cpu_s_per_gib", "download", "CPU s per GiB", 0.8, digits=2)],
        stream("/cobrowsing/big", False),
    ),
    Row(
        "upload",
        "bodies of 100 MiB to the backend, 4 connections",
        [Line("cpu_s_per_gib", "upload", "CPU s per GiB", 0.8, digits=2)],
        stream(UPLOAD, True),
    ),
    Row(
        "ws",
        "WebSocket messages, echoed, 64 sockets",
        [Line(f"cpu_us_{size}", f"WebSocket echo, {size:,} B", MESSAGE, 0.9) for size in MESSAGES],
        messages,
        {"ws"},
    ),
    Row(
        "ws_lat",
        "the same at a fixed rate; added to no proxy at all",
        [
            Line(f"p99_us_{size}", f"WebSocket echo, {size:,} B: p99 added", "µs", 0.9, added=True, digits=0)
            for size in (MESSAGES[0], MESSAGES[-1])
        ],
        message_latency,
        {"ws"},
        direct=True,
    ),
    Row(
        "idle",
        "5,000 TLS connections, one request each, then quiet",
        [Line("kib", "idle TLS connection", EACH, 1.0)],
        fresh.idle,
        fresh=True,
    ),
    Row(
        "idle_ws",
        "2,000, then 10,000 quiet WebSockets",
        [Line("kib_few", "idle WebSocket, 2,000", EACH, 0.7), Line("kib_many", "idle WebSocket, 10,000", EACH, 0.7)],
        fresh.idle_ws,
        {"ws"},
        fresh=True,
    ),
    Row(
        "start",
        "from the start of the program to its first answer, and what it holds then",
        [Line("pss_mib", "memory at start", "MiB", 1.0), Line("first_ms", "start to first answer", "ms", 1.0)],
        fresh.start,
        fresh=True,
    ),
    Row(
        "cores",
        "the h1 row with two workers against one",
        [Line("scaling", "two cores against one", "times", 1.8, ratio=False, more=True, digits=2)],
        fresh.cores,
        floor=False,
        fresh=True,
    ),
    Row(
        "churn",
        "connections opened and closed; 1,000,000 with --full",
        [Line("bytes", "memory kept of a closed connection", "bytes", 1.0, ratio=False, digits=2)],
        fresh.churn,
        floor=False,
        fresh=True,
    ),
    Row(
        "syscalls",
        "system calls for h1, h2 and WebSocket messages",
        [
            Line(f"calls_{k}", f"system calls, {t}", "per answer", digits=2)
            for k, t in (("h1", "HTTP/1.1"), ("h2", "HTTP/2"), ("ws", "WebSocket echo"))
        ],
        calls.measure,
        {"h2", "ws"},
        floor=False,
        fresh=True,
    ),
]
