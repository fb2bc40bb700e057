"""Is the same job really done? Nobody is measured who does not do it."""

import os
import subprocess

from .peers import FLOOR, GET, KEY

POST = "/cobrowsing/api/visitors/watch_url"
UPLOAD = "/cobrowsing/upload"
SOCKET = "/cobrowsing/ws"
BODY = 600
AUTH = ("-H", f"Authorization: {KEY}")
UPGRADE = [
    *("--http1.1", "-m", "1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"),
    *("-H", "Sec-WebSocket-Version: 13", "-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
]


def curl(*arguments):
    """What curl prints."""
    asked = subprocess.run(["curl", "-sk", "-m", "5", *arguments], capture_output=True, check=False)
    return asked.stdout.decode(errors="replace")


def verdict(*arguments):
    """Status and version of an answer, e.g. `200 1.1`."""
    return curl("-o", os.devnull, "-w", "%{http_code} %{http_version}", *arguments)


def faults(peer):
    """What is not as it should be, a line each; none: the same job."""
    url, wrong = peer.url, []

    def must(what, holds, seen=""):
        if not holds:
            wrong.append(f"{what}{': ' if seen else ''}{str(seen)[:500]!r}" if seen else what)

    h1 = ("--http1.1", *AUTH)
    seen = verdict(*h1, url + GET)
    must("GET over HTTP/1.1 with the key", seen == "200 1.1", seen)
    must("body of the answer", len(curl(*h1, url + GET)) == BODY)
    must("POST with a body", len(curl(*h1, "-d", "{}", url + POST)) == BODY)
    if "ws" in peer.caps:
        shaken = curl("-i", *UPGRADE, url + SOCKET)
        must("WebSocket", " 101 " in shaken and "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in shaken, shaken)
    if not peer.plain:
        tls = ("--tlsv1.3", "-o", os.devnull, "-w", "%{http_code}")
        must("TLS 1.3", curl(*tls, *h1, url + GET) == "200")
    if peer.plain or FLOOR in peer.caps:
        return wrong
    echo = curl(*AUTH, f"{url}/cobrowsing/api/echo?a=1").lower()
    must("path stripped", echo.startswith("get /api/echo?a=1 http/1.1"), echo)
    # Of a client of the same host Envoy writes the host's own address: any will do.
    for header in ("x-forwarded-for: ", "x-forwarded-proto: https", "x-forwarded-host: localhost"):
        must(header, header in echo, echo)
    must("connection to the backend kept", "connection: close" not in echo)
    must("pages without a key", curl(f"{url}/cobrowsing/assets/echo").startswith("GET /assets/echo"))
    must("401 without a key", verdict(url + GET).startswith("401"))
    must("401 with a wrong key", verdict("-H", "Authorization: wrong", url + GET).startswith("401"))
    if "h2" in peer.caps:
        seen = verdict("--http2", *AUTH, url + GET)
        must("GET over HTTP/2", seen == "200 2", seen)
    for word in peer.caps:
        if word.startswith("metrics:"):
            must("metrics", verdict(f"http://127.0.0.1:{peer.admin}{word[8:]}").startswith("200"))
    return wrong
