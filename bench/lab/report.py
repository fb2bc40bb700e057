"""Medians, ratios, tables; and the documents that show them."""

import json
import re
import statistics

from .peers import DIRECT, FLOOR, ORDER, OURS
from .rows import ROWS
from .setup import BENCH, ROOT, Trouble

RESULTS = BENCH / "results"
DOCS = ROOT / "docs" / "performance.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- table -->", "<!-- /table -->"
# From this part of the proxy's core on, taken by other jobs, figures are not to be quoted.
MANY_OTHERS = 0.1
TITLES = {
    FLOOR: "TLS relay",
    "haproxy": "HAProxy 2.6",
    "haproxy28": "HAProxy 2.8",
    "envoy": "Envoy",
    "caddy": "Caddy",
    "traefik": "Traefik",
}


def spoiled(run):
    """More than one in a thousand was not answered rightly: no figure."""
    return not run["done"] or run["errors"] + run["refused"] > run["done"] / 1000


def values(runs, row, line):
    """The line's figure by peer and round; of one that is counted from no proxy, what was added."""
    by = {}
    for run in runs:
        value = run.get(line.key)
        if run["row"] == row.name and value is not None and not spoiled(run):
            by.setdefault(run["peer"], {})[run["round"]] = value
    direct = by.pop(DIRECT, {})
    if not line.added:
        return by
    return {peer: {n: v - direct[n] for n, v in rounds.items() if n in direct} for peer, rounds in by.items()}


def summed(runs, row, line):
    """One line of the table."""
    by = {peer: rounds for peer, rounds in values(runs, row, line).items() if rounds}
    medians = {peer: statistics.median(rounds.values()) for peer, rounds in by.items()}
    out = {
        "row": row.name,
        "key": line.key,
        "title": line.title,
        "unit": line.unit,
        "goal": line.goal,
        "medians": medians,
    }
    peers = {peer: median for peer, median in medians.items() if peer not in (OURS, FLOOR)}
    if peers:
        out["best"] = best = (max if line.more else min)(peers, key=peers.get)
        # Of the same round: the machine's own speed drifts.
        ratios = [v / by[best][n] for n, v in by.get(OURS, {}).items() if by[best].get(n, 0) > 0]
        if ratios:
            out |= {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
    judged = out.get("ratio") if line.ratio else medians.get(OURS)
    if judged is not None and line.goal is not None:
        out["met"] = judged >= line.goal if line.more else judged <= line.goal
    return out


def summary(data):
    """All lines of which there are figures."""
    lines = [(line, summed(data["runs"], row, line)) for row in ROWS for line in row.lines]
    return [(line, out) for line, out in lines if out["medians"]]


def number(value, digits):
    """As the table has it; what is not there is a dash."""
    return "–" if value is None else f"{value:,.{digits}f}"


def title(peer):
    """The name of a column."""
    return TITLES.get(peer, peer)


def goal(line):
    """What is to be reached."""
    if line.goal is None:
        return ""
    return f"{'≥' if line.more else '≤'} {line.goal:.2f}" + ("" if line.ratio else f" {line.unit}")


def ratio(out, spread=True):
    """Ours / best peer, with the least and the most of all rounds."""
    if "ratio" not in out:
        return "–"
    around = f" ({out['least']:.2f} to {out['most']:.2f})" if spread and out["least"] != out["most"] else ""
    return f"{out['ratio']:.2f}{around}"


def columns(data):
    """Ours, the peers, the floor: those of which there are figures."""

    def rank(peer):
        return (peer == FLOOR, peer != OURS, ORDER.index(peer) if peer in ORDER else len(ORDER), peer)

    return sorted({run["peer"] for run in data["runs"]} - {DIRECT}, key=rank)


def table(head, rows, left=1):
    """A table in Markdown; its first columns stand to the left."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def full(data):
    """The whole table, in Markdown; the best peer of a line is bold."""
    peers, rows = columns(data), []
    met = {True: "yes", False: "no", None: ""}
    for line, out in summary(data):
        cells = [number(out["medians"].get(peer), line.digits) for peer in peers]
        cells = [f"**{cell}**" if peer == out.get("best") else cell for peer, cell in zip(peers, cells, strict=True)]
        rows.append([line.title, line.unit, *cells, ratio(out), goal(line), met[out.get("met")]])
    return table(["Row", "Unit", *map(title, peers), "ours / best peer", "goal", "met"], rows, 2)


def short(data):
    """What the README shows: the gateway and the best of its peers."""
    rows = []
    for line, out in summary(data):
        if line.goal is None or OURS not in out["medians"]:
            continue
        best = out.get("best")
        theirs = f"{number(out['medians'].get(best), line.digits)} ({title(best)})" if best else "–"
        rows.append(
            [line.title, line.unit, number(out["medians"][OURS], line.digits), theirs, ratio(out, spread=False)]
        )
    return table(["Row", "Unit", "ours", "best peer", "ratio"], rows, 2)


def calls(data):
    """System calls by name, the most frequent first."""
    runs = {run["peer"]: run for run in data["runs"] if run["row"] == "syscalls"}
    rows = []
    for peer in columns(data):
        if peer not in runs:
            continue
        kinds = [sorted(runs[peer][f"names_{kind}"].items(), key=lambda item: -item[1]) for kind in ("h1", "h2", "ws")]
        rows.append([title(peer), *(", ".join(f"{name} {n:.2f}" for name, n in names[:6]) for names in kinds)])
    return table(["System calls per answer", "HTTP/1.1", "HTTP/2", "WebSocket echo"], rows, 4) if rows else []


def shape(options):
    """How often and how long each is loaded, and how TCP goes about it."""
    by = f" with {options['congestion']}" if options.get("congestion") else ""
    return f"{options['rounds']} rounds of {options['secs']:g} s{by}"


def notes(data):
    """How the figures came about, a sentence each."""
    o, runs = data["options"], data["runs"]
    of = {name: [run for run in runs if run["row"] == name] for name in ("cores", "idle_ws", "churn", "syscalls")}
    slices = {}
    for run in runs:
        slices.setdefault(run.get("slices", shape(o)), {})[run["row"]] = None
    if len(slices) > 1:  # of several runs
        slices = {f"{', '.join(rows)} in {long}": rows for long, rows in slices.items()}
    yield f"Measured on {data['date']}, {data['cores']} cores; {'; '.join(slices)}; medians."
    yield (
        "Versions: "
        + ", ".join(f"{title(peer).rstrip('0123456789. ')} {version}" for peer, version in data["versions"].items())
        + "."
    )
    others = [run["others"] for run in runs if "others" in run]
    if others:
        middle = statistics.median(others)
        yield f"Other jobs took {middle:.0%} of the proxy's core in the median, {max(others):.0%} at most."
        if middle > MANY_OTHERS:
            yield "That is much: do not quote these figures."
    paced = [run for run in runs if run["row"] in ("lat", "ws_lat")]
    if any(run.get("unseen") for run in paced):
        share = sum(run.get("unseen", 0) for run in paced) / sum(run["done"] for run in paced)
        yield f"At a fixed rate {share:.1%} met a moment in which the machine stood still, and have no latency."
    if of["cores"]:
        how = {1: "measured", 0: "computed from CPU per request, as the load needed the same cores"}
        yield "Two cores: " + ", ".join(sorted({how[run["measured"]] for run in of["cores"]})) + "."
    if of["idle_ws"] and o["sockets"][1] < 10000:
        yield f"Many WebSockets were {o['sockets'][1]:,}, for the limit of open files or because fewer were asked for."
    if of["churn"]:
        yield f"Connections opened and closed: {statistics.median(run['done'] for run in of['churn']):,.0f} each."
    if of["syscalls"]:
        yield f"System calls counted by {', '.join(sorted({run['by'] for run in of['syscalls']}))}."
    bad = sorted({f"{run['row']} {run['peer']}" for run in runs if spoiled(run)})
    if bad:
        yield f"Left out, answers were wrong: {', '.join(bad)}."


def text(data):
    """All of it."""
    parts = [full(data), calls(data), [" ".join(notes(data))]]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def filled(document, inside):
    """The document with `inside` between its markers."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.S)
    if len(pattern.findall(document)) != 1:
        raise Trouble(f"one {BEGIN} … {END} is expected in the document")
    return pattern.sub(lambda _: f"{BEGIN}\n\n{inside.strip()}\n\n{END}", document)


def write_docs(data):
    """Fills docs/performance.md, and the short form in README.md."""
    day = f"Of {data['date']}; the whole table and what explains it: [docs/performance.md](docs/performance.md)."
    for file, inside in ((DOCS, text(data)), (README, "\n".join([*short(data), "", day]))):
        file.write_text(filled(file.read_text(), inside))


def save(data, file):
    """The whole run as JSON: every measurement, and the lines of the table."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [out for _, out in summary(data)]
    file.write_text(json.dumps(data | {"lines": lines}, indent=1, ensure_ascii=False) + "\n")


def load(files):
    """Runs that were saved, as one; of a row that is in several the last one counts."""
    whole = None
    for file in files:
        try:
            data = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise Trouble(f"{file}: {error}") from error
        for run in data["runs"]:
            run.setdefault("slices", shape(data["options"]))
        if whole:
            again = {run["row"] for run in data["runs"]}
            data["runs"] = [run for run in whole["runs"] if run["row"] not in again] + data["runs"]
            data["versions"] = whole["versions"] | data["versions"]
        whole = data
    return whole
