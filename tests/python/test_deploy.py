"""What lies in deploy/, and the Dockerfile: valid for the tools that read it, and true of this barcast."""

import fnmatch
import platform
import re
import shutil
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml
from conftest import DEADLINE_SECONDS, ROOT, binary, eventually

DEPLOY = ROOT / "deploy"
COMPOSE = [ROOT / "docker-compose.yml", DEPLOY / "compose.yaml"]
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
SETTINGS = DEPLOY / "systemd/barcast.env"
# Where the units and the image have it.
INSTALLED = "/usr/local/bin/barcast"
# In tenths of what `systemd-analyze security` says. The units are at 14; it calls up to 50 good.
MOST_EXPOSURE = 20
ROUTES = {"/healthz", "/readyz", "/metrics"}


def program(name):
    return shutil.which(name) or pytest.skip(f"{name} is not installed")


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, **options)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def starts(arguments, env, tmp_path):
    """Runs barcast with these until it says that it works; only addresses are changed."""
    env = dict(env)
    assert set(env) <= known_variables(arguments[0]), "a variable that the command does not read"
    for name in env:
        if name.endswith("LISTEN"):
            env[name] = "127.0.0.1:0"
    # Nobody is there: what is to be seen is that the settings are good.
    env["REDIS_URL"] = "redis://127.0.0.1:1"
    for at, word in enumerate(arguments):
        if word.endswith("listen"):
            arguments[at + 1] = "127.0.0.1:0"
    log = tmp_path / "barcast.log"
    with log.open("w") as lines:
        child = subprocess.Popen([binary().resolve(), *arguments], cwd=tmp_path, env=env, stderr=lines, stdin=subprocess.DEVNULL)
    sign = {"serve": "gateway listens", "generate": "cannot connect", "ingest": "cannot connect", "record": "recording"}

    def runs():
        assert child.poll() is None, log.read_text()
        return sign[arguments[0]] in log.read_text()

    try:
        eventually("barcast starts", runs)
    finally:
        child.kill()
        child.wait()


def known_variables(command):
    return set(re.findall(r"\[env: (\w+)", run([binary(), command, "--help"], env={})))


def drain_grace(env):
    default = r"BARCAST_DRAIN_GRACE=\]\s+\[default: (\d+)\]"
    help = run([binary(), "serve", "--help"], env={})
    return int(env.get("BARCAST_DRAIN_GRACE") or re.search(default, help)[1])


# What the kernel is asked (src/gateway/sent.rs)


def test_the_gateways_unit_lets_it_ask_the_kernel():
    unit = (DEPLOY / "systemd/barcast-gateway@.service").read_text()
    [families] = re.findall(r"^RestrictAddressFamilies=(.*)$", unit, re.MULTILINE)
    assert {"AF_INET", "AF_INET6", "AF_NETLINK"} <= set(families.split())


# Without AF_NETLINK, as a unit's RestrictAddressFamilies= leaves it: a filter of the kernel on socket(2).
WITHOUT_NETLINK = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
code = [(0x20, 0, 0, 0), (0x15, 0, 3, 41), (0x20, 0, 0, 16), (0x15, 0, 1, 16), (0x06, 0, 0, 0x50061), (0x06, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("HBBI", *line) for line in code)
code = ctypes.create_string_buffer(code)
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("lines", ctypes.c_void_p)]
filter = Filter(6, ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(filter), 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter names system calls by their number")
@pytest.mark.parametrize("is_allowed", [True, False])
def test_the_gateway_says_whether_it_can_ask_the_kernel(is_allowed, tmp_path):
    command = [str(binary().resolve()), "dev", "--listen", "127.0.0.1:0"]
    if not is_allowed:
        command = [sys.executable, "-c", WITHOUT_NETLINK, *command]
    log = tmp_path / "barcast.log"
    with log.open("w") as lines:
        child = subprocess.Popen(command, cwd=tmp_path, stdout=lines, stderr=lines, stdin=subprocess.DEVNULL)
    try:
        eventually("it works", lambda: "streams synthetic bars" in log.read_text())
        if not is_allowed:
            eventually("it says so", lambda: "closed as silent (4408)" in log.read_text())
    finally:
        child.kill()
        child.wait()
    assert ("closed as silent (4408)" in log.read_text()) != is_allowed


# Compose


def services(path):
    return yaml.safe_load(path.read_text())["services"]


def ours(path):
    return {name: it for name, it in services(path).items() if it["image"] == "barcast"}


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_takes_the_file(path):
    run([program("docker-compose"), "--file", path, "config", "--quiet"])


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_the_services_of_compose_start(path, tmp_path):
    found = ours(path)
    assert {it["command"][0] for it in found.values()} == {"serve", "generate"}
    for service in found.values():
        assert (path.parent / service["build"] / "Dockerfile").is_file()
        starts(list(service["command"]), service["environment"], tmp_path)
        [probe] = [word for word in service["healthcheck"]["test"] if "GET " in word]
        assert set(re.findall(r"GET (/\w+)", probe)) <= ROUTES
        if service["command"] == ["serve"]:
            assert in_seconds(service["stop_grace_period"]) > drain_grace(service["environment"])


def in_seconds(text):
    return int(re.fullmatch(r"(\d+)s", text)[1])


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_what_compose_mounts_is_there(path):
    kept = yaml.safe_load(path.read_text()).get("volumes", {})
    for name, service in services(path).items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (path.parent / source).is_dir(), f"{name}: {source}"
            else:
                assert source in kept, f"{name}: {source}"


def test_the_services_of_compose_find_each_other():
    found = services(DEPLOY / "compose.yaml")
    proxy = found["haproxy"]["environment"]
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    targets = [target for job in scraped for it in job["static_configs"] for target in it["targets"]]
    source = (DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    addresses = [proxy["GATEWAY_1"], proxy["GATEWAY_2"], *targets, *re.findall(r"url: http://(\S+)", source)]
    addresses += [it["environment"]["REDIS_URL"].removeprefix("redis://") for it in ours(DEPLOY / "compose.yaml").values()]
    for address in addresses:
        host, port = address.split(":")
        assert listens(found[host], int(port)), address
    scraped_hosts = {target.split(":")[0] for target in targets}
    assert scraped_hosts == {"haproxy", *ours(DEPLOY / "compose.yaml")}, "all of ours are watched"
    read_by_haproxy = set(re.findall(r"\$\{(\w+)", (DEPLOY / "haproxy/haproxy.cfg").read_text()))
    assert set(proxy) <= read_by_haproxy


def listens(service, port):
    """Whether a service of compose.yaml listens at a port, as far as the file and the images say."""
    image = {"redis": 6379, "prom/prometheus": 9090}.get(service["image"].split(":")[0])
    own = [value for name, value in service.get("environment", {}).items() if name.endswith(("LISTEN", "BIND"))]
    own = [int(value.rsplit(":", 1)[1]) for value in own]
    if service.get("command") == ["serve"]:
        image = int(re.search(r"^ENV BARCAST_LISTEN=.*:(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[1])
    return port in [image, *own]


# Prometheus and Grafana


def test_prometheus_takes_its_configuration():
    run([program("promtool"), "check", "config", DEPLOY / "prometheus/prometheus.yml"])


def test_grafana_is_given_a_source_and_the_folder_of_the_dashboards():
    provisioning = DEPLOY / "grafana/provisioning"
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["uid"], source["isDefault"]) == ("prometheus", "prometheus", True)
    [provider] = yaml.safe_load((provisioning / "dashboards/barcast.yaml").read_text())["providers"]
    mounts = [volume.split(":")[:2] for volume in services(DEPLOY / "compose.yaml")["grafana"]["volumes"]]
    assert ["./grafana", provider["options"]["path"]] in mounts


# systemd


def settings_of(unit):
    """What barcast is started with: its words, and the variables of the unit and of barcast.env that it reads."""
    text = unit.read_text().replace("%i", "8000")
    [command] = re.findall(rf"^ExecStart={INSTALLED} (.+)$", text, re.MULTILINE)
    lines = re.findall(r"^(?:Environment=)?([A-Z_]+=.+)$", text + SETTINGS.read_text(), re.MULTILINE)
    arguments = command.split()
    env = dict(line.split("=", 1) for line in lines if re.match("BAR|REDIS_URL", line))
    return arguments, {name: value for name, value in env.items() if name in known_variables(arguments[0])}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_the_unit(unit, tmp_path):
    analyze = program("systemd-analyze")
    # It looks for the program, too.
    copy = tmp_path / unit.name.replace("@.", "@8000.")
    copy.write_text(unit.read_text().replace(INSTALLED, str(binary().resolve())))
    said = run([analyze, "verify", "--man=no", copy])
    assert unit.name.split("@")[0].split(".")[0] not in said, said
    run([analyze, "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", copy])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_unit_starts_barcast(unit, tmp_path):
    arguments, env = settings_of(unit)
    assert "REDIS_URL" in env
    starts(arguments, env, tmp_path)
    text = unit.read_text()
    assert "EnvironmentFile=-/etc/barcast/barcast.env\n" in text
    if arguments[0] == "serve":
        assert int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[1]) > drain_grace(env)


def test_every_setting_of_the_units_is_read_by_one():
    names = set(re.findall(r"^([A-Z_]+)=", SETTINGS.read_text(), re.MULTILINE))
    read = set().union(*(settings_of(unit)[1] for unit in UNITS))
    assert names and names <= read, names - read


# Kubernetes


def objects():
    return [it for path in MANIFESTS for it in yaml.safe_load_all(path.read_text())]


def workloads():
    return [it for it in objects() if it["kind"] in ("Deployment", "StatefulSet")]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
@pytest.mark.filterwarnings("ignore")
def test_kubernetes_takes_the_manifest(path):
    for version in ("1.30", kubernetes_validate.latest_version()):
        for it in yaml.safe_load_all(path.read_text()):
            kubernetes_validate.validate(it, version, strict=True)


def test_the_containers_of_kubernetes_start(tmp_path):
    config = {it["metadata"]["name"]: it.get("data", {}) for it in objects() if it["kind"] == "ConfigMap"}
    secret = {it["metadata"]["name"]: it["stringData"] for it in objects() if it["kind"] == "Secret"}
    started = []
    for workload in workloads():
        for container in workload["spec"]["template"]["spec"]["containers"]:
            if not container["image"].startswith("barcast"):
                continue
            env = {}
            for source in container.get("envFrom", []):
                env |= config[source["configMapRef"]["name"]]
            for variable in container.get("env", []):
                key = variable.get("valueFrom", {}).get("secretKeyRef")
                env[variable["name"]] = secret[key["name"]][key["key"]] if key else variable["value"]
            assert all(isinstance(value, str) for value in env.values())
            starts(list(container["args"]), env, tmp_path)
            started.append(container["name"])
            [port] = [value.split(":")[1] for name, value in env.items() if name.endswith("LISTEN")]
            assert [it["containerPort"] for it in container["ports"]] == [int(port)]
            for probe in ("readinessProbe", "livenessProbe"):
                if probe in container:
                    assert container[probe]["httpGet"]["path"] in ROUTES
            if container["args"] == ["serve"]:
                pod = workload["spec"]["template"]["spec"]
                [_, sleep] = container["lifecycle"]["preStop"]["exec"]["command"]
                assert pod["terminationGracePeriodSeconds"] > int(sleep) + drain_grace(env)
                assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
                assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert started == ["gateway", "generator"]


def test_containers_of_kubernetes_can_do_little():
    user = re.search(r"--uid (\d+)", (ROOT / "Dockerfile").read_text())[1]
    for workload in workloads():
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            if container["image"].startswith("barcast"):
                assert pod["securityContext"]["runAsUser"] == int(user), "the user of the Dockerfile"


def test_objects_of_kubernetes_find_each_other():
    labels = [it["spec"]["template"]["metadata"]["labels"] for it in workloads()]
    names = {(it["kind"], it["metadata"]["name"]) for it in objects()}
    for it in objects():
        spec = it.get("spec", {})
        if it["kind"] in ("Service", "PodDisruptionBudget", "Deployment", "StatefulSet"):
            selector = spec["selector"].get("matchLabels", spec["selector"])
            assert labels.count(selector) == 1, it["metadata"]["name"]
        if it["kind"] == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            assert (target["kind"], target["name"]) in names
        for rule in spec.get("rules", []):
            for path in rule["http"]["paths"]:
                assert ("Service", path["backend"]["service"]["name"]) in names


# The image


def sent_to_docker(path):
    """Whether .dockerignore lets a path through: the last line that matches it or a folder above decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if not pattern or line.startswith("#"):
            continue
        if any(fnmatch.fnmatch(str(it), pattern) for it in [path, *path.parents][:-1]):
            sent = line.startswith("!")
    return sent


def test_docker_can_build_the_binary(tmp_path):
    files = run(["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"]).splitlines()
    for name in files:
        path = (ROOT / name).relative_to(ROOT)
        if sent_to_docker(path) and (ROOT / path).is_file():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, tmp_path / path)
    # Cargo looks for every file that a manifest names before it finds that there is nothing to build.
    command = ["cargo", "build", "--locked", "--offline", "--bin", "nothing"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_SECONDS).stderr
    assert "no bin target named `nothing`" in said, said
    for source in [*(tmp_path / "src").rglob("*.rs"), *(tmp_path / "loadtest").rglob("*.rs")]:
        for name in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', source.read_text()):
            assert (source.parent / name).is_file(), f"{source.relative_to(tmp_path)} includes {name}"
        for name in re.findall(r'#\[folder = "([^"]+)"', source.read_text()):
            assert (tmp_path / name).is_dir(), f"{source.relative_to(tmp_path)} embeds {name}"


def test_the_dockerfile_copies_what_is_built():
    text = (ROOT / "Dockerfile").read_text()
    [built] = re.findall(r"^RUN cargo build --release --locked --bin (\w+)$", text, re.MULTILINE)
    assert f"COPY --from=build /build/target/release/{built} {INSTALLED}\n" in text
    assert re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) == [". ."]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            assert (ROOT / line[1:]).exists(), line
