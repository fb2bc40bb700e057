"""The command: what is to be measured, in which order."""

import argparse
import contextlib
import datetime
import os
import random
import signal
import sys
from pathlib import Path

from . import load, machine, report
from .peers import CLIENTS, DIRECT, FLOOR, GET, OURS, Direct, Peer, known
from .rows import ROWS
from .setup import Trouble, prepared
from .verify import faults

# Relative paths on the command line are seen from where it was called.
FROM = Path(os.environ.get("BENCH_FROM", "."))
KEPT = ("congestion", "rounds", "secs", "rate", "conns", "sockets", "mib", "churn")


def command_line():
    """What there is to choose."""
    p = argparse.ArgumentParser(
        prog="bench/compare", description="The gateway next to its peers, doing the same job, in one run."
    )
    p.add_argument("--row", action="append", metavar="ROW,…", help="only these; --list names them")
    p.add_argument("--peers", metavar="PEER,…", help='only these; "none": the gateway alone')
    p.add_argument("--rounds", type=int, default=6, help="of short slices, each in an order of its own (default: 6)")
    p.add_argument("--secs", type=float, default=2, help="of a slice (default: 2)")
    p.add_argument("--binary", help="the gateway (default: target/release/cobrowse-gateway, built where it is missing)")
    p.add_argument(
        "--rate", type=int, default=2000, help="requests a second of the rows with a fixed rate (default: 2000)"
    )
    p.add_argument("--conns", type=int, default=CLIENTS, help="idle TLS connections (default: 5000)")
    p.add_argument("--sockets", default="2000,10000", metavar="FEW,MANY", help="idle WebSockets (default: 2000,10000)")
    p.add_argument("--mib", type=int, default=100, help="size of a large body (default: 100)")
    p.add_argument("--churn", type=int, default=20000, help="connections opened and closed (default: 20000)")
    p.add_argument("--full", action="store_true", help="1,000,000 of them")
    p.add_argument(
        "--small", action="store_true", help="the smallest sizes: does it still work? The figures mean nothing"
    )
    p.add_argument(
        "--congestion", metavar="NAME", help="the system's congestion control during the run (default: as it is)"
    )
    p.add_argument("--no-install", action="store_true", help="say what is missing in place of installing it")
    p.add_argument("--out", type=Path, help="JSON of the run (default: bench/results/latest.json)")
    p.add_argument("--read", nargs="+", metavar="FILE", help="measure nothing, show these results, merged by row")
    p.add_argument("--write-docs", action="store_true", help="put the tables into docs/performance.md and README.md")
    p.add_argument("--list", action="store_true", help="name the rows and the peers")
    return p


def options():
    """What was chosen, checked."""
    parser = command_line()
    o = parser.parse_args()
    rows, peers = [row.name for row in ROWS], known()
    o.rows = ",".join(o.row).split(",") if o.row else rows
    o.peers = [] if o.peers == "none" else (o.peers.split(",") if o.peers else peers)
    o.peers = [name for name in o.peers if name != OURS]
    for what, chosen, there in (("row", o.rows, rows), ("peer", o.peers, peers)):
        for name in chosen:
            if name not in there:
                parser.error(f"no {what} {name}; there are {', '.join(there)}")
    try:
        few, many = map(int, o.sockets.split(","))
    except ValueError:
        parser.error("--sockets wants two numbers, as 2000,10000")
    o.settle, o.starts = 7.0, 10  # seconds until idle memory is looked at; starts of the row of that name
    if o.full:
        o.churn = 1_000_000
    if o.small:
        o.rounds, o.secs, o.rate, o.conns, o.mib, o.churn = 1, 0.2, 200, 20, 1, 64
        few, many, o.settle, o.starts = 10, 20, 0.2, 1
    if o.rounds < 1 or o.secs <= 0 or not 0 < few < many:
        parser.error("--rounds, --secs and --sockets must be more than nothing, and FEW less than MANY")
    most = machine.most_sockets()
    o.sockets = (min(few, most // 5), min(many, most)) if many > most else (few, many)
    o.out = FROM / o.out if o.out else report.RESULTS / "latest.json"
    return o


def say(text):
    """Progress, for who watches."""
    print(text, file=sys.stderr, flush=True)


def turns(peers, row, number):
    """All of them, in an order that is the same in each run: what comes first or after whom has no favourite."""
    return random.Random(f"{row.name} {number}").sample(peers, len(peers))


class Run:
    """One run: its proxies, and what was measured so far."""

    def __init__(self, o, place):
        self.options, self.place = o, place
        self.rows = [row for row in ROWS if row.name in o.rows]
        self.data = {
            "date": datetime.datetime.now().astimezone().date().isoformat(),
            "cores": len(machine.CORES),
            "options": {name: getattr(o, name) for name in KEPT},
            "versions": {},
            "runs": [],
        }

    def measure(self, row, peer, number, rounds):
        """One slice."""
        seen = row.measure(peer, self.options)
        if report.spoiled(seen):
            wrong = f"{seen['errors']} errors and {seen['refused']} wrong answers next to {seen['done']} answers"
            say(f"{peer.name} {row.name}: no figure, {wrong}")
        shown = [f"{report.number(seen.get(line.key), line.digits)} {line.unit}" for line in row.lines]
        say(f"{row.name:<9} round {number + 1} of {rounds}  {report.title(peer.name):<12} {', '.join(shown)}")
        self.data["runs"].append({"row": row.name, "peer": peer.name, "round": number, **seen})
        report.save(self.data, self.options.out)

    def takes_part(self, row, peer):
        """Whether the row means anything for this one."""
        if peer.name == DIRECT:
            return row.direct
        return row.needs <= peer.caps and (row.floor or FLOOR not in peer.caps)

    def verified(self, peer):
        """Started, and does the same job."""
        peer.start()
        wrong = faults(peer)
        if wrong:
            raise Trouble(f"{peer.name} does not do the same job:\n  " + "\n  ".join(wrong))
        say(f"{report.title(peer.name)} {peer.version}: does the same job")
        self.data["versions"][peer.name] = peer.version

    def all(self):
        """Everything that was asked for."""
        backend = machine.free_port()
        with contextlib.ExitStack() as stack:
            process = machine.Process([self.place.tool("backend"), str(backend)], {machine.CORES[-1]})
            stack.callback(process.stop)
            if not machine.until_open(backend, process):
                raise Trouble("the backend did not start")
            peers = [Peer(name, self.place, backend) for name in (OURS, *self.options.peers)]
            for peer in peers:
                stack.callback(peer.stop)
                self.verified(peer)
            self.slices([*peers, Direct(self.place, backend)])
            for peer in peers:
                peer.stop()
            self.fresh(peers)
        return self.data

    def slices(self, peers):
        """All are there and one at a time has load, in short turns: what the machine does meanwhile meets all."""
        rows = [row for row in self.rows if not row.fresh]
        for peer in peers if rows and not self.options.small else []:
            load.asked(peer, "http", GET, conns=64, secs=0.5)  # warm
        for number in range(self.options.rounds):
            for row in rows:
                for peer in turns(peers, row, number):
                    if self.takes_part(row, peer):
                        self.measure(row, peer, number, self.options.rounds)

    def fresh(self, peers):
        """Each has the machine for itself; these figures differ little from one time to the next."""
        for row in [row for row in self.rows if row.fresh]:
            rounds = 1 if row.name in ("churn", "syscalls") else min(3, self.options.rounds)
            for number in range(rounds):
                for peer in turns(peers, row, number):
                    if not self.takes_part(row, peer):
                        continue
                    try:
                        self.measure(row, peer, number, rounds)
                    finally:
                        peer.stop()


def main():
    """Measures, or reads what was measured, and shows it; 1 if answers of ours were wrong."""
    o = options()
    if o.list:
        for row in ROWS:
            print(f"{row.name:<9} {row.about}")
        print(f"peers: {', '.join(known())}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that all processes are ended
    if o.read:
        data = report.load([FROM / name for name in o.read])
    else:
        machine.check()
        with prepared(o) as place, machine.congestion(o.congestion) as o.congestion:
            data = Run(o, place).all()
        say(f"all figures: {o.out}")
    print(report.text(data), end="")
    if o.write_docs:
        report.write_docs(data)
    return int(any(report.spoiled(run) for run in data["runs"] if run["peer"] == OURS))


try:
    sys.exit(main())
except Trouble as trouble:
    sys.exit(f"bench/compare: {trouble}")
except KeyboardInterrupt:
    sys.exit("bench/compare: interrupted")
