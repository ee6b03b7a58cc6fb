"""compose.yaml and the manifests of Kubernetes: judged by their schemas, by nats-server, by the broker's options."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pystrands.broker.config import BrokerConfig
from pystrands.broker.metrics import GAUGES
from pystrands.cli.main import LOG_FORMAT, LOG_LEVEL, SERVER_OPTIONS, WORKERS
from pystrands.cli.options import resolve
from pystrands.protocol.address import host_and_port
from tests.docs.blocks import ROOT
from tests.nats_server import program

DEPLOY = ROOT / "deploy"
COMPOSE_FILE = DEPLOY / "compose.yaml"
COMPOSE = yaml.safe_load(COMPOSE_FILE.read_text("utf-8"))
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
OBJECTS = [each for path in KUBERNETES for each in yaml.safe_load_all(path.read_text("utf-8"))]
PASSWORD = "p0123456789abcdef"
TOKEN = "t0123456789abcdef"


def valid(*command):
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def config_of(env):
    """What a broker makes of these variables of its environment."""
    values, _ = resolve(SERVER_OPTIONS, {}, env, {})
    known = {each.env for each in SERVER_OPTIONS}
    assert {name for name in env if name.startswith("PYSTRANDS_")} <= known
    for each in (LOG_LEVEL, LOG_FORMAT, WORKERS):
        values.pop(each.name, None)
    return BrokerConfig(**values)


def takes_this_configuration(tmp_path, text, **env):
    path = tmp_path / "nats.conf"
    path.write_text(text)
    done = subprocess.run(
        [program(), "-t", "-c", str(path)],
        capture_output=True,
        text=True,
        env=os.environ | env,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr


def permissions_are_those_of_the_cluster(text):
    assert re.search(r'permissions: \{ publish: "ps\.>", subscribe: "ps\.>" \}', text)


# ---- Compose


def interpolated(value):
    """As Compose does it; what has to be set is."""
    text = re.sub(r"\$\{NATS_PASSWORD:\?[^}]+\}", PASSWORD, str(value))
    text = re.sub(r"\$\{PYSTRANDS_TOKEN:\?[^}]+\}", TOKEN, text)
    assert "$" not in text
    return text


def environment(service):
    return {name: interpolated(value) for name, value in COMPOSE["services"][service].get("environment", {}).items()}


def test_compose_is_valid():
    valid("check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE_FILE))


@pytest.mark.parametrize("name", ["broker-1", "broker-2"])
def test_brokers_of_compose_have_options_that_work(name):
    config = config_of({"PYSTRANDS_TCP_HOST": "0.0.0.0", **environment(name)})
    assert config.nats_url == (f"nats://pystrands:{PASSWORD}@nats:4222",)
    assert config.backend_token == (TOKEN,) == (environment("backend")["PYSTRANDS_TOKEN"],)
    assert config.advertise == f"{name}:{config.tcp_port}"
    assert config.trusted_proxies == (COMPOSE["networks"]["default"]["ipam"]["config"][0]["subnet"],)
    service = COMPOSE["services"][name]
    assert service["networks"]["default"]["aliases"] == [environment("backend")["PYSTRANDS_HOST"]]
    (seconds,) = re.fullmatch(r"(\d+)s", service["stop_grace_period"]).groups()
    assert int(seconds) > config.drain_time + 2 * config.close_timeout


def test_files_that_compose_mounts_are_there():
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", ()):
            assert (DEPLOY / volume.split(":")[0]).is_file()
        if "build" in service:
            assert (DEPLOY / service["build"] / "Dockerfile").is_file()


def test_nginx_of_compose_is_in_front_of_its_brokers():
    text = (DEPLOY / "nginx-brokers.conf").read_text("utf-8")
    brokers = [name for name in COMPOSE["services"] if name.startswith("broker")]
    assert re.findall(r"server ([\w-]+):8080 ", text) == brokers == COMPOSE["services"]["nginx"]["depends_on"]
    (port,) = re.findall(r"listen (\d+);", text)
    assert COMPOSE["services"]["nginx"]["ports"][0].endswith(f":{port}")


def test_nats_of_compose_takes_its_configuration(tmp_path):
    text = interpolated(COMPOSE["configs"]["nats"]["content"])
    takes_this_configuration(tmp_path, text)
    permissions_are_those_of_the_cluster(text)
    (check,) = [each for each in COMPOSE["services"]["nats"]["healthcheck"]["test"] if each.startswith("http")]
    assert re.findall(r"http: (\S+)", text)[0] in check


# ---- Kubernetes


def the(kind, name):
    (found,) = [each for each in OBJECTS if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pod(kind, name):
    return the(kind, name)["spec"]["template"]["spec"]


def container(kind, name):
    (found,) = pod(kind, name)["containers"]
    return found


WORKLOADS = [("StatefulSet", "nats"), ("Deployment", "broker"), ("Deployment", "backend")]
SECRETS = {"nats-password": PASSWORD, "backend-token": TOKEN}
FIELDS = {"status.podIP": "10.1.2.3", "metadata.name": "nats-0"}


def env_of(kind, name):
    """The variables of a container, as Kubernetes makes them."""
    env: dict[str, str] = {}
    for each in container(kind, name)["env"]:
        source = each.get("valueFrom", {})
        if "secretKeyRef" in source:
            assert source["secretKeyRef"]["name"] == "pystrands"
            env[each["name"]] = SECRETS[source["secretKeyRef"]["key"]]
        elif "fieldRef" in source:
            env[each["name"]] = FIELDS[source["fieldRef"]["fieldPath"]]
        else:
            # Only what stands before it is known.
            env[each["name"]] = re.sub(r"\$\((\w+)\)", lambda found: env[found[1]], each["value"])
    return env


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_manifests_are_valid(version):
    told = valid("kubernetes_validate", "--strict", "-k", version, *map(str, KUBERNETES))
    assert told.count(" passed ") == len(OBJECTS) > len(WORKLOADS)


def test_brokers_in_kubernetes_have_options_that_work():
    env = env_of("Deployment", "broker")
    config = config_of({"PYSTRANDS_TCP_HOST": "0.0.0.0", **env})
    assert config.nats_url == tuple(f"nats://pystrands:{PASSWORD}@nats-{i}.nats:4222" for i in range(3))
    assert config.advertise == f"10.1.2.3:{config.tcp_port}"
    ports = {each["name"]: each["containerPort"] for each in container("Deployment", "broker")["ports"]}
    assert ports == {"clients": config.ws_port, "backends": config.tcp_port, "admin": config.admin_port}
    (_, seconds) = container("Deployment", "broker")["lifecycle"]["preStop"]["exec"]["command"]
    grace = pod("Deployment", "broker")["terminationGracePeriodSeconds"]
    assert grace > int(seconds) + config.drain_time + 2 * config.close_timeout
    assert config.backend_token == (env_of("Deployment", "backend")["PYSTRANDS_TOKEN"],)
    annotations = the("Deployment", "broker")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(config.admin_port)
    limit = container("Deployment", "broker")["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("Gi")) << 30 > config.memory_budget


def test_probes_ask_what_there_is():
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        asked = container("Deployment", "broker")[probe]["httpGet"]
        assert asked == {"path": path, "port": "admin"}
        assert container("StatefulSet", "nats")[probe]["httpGet"] == {"path": "/healthz", "port": "monitor"}


def test_selectors_find_what_they_are_for():
    labels = {name: the(kind, name)["spec"]["template"]["metadata"]["labels"] for kind, name in WORKLOADS}
    for each in OBJECTS:
        selector = each.get("spec", {}).get("selector")
        if selector is not None:
            assert selector.get("matchLabels", selector) in labels.values()
    for kind, name in WORKLOADS:
        assert the(kind, name)["spec"]["selector"]["matchLabels"] == labels[name]
        for spread in pod(kind, name).get("topologySpreadConstraints", ()):
            assert spread["labelSelector"]["matchLabels"] == labels[name]


def test_services_lead_to_ports_that_there_are():
    for service in (each for each in OBJECTS if each["kind"] == "Service"):
        (kind, name) = next(each for each in WORKLOADS if each[1] == service["spec"]["selector"]["app"])
        ports = {each["name"]: each["containerPort"] for each in container(kind, name)["ports"]}
        for port in service["spec"]["ports"]:
            assert port.get("targetPort", port["port"]) in (*ports, *ports.values())
    assert env_of("Deployment", "backend")["PYSTRANDS_HOST"] == the("Service", "brokers")["metadata"]["name"]
    assert the("StatefulSet", "nats")["spec"]["serviceName"] == the("Service", "nats")["metadata"]["name"]
    for name in ("brokers", "nats"):  # whoever is not ready can be found
        spec = the("Service", name)["spec"]
        assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)


def test_a_service_has_no_name_that_makes_an_option():
    for kind, name in WORKLOADS:
        assert pod(kind, name)["enableServiceLinks"] is False


def test_scaling_goes_by_a_metric_that_there_is():
    scaler = the("HorizontalPodAutoscaler", "broker")["spec"]
    (metric,) = scaler["metrics"]
    assert metric["pods"]["metric"]["name"].removeprefix("pystrands_") in GAUGES
    assert the(scaler["scaleTargetRef"]["kind"], scaler["scaleTargetRef"]["name"])
    assert "replicas" not in the("Deployment", "broker")["spec"]


def test_nobody_is_root_and_nothing_can_be_written():
    for kind, name in WORKLOADS:
        assert pod(kind, name)["securityContext"]["runAsNonRoot"] is True
        context = container(kind, name)["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False


def test_nats_in_kubernetes_takes_its_configuration(tmp_path):
    text = the("ConfigMap", "nats")["data"]["nats.conf"]
    env = env_of("StatefulSet", "nats")
    takes_this_configuration(tmp_path, text, **env)
    permissions_are_those_of_the_cluster(text)
    replicas = the("StatefulSet", "nats")["spec"]["replicas"]
    assert re.findall(r"\$(ROUTE_\d)", text) == [f"ROUTE_{i}" for i in range(replicas)]
    hosts = [host_and_port(env[f"ROUTE_{i}"].rpartition("@")[2]) for i in range(replicas)]
    assert hosts == [(f"nats-{i}.nats", 6222) for i in range(replicas)]
    ports = {each["name"]: each["containerPort"] for each in container("StatefulSet", "nats")["ports"]}
    assert f"port: {ports['routes']}" in text
    assert f"http: {ports['monitor']}" in text
    command = container("StatefulSet", "nats")["lifecycle"]["preStop"]["exec"]["command"]
    assert command[-1].removeprefix("ldm=") == json.loads(re.findall(r"pid_file: (\S+)", text)[0])
    folders = {each["mountPath"] for each in container("StatefulSet", "nats")["volumeMounts"]}
    assert str(Path(command[-1].removeprefix("ldm=")).parent) in folders
