"""What Kustomize and Helm make, looked at: run by deploy/validate, in its virtual environment.

    manifests.py RENDERED

Writes every rendering to the folder RENDERED and fails with a sentence for what does not hold.
"""

import json
import pathlib
import re
import subprocess
import sys
import tomllib

import helm_python as helm
import yaml

DEPLOY = pathlib.Path(__file__).resolve().parent.parent
CHART = str(DEPLOY / "helm/cobrowse-gateway")
# Each overlay, the values that are to give the same objects, and the Kubernetes it is for.
OVERLAYS = {
    "base": ({}, ["1.30", "1.31", "1.33", "1.35", "1.37"]),
    "overlays/complete": ({"monitoring": True, "autoscaling": {"enabled": True}}, ["1.30", "1.33", "1.37"]),
    "overlays/older-clusters": ({"olderClusters": True}, ["1.25", "1.27", "1.29"]),
    "overlays/built-in": ({"replicas": 1, "service": {"builtIn": True}}, ["1.30", "1.37"]),
}
faults = []


def expect(holds, sentence):
    if not holds:
        faults.append(sentence)


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def by_name(objects):
    return {f"{o['kind']}/{o['metadata']['name']}": o for o in objects}


def kustomized(overlay):
    command = ["kubectl", "kustomize", str(DEPLOY / "kubernetes" / overlay)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def templated(chart, values):
    files = chart.render(values, name="cobrowse", namespace="cobrowse")
    return "\n---\n".join(text for name, text in files.items() if name.endswith(".yaml"))


def differences(left, right, path=""):
    """Where two objects differ, as lines."""
    if isinstance(left, dict) and isinstance(right, dict):
        keys = sorted(left.keys() | right.keys())
        return [line for key in keys for line in differences(left.get(key), right.get(key), f"{path}.{key}")]
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        return [line for i, pair in enumerate(zip(left, right)) for line in differences(*pair, f"{path}[{i}]")]
    return [] if left == right else [f"{path}: {left!r} in Kustomize, {right!r} in Helm"]


def restricted(pod, container, where):
    """Pod Security "restricted", and what we ask for beyond it."""
    context = container.get("securityContext", {})
    expect(context.get("allowPrivilegeEscalation") is False, f"{where}: may gain privileges")
    expect(context.get("capabilities") == {"drop": ["ALL"]}, f"{where}: keeps capabilities")
    expect(context.get("runAsNonRoot") and context.get("runAsUser", 0) > 0, f"{where}: may be root")
    expect(context.get("readOnlyRootFilesystem"), f"{where}: writes to its root")
    expect(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", f"{where}: no seccomp")
    expect(container["resources"].keys() == {"requests", "limits"}, f"{where}: no resources")


def deployment_holds(objects, where):
    deployment, settings = objects["Deployment/cobrowse"], objects["ConfigMap/cobrowse-gateway"]
    pod = deployment["spec"]["template"]["spec"]
    containers = {c["name"]: c for c in pod.get("initContainers", []) + pod["containers"]}
    expect(containers.keys() == {"gateway", "service"}, f"{where}: other containers than the two")
    for name, container in containers.items():
        restricted(pod, container, f"{where}, {name}")
        for mount in container["volumeMounts"]:
            expect("subPath" not in mount, f"{where}, {name}: a subPath mount never changes")
    allowed = {"configMap", "secret", "emptyDir", "name"}
    expect(all(v.keys() <= allowed for v in pod["volumes"]), f"{where}: volumes beyond the restricted ones")
    # Grace period, hook and drain budget agree.
    drain = tomllib.loads(settings["data"]["gateway.toml"])["drain"]
    drained = sum(int(re.fullmatch(r"(\d+)s", drain[key])[1]) for key in ("delay", "budget"))
    hook = containers["service"]["lifecycle"]["preStop"]
    stays = hook["sleep"]["seconds"] if "sleep" in hook else int(hook["exec"]["command"][1])
    grace = pod["terminationGracePeriodSeconds"]
    expect(stays >= drained + 2, f"{where}: the service stops before the gateway has drained")
    expect(grace >= stays + 10, f"{where}: the grace period ends before the service has stopped")
    told = {e["name"]: e.get("value") for e in containers["gateway"]["env"]}["TERMINATION_GRACE_PERIOD"]
    expect(told == f"{grace}s", f"{where}: doctor is told another grace period: {told}")
    # Whoever selects, selects these pods, and ports are named as they are.
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    ports = {p["name"]: p["containerPort"] for p in containers["gateway"]["ports"]}
    expect(ports == {"https": 8443, "admin": 9180}, f"{where}: the gateway's ports are {ports}")
    budget, policy = objects["PodDisruptionBudget/cobrowse"], objects["NetworkPolicy/cobrowse"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        objects["Service/cobrowse"]["spec"]["selector"],
        budget["spec"]["selector"]["matchLabels"],
        policy["spec"]["podSelector"]["matchLabels"],
    ]
    if "PodMonitor/cobrowse" in objects:
        monitor = objects["PodMonitor/cobrowse"]["spec"]
        selectors.append(monitor["selector"]["matchLabels"])
        expect([e["port"] for e in monitor["podMetricsEndpoints"]] == ["admin"], f"{where}: scrapes elsewhere")
    expect(all(selector == labels for selector in selectors), f"{where}: a selector misses the pods")
    opened = [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]]
    expect(opened == ["https", "admin"], f"{where}: the network policy opens {opened}")


def sidecar_holds(objects, where):
    pod = objects["Deployment/cobrowse"]["spec"]["template"]["spec"]
    (gateway,) = pod["initContainers"]
    expect(gateway["restartPolicy"] == "Always", f"{where}: the gateway is no sidecar")
    started = gateway["startupProbe"]["httpGet"]["path"]
    expect(started == "/startupz", f"{where}: {started} waits for a service that waits for it")


def only(found, keys, where):
    """The operator's own schemas are not at hand: what we write there is all that may be there."""
    expect(found.keys() == set(keys), f"{where}: {sorted(found)} instead of {sorted(keys)}")


def monitoring_holds(objects, where):
    monitor, rules = objects["PodMonitor/cobrowse"], objects["PrometheusRule/cobrowse"]
    for name, found in (("PodMonitor", monitor), ("PrometheusRule", rules)):
        only(found, ("apiVersion", "kind", "metadata", "spec"), f"{where}, {name}")
        expect(found["apiVersion"] == "monitoring.coreos.com/v1", f"{where}, {name}: {found['apiVersion']}")
    only(monitor["spec"], ("selector", "podMetricsEndpoints"), f"{where}, PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    only(endpoint, ("port", "path", "interval"), f"{where}, PodMonitor, endpoint")
    only(rules["spec"], ("groups",), f"{where}, PrometheusRule")
    for group in rules["spec"]["groups"]:
        only(group, ("name", "rules"), f"{where}, {group['name']}")
        for rule in group["rules"]:
            name = rule.get("alert") or rule["record"]
            known = {"alert", "record", "expr", "for", "labels", "annotations"}
            expect(rule.keys() <= known, f"{where}, {name}: {sorted(rule)}")
    dashboard = objects["ConfigMap/cobrowse-dashboard"]
    expect(dashboard["metadata"]["labels"].get("grafana_dashboard") == "1", f"{where}: Grafana's sidecar passes the dashboard by")
    source = json.loads((DEPLOY / "grafana/cobrowse-gateway.json").read_text())
    expect(json.loads(dashboard["data"]["cobrowse-gateway.json"]) == source, f"{where}: another dashboard than Grafana's")
    # `kubectl apply` keeps a copy in an annotation, and all of those have 262,144 bytes.
    expect(len(json.dumps(dashboard)) < 200_000, f"{where}: the dashboard is too long for kubectl apply")


def autoscaling_holds(objects, where):
    """It scales these pods, by a metric that there is, as the rule of docs/kubernetes.md names it."""
    spec = objects["HorizontalPodAutoscaler/cobrowse"]["spec"]
    deployment = objects["Deployment/cobrowse"]
    target = {"apiVersion": deployment["apiVersion"], "kind": "Deployment", "name": deployment["metadata"]["name"]}
    expect(spec["scaleTargetRef"] == target, f"{where}: it scales {spec['scaleTargetRef']}")
    expect("replicas" not in deployment["spec"], f"{where}: two set the number of replicas")
    (metric,) = [m["pods"]["metric"] for m in spec["metrics"]]
    golden = (DEPLOY.parent / "tests/it/golden/metrics.txt").read_text().splitlines()
    expect(f"{metric['name']} type gauge" in golden, f"{where}: no gauge {metric['name']}")
    expect("selector" not in metric, f"{where}: the adapter's rule keeps no label to select by")
    docs = (DEPLOY.parent / "docs/kubernetes.md").read_text()
    rule = next(yaml.safe_load(part.split("```")[0]) for part in docs.split("```yaml\n")[1:] if part.startswith("rules:"))["rules"][0]
    expect(rule["name"]["as"] == metric["name"] and rule["seriesQuery"].startswith(metric["name"] + "{"), f"{where}: docs/kubernetes.md has a rule for another metric")


def alerts_hold(objects, where):
    source = yaml.safe_load((DEPLOY / "prometheus/cobrowse-gateway.rules.yaml").read_text())
    expect(objects["PrometheusRule/cobrowse"]["spec"] == source, f"{where}: other alerts than Prometheus'")


def refused(chart, values, what):
    try:
        chart.validate_schema(values)
        chart.render(values, name="cobrowse", namespace="cobrowse")
    except helm.HelmError:
        return
    faults.append(f"Helm: {what} is not refused")


def main(rendered):
    rendered.mkdir(parents=True, exist_ok=True)
    for version in ("v1.25.0", "v1.30.0", "v1.37.0"):
        findings = helm.lint(CHART, kube_version=version)
        print(f"helm lint, Kubernetes {version}:", json.dumps(findings))
        grave = [m for m in findings["messages"] if m["severity"] >= 2]
        expect(not findings["errors"] and not grave, f"helm lint, {version}: {findings}")
    with helm.Chart.load(CHART) as chart:
        for overlay, (values, versions) in OVERLAYS.items():
            name = overlay.rsplit("/", 1)[-1]
            for maker, text in [("kustomize", kustomized(overlay)), ("helm", templated(chart, values))]:
                file = rendered / f"{maker}-{name}.yaml"
                file.write_text(text)
                objects = by_name(documents(text))
                (rendered / f"{maker}-{name}.json").write_text(json.dumps(objects, indent=1))
                where = f"{maker} {name}"
                deployment_holds(objects, where)
                if name != "older-clusters":
                    sidecar_holds(objects, where)
                if name == "complete":
                    alerts_hold(objects, where)
                    monitoring_holds(objects, where)
                    autoscaling_holds(objects, where)
                for version in versions:
                    validate = ["kubernetes-validate", "--strict", "--no-warn", "--quiet", "-k", version, str(file)]
                    done = subprocess.run(validate, capture_output=True, text=True)
                    expect(done.returncode == 0, f"{where}, Kubernetes {version}: {done.stdout}{done.stderr}")
            left, right = (by_name(documents((rendered / f"{m}-{name}.yaml").read_text())) for m in ("kustomize", "helm"))
            # Helm makes a namespace where it is asked to on its command line.
            del left["Namespace/cobrowse"]
            for line in differences(left, right):
                faults.append(f"{name}{line}")
            print(f"{name}: {len(left)} objects, the same from Kustomize and Helm; Kubernetes {', '.join(versions)}")
        # Other drain times carry the hook and the grace period with them.
        slow = {"gateway": {"drainDelaySeconds": 20, "drainBudgetSeconds": 280, "config": "[log]\nlevel = \"warn\"\n"}}
        deployment_holds(by_name(documents(templated(chart, slow))), "helm with a long drain")
        refused(chart, {"replicsa": 3}, "an unknown value")
        refused(chart, {"baseEndpoint": "support.acmetech.com"}, "a base endpoint that is no URL")
        refused(chart, {"gateway": {"drainBudgetSeconds": "25s"}}, "a time that is no number")
    for fault in faults:
        print(f"FAULT {fault}", file=sys.stderr)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
