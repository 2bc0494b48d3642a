"""The programs accept the flags, variables, ports, paths and probes of the chart."""

import copy
import re
import unittest

from chart import (
    ROOT,
    VALUES,
    component,
    of_kind,
    pods,
    rendered,
    skip_without_helm,
    values_file,
)
from programs import help_of

setUpModule = skip_without_helm

# The ports and paths that the programs serve; test_job.py, which runs a job, tests that they do.
PROBES = {"/healthz", "/readyz"}
METRICS = "/metrics"
# Variables that do not set flags.
OTHERS = re.compile(r"OTEL_\w+|RUST_LOG|\w+_PROXY")
COMMANDS = ("status", "retry", "drain", "resume")


def grpc_services() -> set[str]:
    proto = (ROOT / "proto" / "coordinator.proto").read_text()
    package = re.search(r"^package ([\w.]+);", proto, re.MULTILINE)[1]
    return {f"{package}.{name}" for name in re.findall(r"^service (\w+)", proto, re.MULTILINE)}


def mounted(pod: dict, container: dict) -> dict[str, set[str] | None]:
    """The files below each mount, or `None` if any are allowed; writable mounts end with `/`."""
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or []}
    found = {}
    for mount in container.get("volumeMounts") or []:
        volume = volumes.get(mount["name"], {"persistentVolumeClaim": {}})
        path = mount["mountPath"]
        sources = [source["secret"] for source in volume.get("projected", {}).get("sources", [])]
        sources += [volume[kind] for kind in ("secret", "configMap") if kind in volume]
        items = [item["path"] for source in sources for item in source.get("items", [])]
        if mount.get("readOnly"):
            found[path] = set(items) or None
        else:
            found[path + "/"] = None
    return found


def path_problem(path: str, written: bool, mounts: dict[str, set[str] | None]) -> str | None:
    for mount, files in mounts.items():
        if path == mount.rstrip("/") or path.startswith(mount.rstrip("/") + "/"):
            rest = path[len(mount.rstrip("/")) + 1 :]
            if written and not mount.endswith("/"):
                return f"{path} is read-only"
            return None if files is None or rest in files else f"{path} is not in the volume"
    return f"{path} is in no volume"


def problems(pod: dict) -> list[str]:
    """Parts of a pod that its program would reject or not find."""
    [container] = pod["spec"]["containers"]
    name = component(pod)
    program = "worker" if name == "worker" else "coordinator"
    words = list(container["args"])
    command = [words.pop(0)] if name == "test" else []
    known = help_of(program, *command)
    variables = (
        set(known.variables).union(*(help_of("coordinator", name).variables for name in COMMANDS))
        if name == "coordinator"
        else known.variables
    )
    mounts = mounted(pod, container)
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    found, given = [], {}
    if container["command"] != [f"/usr/local/bin/{program}"]:
        found.append(f"{container['command']} is not where the image has it")
    for word in words:
        flag, equals, value = word.removeprefix("--").partition("=")
        given[flag] = value
        if not word.startswith("--") or flag not in known.flags:
            found.append(f"{word} is unknown")
        elif known.flags[flag] != bool(equals):
            found.append(f"{word} has a value too many or too few")
        elif value.startswith("/") and (problem := path_problem(value, flag == "target", mounts)):
            found.append(f"{word}: {problem}")
    if name == "worker" and given["target"].rstrip("/") + "/" in mounts:
        found.append("beside the target, which is a mount, no class can be put together")
    for variable in container.get("env", []):
        value = variable.get("value", "")
        if variable["name"] not in variables and not OTHERS.fullmatch(variable["name"]):
            found.append(f"{variable['name']} is read by no program")
        elif value.startswith("/") and (problem := path_problem(value, False, mounts)):
            found.append(f"{variable['name']}: {problem}")
    listens = {"grpc": given.get("listen"), "http": given.get("http")}
    opened = {port: int(address.rpartition(":")[2]) for port, address in listens.items() if address}
    if opened != ports:
        found.append(f"it listens on {opened}, and {ports} are its ports")
    for handler in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(handler, {})
        if "httpGet" in probe and not (
            probe["httpGet"]["path"] in PROBES and probe["httpGet"]["port"] == "http"
        ):
            found.append(f"{handler} asks {probe['httpGet']}")
        if "grpc" in probe and not (
            probe["grpc"]["port"] == ports["grpc"] and probe["grpc"]["service"] in grpc_services()
        ):
            found.append(f"{handler} asks {probe['grpc']}")
        if "grpc" in probe and "tls-cert" in given:
            found.append(f"{handler} speaks no TLS")
    if name != "test" and container["livenessProbe"]["httpGet"]["path"] != "/healthz":
        found.append("what is not ready would be killed")
    return found


def outside_problems(objects: list[dict]) -> list[str]:
    """References in Services, policies and monitors to nonexistent ports."""
    found = []
    ports = {
        component(pod): {port["name"] for port in pod["spec"]["containers"][0].get("ports", [])}
        for _, pod in pods(objects)
    }
    opened = {
        port["containerPort"]
        for _, pod in pods(objects)
        for port in pod["spec"]["containers"][0].get("ports", [])
    }
    for service in of_kind(objects, "Service"):
        numbers = {"grpc": 50051, "http": 8080}
        for port in service["spec"]["ports"]:
            if (
                port["targetPort"] not in ports["coordinator"]
                or numbers.get(port["name"]) != port["port"]
            ):
                found.append(f"{service['metadata']['name']}: {port}")
    for monitor in of_kind(objects, "ServiceMonitor", "PodMonitor"):
        endpoints = monitor["spec"].get("endpoints", []) + monitor["spec"].get(
            "podMetricsEndpoints", []
        )
        found += [
            f"{monitor['kind']}: {endpoint}"
            for endpoint in endpoints
            if (endpoint["path"], endpoint["port"]) != (METRICS, "http")
        ]
    for policy in of_kind(objects, "NetworkPolicy"):
        spec = policy["spec"]
        inside = [
            rule
            for rule in spec["egress"]
            if any("podSelector" in peer for peer in rule.get("to", []))
        ]
        for rule in [*spec["ingress"], *inside]:
            found += [
                f"{policy['metadata']['name']}: {port}"
                for port in rule["ports"]
                if port["port"] not in opened
            ]
    for _, pod in pods(objects):
        for word in pod["spec"]["containers"][0]["args"]:
            if match := re.match(
                r"--connect=https?://(?P<host>[^.]+)\.(?P<namespace>[^.]+)\.svc:(?P<port>\d+)$",
                word,
            ):
                services = {
                    service["metadata"]["name"]: service for service in of_kind(objects, "Service")
                }
                reached = services.get(match["host"], {"spec": {"ports": []}})["spec"]["ports"]
                if int(match["port"]) not in {port["port"] for port in reached}:
                    found.append(f"{word} leads to no Service")
            elif word.startswith("--connect"):
                found.append(f"{word} is no name of a Service")
    return found


def mutate(pod: dict, change) -> dict:
    changed = copy.deepcopy(pod)
    change(changed["spec"]["containers"][0], changed["spec"])
    return changed


def replace(old: str, new: str):
    def change(container: dict, _: dict) -> None:
        assert any(old in word for word in container["args"]), old
        container["args"] = [word.replace(old, new) for word in container["args"]]

    return change


def put(*path, value):
    def change(container: dict, _: dict) -> None:
        at = container
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


def without_volume(container: dict, _: dict) -> None:
    container["volumeMounts"] = [
        mount for mount in container["volumeMounts"] if mount["name"] != "trust"
    ]


def without_file(_: dict, spec: dict) -> None:
    [trust] = [volume for volume in spec["volumes"] if volume["name"] == "trust"]
    trust["projected"]["sources"].pop()


# A change of the coordinator's pod, and a word that the message must contain.
MISTAKES = [
    (replace("--stay", "--remain"), "--remain is unknown"),
    (replace("--stay", "--stay=true"), "a value too many"),
    (replace("--fname=", "--fname"), "--fname/etc"),
    (replace("--delete-tar", "-delete-tar"), "is unknown"),
    (replace("trust/server.pem", "trust/tls.crt"), "is not in the volume"),
    (replace("--target=/state", "--target=/data"), "/data is in no volume"),
    (replace("--target=/state", "--target=/etc/imagenet/classes"), "read-only"),
    (replace(":50051", ":50052"), "listens on"),
    (replace("--http=0.0.0.0:8080", "--http=0.0.0.0:80"), "listens on"),
    (put("ports", 1, "containerPort", value=9090), "listens on"),
    (put("livenessProbe", "httpGet", "path", value="/health"), "livenessProbe asks"),
    (put("livenessProbe", "httpGet", "path", value="/readyz"), "would be killed"),
    (put("readinessProbe", "httpGet", "port", value="grpc"), "readinessProbe asks"),
    (
        put(
            "readinessProbe", value={"grpc": {"port": 50051, "service": "imagenet.v1.Coordinator"}}
        ),
        "speaks no TLS",
    ),
    (put("env", 0, "name", value="IMAGENET_COORDINATOR"), "is read by no program"),
    (put("env", 1, "value", value="/etc/imagenet/ca.pem"), "is in no volume"),
    (put("command", value=["/bin/coordinator"]), "not where the image has it"),
    (without_volume, "is in no volume"),
    (without_file, "is not in the volume"),
]


class Programs(unittest.TestCase):
    def test_help_is_read(self):
        self.assertTrue(help_of("coordinator").flags["fname"])
        self.assertFalse(help_of("coordinator").flags["stay"])
        self.assertIn("IMAGENET_STAY", help_of("coordinator").variables)
        self.assertTrue(help_of("worker").flags["connect"])
        self.assertNotIn("fname", help_of("worker").flags)
        self.assertIn("IMAGENET_WATCH", help_of("coordinator", "status").variables)
        self.assertIn("imagenet.v1.Coordinator", grpc_services())

    def test_every_pod_has_arguments_that_its_program_accepts(self):
        for path in VALUES:
            for name, pod in pods(rendered(path)):
                with self.subTest(values=path.name, pod=name):
                    self.assertEqual(problems(pod), [])

    def test_a_worker_whose_target_is_a_mount_would_be_noticed(self):
        for _, pod in pods(rendered(values_file("defaults"))):
            if component(pod) == "worker":
                [container] = pod["spec"]["containers"]
                container["args"] = [
                    word if "--target" not in word else "--target=/data"
                    for word in container["args"]
                ]
                self.assertEqual(
                    problems(pod),
                    ["beside the target, which is a mount, no class can be put together"],
                )

    def test_the_image_is_as_the_chart_expects(self):
        [pod, *_] = [pod for _, pod in pods(rendered(values_file("defaults")))]
        security = pod["spec"]["securityContext"]
        dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
        self.assertIn(f"\nUSER {security['runAsUser']}:{security['runAsGroup']}\n", dockerfile)
        self.assertIn("/files/usr/local/bin", (ROOT / "deploy" / "static-build").read_text())

    def test_everything_outside_leads_to_a_port(self):
        for path in VALUES:
            with self.subTest(values=path.name):
                self.assertEqual(outside_problems(rendered(path)), [])

    def test_every_value_of_the_job_becomes_its_flag(self):
        [pod] = [
            pod
            for _, pod in pods(rendered(values_file("everything")))
            if component(pod) == "coordinator"
        ]
        words = set(pod["spec"]["containers"][0]["args"])
        self.assertGreaterEqual(
            words,
            {
                "--url=https://origin.example.org/{wnid}.tar",
                "--delete-tar",
                "--existing=replace",
                "--durability=process",
                "--retries=0",
                "--timeout=2m",
                "--max-connections=1000000",
                "--max-rate=100MiB/s",
                "--lease-ttl=45s",
                "--retry-failed",
            },
        )

    def test_values_that_are_not_set_are_no_flags(self):
        [pod] = [
            pod
            for _, pod in pods(rendered(values_file("defaults")))
            if component(pod) == "coordinator"
        ]
        flags = {
            word.removeprefix("--").partition("=")[0]
            for word in pod["spec"]["containers"][0]["args"]
        }
        self.assertEqual(
            flags,
            {
                "fname",
                "target",
                "listen",
                "http",
                "stay",
                "tls-cert",
                "tls-key",
                "token-file",
                "delete-tar",
            },
        )

    def test_a_mistake_in_a_pod_is_found(self):
        [pod] = [
            pod
            for _, pod in pods(rendered(values_file("defaults")))
            if component(pod) == "coordinator"
        ]
        for number, (change, words) in enumerate(MISTAKES):
            with self.subTest(number=number, words=words):
                self.assertIn(words, "\n".join(problems(mutate(pod, change))))

    def test_a_mistake_outside_is_found(self):
        def service(objects, name):
            [found] = [
                found for found in of_kind(objects, "Service") if found["metadata"]["name"] == name
            ]
            return found["spec"]["ports"][0]

        mistakes = [
            lambda objects: service(objects, "imagenet").update(targetPort="rpc"),
            lambda objects: service(objects, "imagenet").update(port=50052),
            lambda objects: of_kind(objects, "ServiceMonitor")[0]["spec"]["endpoints"][0].update(
                path="/"
            ),
            lambda objects: of_kind(objects, "NetworkPolicy")[0]["spec"]["ingress"][0]["ports"][
                0
            ].update(port=50052),
            lambda objects: of_kind(objects, "NetworkPolicy")[1]["spec"]["egress"][1]["ports"][
                0
            ].update(port="grpc"),
            lambda objects: of_kind(objects, "Job")[0]["spec"]["template"]["spec"]["containers"][
                0
            ].update(args=["--connect=https://other.vision.svc:50051"]),
        ]
        for number, mistake in enumerate(mistakes):
            objects = rendered(values_file("everything"))
            mistake(objects)
            with self.subTest(number=number):
                self.assertNotEqual(outside_problems(objects), [])


if __name__ == "__main__":
    unittest.main()
