"""The pod of the manifest, run for real: its containers from the image by podman, in a network namespace
a pod, started, probed and stopped in the order that the kubelet keeps.

    pod.py MANIFEST.json      (an overlay with the built-in backend, as deploy/validate writes it)

What stands in for Kubernetes is this file: it reads the manifest, puts ConfigMaps and Secrets where the
kubelet does (`..data` links), asks the probes, keeps a list of ready pods as a Service does, runs all
preStop hooks when a pod begins to end, and sends SIGTERM to the sidecar when the service is gone. What it
has no means for: NetworkPolicy, disruption budgets, autoscaling, scheduling. Needs root.
"""

import contextlib
import itertools
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

KEY = "the-key-of-this-test"
HOST = "support.acmetech.com"
BASE = "/cobrowsing"
WORK = pathlib.Path(tempfile.mkdtemp(prefix="cobrowse-pod-"))
BEGUN = time.monotonic()
CLOSE, PING, PONG = 8, 9, 10


def tell(text):
    print(f"{time.monotonic() - BEGUN:7.2f} s  {text}", flush=True)


def run(*command, check=True, **more):
    done = subprocess.run(command, capture_output=True, text=True, **more)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done


def until(what, patience, look):
    """The first answer of `look` that is something."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if (found := look()) is not None and found is not False:
            return found
        time.sleep(0.02)
    raise RuntimeError(f"not in {patience} s: {what}")


def certificate(name):
    """A new self-signed certificate for the host."""
    folder = WORK / name
    folder.mkdir()
    run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-days", "7", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}",
        "-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt"),
    )  # fmt: skip
    return {file: (folder / file).read_text() for file in ("tls.crt", "tls.key")}


class Volume:
    """A ConfigMap or Secret as the kubelet mounts it: files are links through `..data`, which is swapped."""

    def __init__(self, folder, group, mode):
        self.folder, self.group, self.mode, self.turns = folder, group, mode, itertools.count()
        folder.mkdir(parents=True)

    def write(self, files):
        version = self.folder / f"..2026_{next(self.turns)}"
        version.mkdir(mode=0o755)
        for name, text in files.items():
            file = version / name
            file.write_text(text)
            os.chown(file, 0, self.group)
            file.chmod(self.mode)
        beside = self.folder / "..data_tmp"
        beside.symlink_to(version.name)
        old = self.folder / "..data"
        before = old.readlink() if old.is_symlink() else None
        beside.rename(old)
        for name in files:
            link = self.folder / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        if before:
            shutil.rmtree(self.folder / before)


class Pod:
    """One pod of the Deployment, in a network namespace of its own."""

    public = 8443

    def __init__(self, objects, number, secrets):
        self.name, self.ip = f"cobrowse-{os.getpid()}-{number}", f"10.213.{number}.2"
        self.template = objects["Deployment/cobrowse"]["spec"]["template"]["spec"]
        self.objects, self.secrets, self.volumes = objects, secrets, {}
        (self.sidecar,), (self.service,) = self.template["initContainers"], self.template["containers"]
        self.ending, self.took = False, {}
        self.network(number)
        self.mount()

    def network(self, number):
        outside = f"cbp{os.getpid() % 10000}x{number}"
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "addr", "add", f"10.213.{number}.1/24", "dev", outside)
        run("ip", "link", "set", outside, "up")
        for command in (["addr", "add", f"{self.ip}/24", "dev", "eth0"], ["link", "set", "eth0", "up"], ["link", "set", "lo", "up"]):
            run("ip", "-n", self.name, *command)

    def mount(self):
        group = self.template["securityContext"]["fsGroup"]
        for volume in self.template["volumes"]:
            folder = WORK / self.name / volume["name"]
            if "configMap" in volume:
                files = self.objects[f"ConfigMap/{volume['configMap']['name']}"]["data"]
                mounted = Volume(folder, group, 0o644)
                mounted.write(files)
            elif "secret" in volume:
                mounted = Volume(folder, group, volume["secret"].get("defaultMode", 0o644))
                mounted.write(self.secrets[volume["secret"]["secretName"]])
            else:
                folder.mkdir(parents=True)
                folder.chmod(0o777)
            self.volumes[volume["name"]] = folder if "emptyDir" in volume else mounted

    def value(self, variable):
        source = variable.get("valueFrom", {})
        if "configMapKeyRef" in source:
            wanted = source["configMapKeyRef"]
            return self.objects[f"ConfigMap/{wanted['name']}"]["data"][wanted["key"]]
        if "secretKeyRef" in source:
            return self.secrets[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]]
        return variable["value"]

    def container(self, spec):
        return f"{self.name}-{spec['name']}"

    def start_container(self, spec):
        """With all that the manifest says of it in force."""
        context, limits = spec["securityContext"], spec["resources"]["limits"]
        command = ["podman", "run", "--detach", "--name", self.container(spec), "--network", f"ns:/run/netns/{self.name}"]
        command += ["--pull", "never", "--no-healthcheck", "--hostname", self.name]
        command += ["--user", f"{context['runAsUser']}:{context['runAsGroup']}"]
        command += ["--group-add", str(self.template["securityContext"]["fsGroup"])]
        command += [f"--cap-drop={c}" for c in context["capabilities"]["drop"]]
        command += ["--read-only", "--read-only-tmpfs=false"] if context["readOnlyRootFilesystem"] else []
        command += [] if context["allowPrivilegeEscalation"] else ["--security-opt", "no-new-privileges"]
        command += ["--memory", limits["memory"].replace("Mi", "m").replace("Gi", "g"), "--cpus", limits["cpu"]]
        for mount in spec["volumeMounts"]:
            volume = self.volumes[mount["name"]]
            folder = volume.folder if isinstance(volume, Volume) else volume
            command += ["--volume", f"{folder}:{mount['mountPath']}{':ro' if mount.get('readOnly') else ''}"]
        for variable in spec.get("env", []):
            command += ["--env", f"{variable['name']}={self.value(variable)}"]
        run(*command, spec["image"], *spec.get("args", []))

    def port(self, spec, name):
        return next((p["containerPort"] for p in spec["ports"] if p["name"] == name), name)

    def passes(self, spec, probe):
        """One look of a probe, from outside the pod as the kubelet does it."""
        try:
            if "httpGet" in probe:
                port, path = self.port(spec, probe["httpGet"]["port"]), probe["httpGet"]["path"]
                with urllib.request.urlopen(f"http://{self.ip}:{port}{path}", timeout=probe.get("timeoutSeconds", 1)) as answer:
                    return 200 <= answer.status < 400
            port = self.port(spec, probe["tcpSocket"]["port"])
            socket.create_connection((self.ip, port), timeout=1).close()
        except OSError:
            return False
        return True

    def start(self):
        begun = time.monotonic()
        self.start_container(self.sidecar)
        patience = self.sidecar["startupProbe"]["failureThreshold"] * self.sidecar["startupProbe"]["periodSeconds"]
        until("the sidecar has started", patience, lambda: self.passes(self.sidecar, self.sidecar["startupProbe"]))
        self.took["started"] = time.monotonic() - begun
        if self.passes(self.sidecar, self.sidecar["readinessProbe"]):
            raise RuntimeError("ready without its service")
        self.start_container(self.service)
        until("ready", 30, self.ready)
        self.took["ready"] = time.monotonic() - begun
        tell(f"{self.name}: started after {self.took['started']:.2f} s, with its service ready after {self.took['ready']:.2f} s")

    def ready(self):
        return not self.ending and all(self.passes(s, s["readinessProbe"]) for s in (self.sidecar, self.service))

    def hook(self, spec):
        """A preStop hook, to its end."""
        hook = spec.get("lifecycle", {}).get("preStop", {})
        if "sleep" in hook:
            time.sleep(hook["sleep"]["seconds"])
        elif "exec" in hook:
            run("podman", "exec", self.container(spec), *hook["exec"]["command"])

    def kill_and_wait(self, spec, deadline):
        run("podman", "kill", "--signal", "TERM", self.container(spec), check=False)
        left = max(2, deadline - time.monotonic())
        done = subprocess.run(["podman", "wait", self.container(spec)], capture_output=True, text=True, timeout=left)
        return int(done.stdout.strip())

    def stop(self):
        """As the kubelet ends a pod: all hooks at once; the service; then the sidecar."""
        begun = time.monotonic()
        deadline = begun + self.template["terminationGracePeriodSeconds"]
        asked = threading.Thread(target=self.hook, args=(self.sidecar,))
        asked.start()
        # The Service hears of it a little later.
        time.sleep(1)
        self.ending = True
        self.hook(self.service)
        codes = {"service": self.kill_and_wait(self.service, deadline)}
        asked.join()
        codes["gateway"] = self.kill_and_wait(self.sidecar, deadline)
        log = self.log()
        drained = next((json.loads(line) for line in log if '"drained"' in line), None)
        tell(f"{self.name}: ended after {time.monotonic() - begun:.1f} s with {codes}; drained: {drained}")
        if codes["gateway"] != 0 or not drained or drained["cut"] != 0:
            raise RuntimeError(f"no clean end: {codes} {drained}")

    def log(self):
        return run("podman", "logs", self.container(self.sidecar)).stdout.splitlines()

    def remove(self):
        for spec in (self.sidecar, self.service):
            run("podman", "rm", "--force", "--time", "0", self.container(spec), check=False)
        run("ip", "netns", "delete", self.name, check=False)


class Clients:
    """Visitors and pages, all the time, to whichever pod is ready; every one that fails is written down."""

    def __init__(self, pods, authorities):
        self.pods, self.authorities = pods, authorities
        self.stopping, self.answers, self.failures, self.closes = threading.Event(), itertools.count(), [], []
        self.total, self.sockets, self.turn, self.watching = 0, 0, itertools.count(), []
        work = [self.pages] * 4 + [self.api] + [self.visitor] * 20
        self.threads = [threading.Thread(target=self.guarded, args=(w,)) for w in work]
        for thread in self.threads:
            thread.start()

    def guarded(self, work):
        while not self.stopping.is_set():
            try:
                work()
            except Exception as e:  # noqa: BLE001: whatever it is, a visitor saw it
                if self.stopping.is_set():
                    return
                self.failures.append(f"{time.monotonic() - BEGUN:.2f} s, {work.__name__}: {e!r}")
                time.sleep(0.1)

    def open(self):
        ready = until("a ready pod", 30, lambda: [p for p in self.pods() if not p.ending])
        pod = ready[next(self.turn) % len(ready)]
        context = ssl.create_default_context(cadata="".join(self.authorities))
        stream = socket.create_connection((pod.ip, pod.public), timeout=10)
        return context.wrap_socket(stream, server_hostname=HOST)

    def exchange(self, stream, reader, path, extra=""):
        """One request; whether the connection stays."""
        stream.sendall(f"GET {BASE}{path} HTTP/1.1\r\nHost: {HOST}\r\n{extra}\r\n".encode())
        status = reader.readline()
        fields = {}
        while (line := reader.readline().strip()) != b"":
            name, value = line.decode().split(":", 1)
            fields[name.lower()] = value.strip()
        body = reader.read(int(fields["content-length"]))
        if status.split()[1] != b"200" or not body:
            raise RuntimeError(f"{path}: {status!r} {body[:100]!r}")
        self.total = next(self.answers) + 1
        return fields.get("connection", "").lower() != "close"

    def requests(self, path, pause, extra=""):
        with self.open() as stream, stream.makefile("rb") as reader:
            while self.exchange(stream, reader, path, extra) and not self.stopping.is_set():
                time.sleep(pause)

    def pages(self):
        self.requests("/", 0.02)

    def api(self):
        self.requests("/api/visitors/list/search?q=online", 0.5, f"Authorization: {KEY}\r\n")

    def visitor(self):
        """A WebSocket that answers pings until it is closed, in this one thread: Python's TLS sockets do not bear two."""
        with self.open() as stream, stream.makefile("rb") as reader:
            fields = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            stream.sendall(f"GET {BASE}/visitor/socket HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n".encode())
            status = reader.readline()
            if status.split()[1] != b"101":
                raise RuntimeError(f"no WebSocket: {status!r}")
            while reader.readline().strip():
                pass
            self.sockets += 1
            self.watching.append(stream)
            stream.settimeout(60)
            while True:
                head, length = reader.read(2)
                if length == 126:
                    length = int.from_bytes(reader.read(2), "big")
                opcode, payload = head & 0xF, reader.read(length)
                if opcode == CLOSE:
                    self.closes.append(int.from_bytes(payload[:2], "big"))
                if opcode in (CLOSE, PING):
                    # Masked, as a client's frames are, with a mask of zeros.
                    answer = CLOSE if opcode == CLOSE else PONG
                    stream.sendall(bytes([0x80 | answer, 0x80 | length, 0, 0, 0, 0]) + payload)
                if opcode == CLOSE:
                    if reader.read(1):
                        raise RuntimeError("something followed the Close frame")
                    return

    def go_on(self, requests):
        goal = self.total + requests
        until("requests go on", 30, lambda: self.total >= goal)

    def stop(self):
        self.stopping.set()
        for stream in list(self.watching):
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(20)


def served(pod, authorities):
    """The certificate that a new client is shown."""
    context = ssl.create_default_context(cadata="".join(authorities))
    with socket.create_connection((pod.ip, pod.public), timeout=5) as stream, context.wrap_socket(stream, server_hostname=HOST) as tls:
        return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True)).strip()


def main(manifest):
    objects = json.loads(pathlib.Path(manifest).read_text())
    first, second = certificate("first"), certificate("second")
    authorities = [first["tls.crt"], second["tls.crt"]]
    secrets = {"cobrowse-tls": first, "cobrowse-rest-key": {"rest_key": KEY}}
    running = []
    with contextlib.ExitStack() as left:
        left.callback(shutil.rmtree, WORK, ignore_errors=True)

        def begin(number):
            pod = Pod(objects, number, secrets)
            left.callback(pod.remove)
            pod.start()
            running.append(pod)
            return pod

        pod = begin(1)
        shell = run("podman", "exec", pod.container(pod.sidecar), "/bin/sh", "-c", "id", check=False)
        if shell.returncode == 0:
            raise RuntimeError("there is a shell in the image")
        doctor = run("podman", "exec", pod.container(pod.sidecar), "/cobrowse-gateway", "doctor", check=False)
        tell("doctor, from inside:\n" + "\n".join(f"            {line}" for line in doctor.stdout.splitlines()))
        until("healthcheck", 5, lambda: run("podman", "exec", pod.container(pod.sidecar), "/cobrowse-gateway", "healthcheck", check=False).returncode == 0)
        clients = Clients(lambda: running, authorities)
        left.callback(clients.stop)
        clients.go_on(500)
        until("sockets", 20, lambda: clients.sockets >= 20 or clients.failures)
        if clients.failures:
            raise RuntimeError(clients.failures[0])
        tell(f"{clients.total} answers through TLS, {clients.sockets} WebSockets open")

        before = served(pod, authorities)
        secrets["cobrowse-tls"] = second
        swapped = time.monotonic()
        pod.volumes["tls"].write(second)
        until("the new certificate is served", 20, lambda: served(pod, authorities) == second["tls.crt"].strip())
        if before != first["tls.crt"].strip() or clients.closes:
            raise RuntimeError(f"the certificate before, or WebSockets that closed: {clients.closes}")
        tell(f"certificate rotated by the ..data swap: served after {time.monotonic() - swapped:.2f} s, no WebSocket closed")
        clients.go_on(200)

        # A rolling update: maxSurge 1, maxUnavailable 0.
        for number in (2, 3):
            old, new = running[0], begin(number)
            clients.go_on(100)
            old.stop()
            running.remove(old)
            if not all(pod.ready() for pod in (new,)):
                raise RuntimeError("the new pod is not ready any more")
            clients.go_on(200)
        clients.stop()
        tell(f"two pods rolled: {clients.total} answers, {clients.sockets} WebSockets opened, closed {clients.closes.count(1001)} with 1001 of {len(clients.closes)}, {len(clients.failures)} failures")
        if clients.failures:
            raise RuntimeError("\n".join(clients.failures[:20]))
        if clients.closes.count(1001) < 40:
            raise RuntimeError(f"WebSockets were not told: {clients.closes}")
    tell("all held")


if __name__ == "__main__":
    main(sys.argv[1])
