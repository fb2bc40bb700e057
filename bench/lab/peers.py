"""The proxies: a file each, `bench/ours.sh` and `bench/peers/*.sh`; README.md says what such a file does."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import machine
from .setup import BENCH, Trouble

KEY = "bench-key-0123456789abcdef"
GET = "/cobrowsing/api/visitors/list/latest"
OURS, FLOOR, DIRECT = "ours", "relay", "direct"
ORDER = ["nginx", "haproxy", "haproxy28", "envoy", "caddy", "traefik"]
# Clients at a time that a peer must be able to hold, where a row does not ask for more.
CLIENTS = 5000


def known():
    """Names of all peers, in the order of the table; the floor is one of them here."""
    names = [file.stem for file in (BENCH / "peers").glob("*.sh")]
    return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER) + (name == FLOOR), name))


class Peer:
    """One proxy: what it can do, and its process while it runs."""

    plain = False

    def __init__(self, name, place, backend):
        self.name, self.place, self.backend = name, place, backend
        self.file = BENCH / "ours.sh" if name == OURS else BENCH / "peers" / f"{name}.sh"
        self.port, self.admin = machine.free_port(), machine.free_port()
        self.process = self.work = None
        self.caps = set(self.say("caps").split())
        if not self.caps:
            raise Trouble(f"{name}: its program is not there ({self.file.name} caps prints nothing)")
        self.version = self.say("version")

    def environment(self, workers=1, clients=CLIENTS):
        """What the file of a peer is told."""
        place = self.place
        return dict(
            os.environ,
            PORT=str(self.port),
            ADMIN=str(self.admin),
            BACKEND=str(self.backend),
            WORKERS=str(workers),
            CONNECTIONS=str(clients),
            CERT=str(place.certificate),
            KEY=str(place.key),
            REST_KEY=KEY,
            WORK=str(self.work or place.work),
            VENV=str(place.cache / "venv"),
            BIN_DIR=str(place.tools),
            OURS_BIN=str(place.binary),
        )

    def say(self, word):
        """What the file prints when it is called with `word`."""
        asked = subprocess.run(
            ["bash", self.file, word], env=self.environment(), capture_output=True, text=True, check=False
        )
        return asked.stdout.strip()

    def start(self, workers=1, clients=CLIENTS, cores=machine.PROXY, stamp=None):
        """Starts it and waits until it accepts. `stamp`: a file that is told when it became itself."""
        self.work = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=self.place.work))
        env = self.environment(workers, clients)
        if stamp:
            env["RUN"] = f"{self.place.tool('client')} stamp {stamp}"
        log = self.work / "log"
        self.process = machine.Process(["bash", str(self.file), "start"], cores, env, log)
        if not machine.until_open(self.port, self.process) or not self.answers():
            said = log.read_text(errors="replace")[-2000:]
            self.stop()
            raise Trouble(f"{self.name} did not start:\n{said}")

    def answers(self):
        """Waits until it answers rightly: some accept before they have read what to do."""
        command = [self.place.tool("client"), "first", "--port", str(self.port), "--auth", KEY, "--path", GET]
        asked = subprocess.run([*command, "--secs", "20"], capture_output=True, text=True, check=False)
        return '"done":1' in asked.stdout

    def stop(self):
        """Ends it, if it runs."""
        if self.process:
            self.process.stop()
            shutil.rmtree(self.work, ignore_errors=True)
        self.process = self.work = None

    @property
    def pid(self):
        """Of the process that runs."""
        return self.process.pid if self.process else None

    @property
    def url(self):
        """Where its clients find it."""
        return f"https://localhost:{self.port}"


class Direct(Peer):
    """No proxy at all: the backend itself, over plain HTTP. What a proxy adds is counted from it."""

    plain = True

    def __init__(self, place, backend):
        self.place = place
        self.name, self.port, self.caps, self.version = DIRECT, backend, {"h1", "ws"}, "no proxy"
        self.process = None

    def start(self, **_):
        """There is nothing to start."""

    @property
    def url(self):
        """The backend's."""
        return f"http://localhost:{self.port}"
