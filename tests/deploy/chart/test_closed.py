"""The chart is restrictive: restricted pods, each with only the files it needs, and only required
network connections are allowed."""

import copy
import ipaddress
import unittest

from chart import (
    RELEASE,
    VALUES,
    component,
    of_kind,
    one,
    pods,
    rendered,
    skip_without_helm,
    template,
    texts,
    values_file,
)

setUpModule = skip_without_helm

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
}
HANDLERS = ("livenessProbe", "readinessProbe", "startupProbe")


def lets_in(block: dict, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an ipBlock of a NetworkPolicy contains the address."""
    excepted = (ipaddress.ip_network(part) for part in block.get("except", []))
    return address in ipaddress.ip_network(block["cidr"]) and not any(
        address in part for part in excepted
    )


def broken_rules(pod: dict) -> set[str]:
    """The controls of the restricted Pod Security Standard that a pod violates, including those of
    the baseline standard."""
    spec = pod["spec"]
    security = spec.get("securityContext", {})
    containers = [
        container
        for kind in ("initContainers", "containers", "ephemeralContainers")
        for container in spec.get(kind, [])
    ]
    each = [(container, container.get("securityContext", {})) for container in containers]
    contexts = [security, *(own for _, own in each)]
    probes = [container.get(handler, {}) for container in containers for handler in HANDLERS]
    hooks = [hook for container in containers for hook in container.get("lifecycle", {}).values()]
    annotations = pod["metadata"].get("annotations", {})

    def seccomp(own: dict) -> str | None:
        return own.get("seccompProfile", security.get("seccompProfile", {})).get("type")

    def is_non_root(own: dict) -> bool:
        return own.get("runAsNonRoot", security.get("runAsNonRoot")) is True

    selinux = [own.get("seLinuxOptions", {}) for own in contexts]
    rules = {
        "host process": all(
            not own.get("windowsOptions", {}).get("hostProcess") for own in contexts
        ),
        "host namespaces": not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
        "privileged": not any(own.get("privileged") for _, own in each),
        "capabilities": all("ALL" in own.get("capabilities", {}).get("drop", []) for _, own in each)
        and all(
            set(own.get("capabilities", {}).get("add", [])) <= {"NET_BIND_SERVICE"}
            for _, own in each
        ),
        "volumes": all(set(volume) - {"name"} <= VOLUMES for volume in spec.get("volumes") or []),
        "host ports": not any(
            port.get("hostPort") for container in containers for port in container.get("ports", [])
        ),
        "host probes": not any(
            "host" in action
            for handler in [*probes, *hooks]
            for action in handler.values()
            if isinstance(action, dict)
        ),
        "AppArmor": all(
            own.get("appArmorProfile", {}).get("type", "RuntimeDefault")
            in {"RuntimeDefault", "Localhost"}
            for own in contexts
        )
        and all(
            value == "runtime/default" or value.startswith("localhost/")
            for key, value in annotations.items()
            if key.startswith("container.apparmor.security.beta.kubernetes.io/")
        ),
        "SELinux": all(
            own.get("type", "") in SELINUX and not own.get("user") and not own.get("role")
            for own in selinux
        ),
        "/proc": all(own.get("procMount", "Default") == "Default" for _, own in each),
        "seccomp": all(seccomp(own) in {"RuntimeDefault", "Localhost"} for _, own in each),
        "sysctls": all(sysctl["name"] in SYSCTLS for sysctl in security.get("sysctls", [])),
        "privilege escalation": all(
            own.get("allowPrivilegeEscalation") is False for _, own in each
        ),
        "non-root": all(is_non_root(own) for _, own in each),
        "non-root user": all(own.get("runAsUser") != 0 for own in contexts),
    }
    return {rule for rule, kept in rules.items() if not kept}


def change(pod: dict, path: str, value: object) -> dict:
    """A copy of the pod with one change."""
    changed = copy.deepcopy(pod)
    *way, last = path.split("/")
    at = changed["spec"]
    for key in way:
        at = at[int(key)] if key.isdigit() else at.setdefault(key, {})
    at[last] = value
    return changed


OWN = "containers/0/securityContext"
BREAKS = [
    ("securityContext/windowsOptions", {"hostProcess": True}, "host process"),
    ("hostNetwork", True, "host namespaces"),
    ("hostPID", True, "host namespaces"),
    ("hostIPC", True, "host namespaces"),
    (f"{OWN}/privileged", True, "privileged"),
    (f"{OWN}/capabilities", {}, "capabilities"),
    (f"{OWN}/capabilities", {"drop": ["ALL"], "add": ["SYS_ADMIN"]}, "capabilities"),
    ("volumes", [{"name": "x", "hostPath": {"path": "/"}}], "volumes"),
    ("containers/0/ports", [{"containerPort": 1, "hostPort": 1}], "host ports"),
    ("containers/0/livenessProbe", {"httpGet": {"host": "10.0.0.1", "port": 1}}, "host probes"),
    (f"{OWN}/appArmorProfile", {"type": "Unconfined"}, "AppArmor"),
    (f"{OWN}/seLinuxOptions", {"type": "spc_t"}, "SELinux"),
    ("securityContext/seLinuxOptions", {"user": "root"}, "SELinux"),
    (f"{OWN}/procMount", "Unmasked", "/proc"),
    ("securityContext/seccompProfile", {"type": "Unconfined"}, "seccomp"),
    ("securityContext/seccompProfile", {}, "seccomp"),
    ("securityContext/sysctls", [{"name": "kernel.msgmax", "value": "1"}], "sysctls"),
    (f"{OWN}/allowPrivilegeEscalation", True, "privilege escalation"),
    (f"{OWN}/allowPrivilegeEscalation", None, "privilege escalation"),
    (f"{OWN}/runAsNonRoot", False, "non-root"),
    ("securityContext/runAsUser", 0, "non-root user"),
]


def files_of(pod: dict) -> set[str]:
    """The secret files in the volumes of a pod."""
    volumes = pod["spec"].get("volumes") or []
    sources = [
        source for volume in volumes for source in volume.get("projected", {}).get("sources", [])
    ]
    return {item["path"] for source in sources for item in source["secret"]["items"]}


class Pods(unittest.TestCase):
    def test_every_pod_is_restricted(self):
        count = 0
        for path in VALUES:
            for name, pod in pods(rendered(path)):
                count += 1
                with self.subTest(values=path.name, pod=name):
                    self.assertEqual(broken_rules(pod), set())
                    for container in pod["spec"]["containers"]:
                        self.assertIs(container["securityContext"]["readOnlyRootFilesystem"], True)
                        self.assertIn("memory", container["resources"]["limits"])
        self.assertGreater(count, 2 * len(VALUES))

    def test_user_ids_may_be_left_to_the_cluster(self):
        """On OpenShift, for example, pods may not set these ids."""
        settings = [f"podSecurity.{key}=null" for key in ("runAsUser", "runAsGroup", "fsGroup")]
        for name, pod in pods(template([values_file("defaults")], settings)):
            self.assertTrue(
                {"runAsUser", "runAsGroup", "fsGroup"}.isdisjoint(pod["spec"]["securityContext"]),
                name,
            )
            self.assertEqual(broken_rules(pod), set())

    def test_every_control_of_the_standard_can_be_broken(self):
        for _, pod in pods(rendered(values_file("defaults"))):
            for path, value, rule in BREAKS:
                with self.subTest(pod=component(pod), path=path, value=value):
                    self.assertEqual(broken_rules(change(pod, path, value)), {rule})

    def test_no_pod_has_a_token_or_variables_of_the_cluster(self):
        """Otherwise a Service `imagenet-http` would set the variable IMAGENET_HTTP_PORT and others
        with the prefix of the programs."""
        for path in VALUES:
            for name, pod in pods(rendered(path)):
                with self.subTest(values=path.name, pod=name):
                    self.assertIs(pod["spec"]["automountServiceAccountToken"], False)
                    self.assertIs(pod["spec"]["enableServiceLinks"], False)

    def test_there_is_more_time_to_stop_than_a_program_takes(self):
        for path in VALUES:
            for name, pod in pods(rendered(path)):
                if component(pod) != "test":
                    self.assertGreater(pod["spec"]["terminationGracePeriodSeconds"], 30, name)


class Trust(unittest.TestCase):
    def test_each_pod_is_given_the_files_that_it_needs_and_no_others(self):
        needed = {
            "coordinator": {"server.pem", "server.key", "tokens", "ca.pem"},
            "worker": {"ca.pem", "worker.token"},
            "test": {"ca.pem", "viewer.token"},
        }
        for path in VALUES:
            insecure = path.name.startswith("insecure")
            for name, pod in pods(rendered(path)):
                with self.subTest(values=path.name, pod=name):
                    self.assertEqual(files_of(pod), set() if insecure else needed[component(pod)])

    def test_plaintext_needs_the_insecure_mode(self):
        for path in VALUES:
            insecure = path.name.startswith("insecure")
            words = [
                word
                for _, pod in pods(rendered(path))
                for word in pod["spec"]["containers"][0]["args"]
            ]
            self.assertEqual("--insecure" in words, insecure, path.name)
            self.assertEqual(
                any(word.startswith("--connect=http://") for word in words), insecure, path.name
            )

    def test_the_generated_secret_holds_what_init_would_make_and_no_authority(self):
        secret = texts(one(rendered(values_file("defaults")), "Secret", f"{RELEASE}-trust"))
        self.assertEqual(
            set(secret),
            {
                "server.pem",
                "server.key",
                "ca.pem",
                "tokens",
                "worker.token",
                "viewer.token",
                "admin.token",
            },
        )
        roles = dict(line.split() for line in secret["tokens"].splitlines())
        self.assertEqual(
            roles, {role: secret[f"{role}.token"] for role in ("worker", "viewer", "admin")}
        )
        self.assertEqual(len(set(roles.values())), 3)
        self.assertTrue(all(len(token) == 43 for token in roles.values()))
        again = texts(one(template([values_file("defaults")]), "Secret", f"{RELEASE}-trust"))
        self.assertTrue(set(roles.values()).isdisjoint(again["tokens"].split()))

    def test_what_is_not_generated_is_in_no_object(self):
        for name in ("existing-secrets", "insecure"):
            self.assertEqual(of_kind(rendered(values_file(name)), "Secret", "Certificate"), [])
        tokens = texts(one(rendered(values_file("tls")), "Secret", f"{RELEASE}-trust"))
        self.assertEqual(set(tokens), {"tokens", "worker.token", "viewer.token", "admin.token"})

    def test_additional_names_are_in_the_certificate(self):
        certificate = one(rendered(values_file("tls")), "Certificate", f"{RELEASE}-tls")["spec"]
        self.assertIn("imagenet.example.org", certificate["dnsNames"])
        self.assertIn("imagenet.vision.svc", certificate["dnsNames"])
        self.assertEqual(certificate["ipAddresses"], ["127.0.0.1", "192.0.2.7"])


def selects(selector: dict, labels: dict) -> bool:
    def fits(expression: dict) -> bool:
        assert expression["operator"] == "In"
        return labels.get(expression["key"]) in expression["values"]

    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        map(fits, selector.get("matchExpressions", []))
    )


class Network(unittest.TestCase):
    def test_services_budgets_and_monitors_find_their_pods(self):
        for path in VALUES:
            objects = rendered(path)
            found = {component(pod): pod["metadata"]["labels"] for _, pod in pods(objects)}
            for service in of_kind(objects, "Service"):
                with self.subTest(values=path.name, service=service["metadata"]["name"]):
                    self.assertTrue(
                        selects({"matchLabels": service["spec"]["selector"]}, found["coordinator"])
                    )
                    self.assertFalse(
                        selects({"matchLabels": service["spec"]["selector"]}, found["worker"])
                    )
                    # Workers must be able to connect to a recovering coordinator; otherwise it
                    # never becomes ready.
                    self.assertIs(service["spec"]["publishNotReadyAddresses"], True)
            for owner in of_kind(
                objects, "PodDisruptionBudget", "PodMonitor", "StatefulSet", "Deployment"
            ):
                name = owner["metadata"]["name"].rpartition("-")[2]
                self.assertTrue(
                    selects(owner["spec"]["selector"], found[name]), owner["metadata"]["name"]
                )
            for monitor in of_kind(objects, "ServiceMonitor"):
                fitting = [
                    service
                    for service in of_kind(objects, "Service")
                    if selects(monitor["spec"]["selector"], service["metadata"]["labels"])
                ]
                self.assertEqual(
                    [service["metadata"]["name"] for service in fitting], [f"{RELEASE}-headless"]
                )

    def test_metrics_never_leave_the_cluster_with_the_grpc_port(self):
        objects = rendered(values_file("tls"))
        outside = one(objects, "Service", RELEASE)["spec"]
        self.assertEqual(
            (outside["type"], [port["name"] for port in outside["ports"]]),
            ("LoadBalancer", ["grpc"]),
        )
        self.assertEqual(
            one(objects, "Service", f"{RELEASE}-headless")["spec"]["clusterIP"], "None"
        )

    def test_policies_admit_only_the_intended_peers(self):
        for path in VALUES:
            objects = rendered(path)
            policies = of_kind(objects, "NetworkPolicy")
            if path.name.startswith("insecure"):
                self.assertEqual(policies, [])
                continue
            found = {component(pod): pod["metadata"]["labels"] for _, pod in pods(objects)}
            of = {
                name: [
                    policy["spec"]
                    for policy in policies
                    if selects(policy["spec"]["podSelector"], labels)
                ]
                for name, labels in found.items()
            }
            with self.subTest(values=path.name):
                [coordinator] = of["coordinator"]
                for name in ("worker", "test"):
                    [own] = of[name]
                    self.assertEqual(sorted(own["policyTypes"]), ["Egress", "Ingress"])
                    reached = [
                        rule
                        for rule in own["egress"]
                        if any(
                            selects(
                                peer.get("podSelector", {"matchLabels": {"": ""}}),
                                found["coordinator"],
                            )
                            for peer in rule.get("to", [])
                        )
                    ]
                    self.assertEqual([rule["ports"] for rule in reached], [[{"port": 50051}]])
                callers = [
                    peer["podSelector"]
                    for rule in coordinator["ingress"]
                    if {"port": 50051} in rule["ports"]
                    for peer in rule["from"]
                    if "podSelector" in peer
                ]
                self.assertEqual(
                    [
                        selects(callers[0], found[name])
                        for name in ("worker", "test", "coordinator")
                    ],
                    [True, True, False],
                )
                self.assertTrue(
                    all(rule.get("from") for rule in coordinator["ingress"]),
                    "each rule names its clients",
                )

    def test_workers_do_not_reach_the_metadata_service_unless_values_say_so(self):
        metadata = [
            ipaddress.ip_address(address)
            for address in ("169.254.169.254", "fd00:ec2::254", "fe80::a9fe:a9fe")
        ]
        origin = [
            ipaddress.ip_address(address)
            for address in ("171.64.68.10", "10.1.2.3", "2606:4700::6810:85e5")
        ]
        for path in VALUES:
            for policy in of_kind(rendered(path), "NetworkPolicy"):
                rules = [
                    rule for rule in policy["spec"]["egress"] if {"port": 443} in rule["ports"]
                ]
                if not rules:
                    continue
                blocks = [
                    peer["ipBlock"] for rule in rules for peer in rule["to"] if "ipBlock" in peer
                ]
                with self.subTest(values=path.name):
                    self.assertFalse(
                        [
                            address
                            for address in metadata
                            if any(lets_in(block, address) for block in blocks)
                        ]
                    )
                    if not path.name.startswith("everything"):
                        for address in origin:
                            self.assertTrue(
                                any(lets_in(block, address) for block in blocks), address
                            )

    def test_policies_name_ports_by_number_and_let_pods_ask_for_names_where_openshift_answers(self):
        """Some network plugins do not resolve named ports in rules with address blocks."""
        policies = of_kind(rendered(values_file("everything")), "NetworkPolicy")
        self.assertEqual(len(policies), 2)
        for policy in policies:
            rules = policy["spec"]["ingress"] + policy["spec"]["egress"]
            ports = [
                (port["port"], port.get("protocol", "TCP"))
                for rule in rules
                for port in rule["ports"]
            ]
            self.assertTrue(all(isinstance(port, int) for port, _ in ports), ports)
            self.assertLessEqual(
                {(port, how) for port in (53, 5353) for how in ("UDP", "TCP")}, set(ports)
            )


class Runs(unittest.TestCase):
    def names(self, *settings: str, values: str = "defaults") -> tuple[str, str, set[str]]:
        """The run in the labels of the coordinator's pod, the run in the selector of the Service,
        and the names of the Jobs."""
        objects = template([values_file(values)], list(settings))
        pod = one(objects, "StatefulSet", f"{RELEASE}-coordinator")["spec"]["template"]
        service = one(objects, "Service", RELEASE)
        jobs = {job["metadata"]["name"] for job in of_kind(objects, "Job")}
        return (
            pod["metadata"]["labels"]["imagenet/run"],
            service["spec"]["selector"]["imagenet/run"],
            jobs,
        )

    def test_what_begins_a_new_run_makes_another_job_that_finds_no_former_coordinator(self):
        before = self.names()
        self.assertEqual(before[0], before[1])
        for setting in (
            "classes.csv=wnid",
            "classes.revision=2",
            "job.url=http://example.org",
            "job.attempt=2",
        ):
            with self.subTest(setting=setting):
                after = self.names(setting)
                self.assertEqual(after[0], after[1])
                self.assertNotEqual(after[0], before[0])
                self.assertTrue(after[2].isdisjoint(before[2]))

    def test_what_changes_a_jobs_pods_makes_another_job_of_the_same_run(self):
        before = self.names()
        for setting in (
            "image.tag=next",
            "workers.count=5",
            "workers.slots=1",
            "workers.backoffLimit=1",
            "podSecurity.fsGroup=7",
        ):
            with self.subTest(setting=setting):
                after = self.names(setting)
                self.assertEqual(after[:2], before[:2])
                self.assertTrue(after[2].isdisjoint(before[2]))

    def test_what_does_not_concern_workers_leaves_them_alone(self):
        for values in ("defaults", "local-disks"):
            before = self.names(values=values)
            for setting in (
                "job.maxRate=1MiB/s",
                "job.maxConnections=3",
                "monitoring.rules.enabled=true",
                "workers.ttlSecondsAfterFinished=60",
            ):
                with self.subTest(values=values, setting=setting):
                    self.assertEqual(self.names(setting, values=values), before)

    def test_claims_outlive_the_release_and_are_those_of_the_workers(self):
        for name, count in (("defaults", 1), ("local-disks", 4), ("shared-volume", 0)):
            objects = rendered(values_file(name))
            claims = {
                claim["metadata"]["name"]: claim
                for claim in of_kind(objects, "PersistentVolumeClaim")
            }
            self.assertEqual(len(claims), count)
            for claim in claims.values():
                self.assertEqual(
                    claim["metadata"]["annotations"]["helm.sh/resource-policy"], "keep"
                )
            workers = [pod for _, pod in pods(objects) if component(pod) == "worker"]
            used = [
                volume["persistentVolumeClaim"]["claimName"]
                for pod in workers
                for volume in pod["spec"]["volumes"]
                if "persistentVolumeClaim" in volume
            ]
            self.assertEqual(sorted(used), sorted(claims) or ["datasets"])


if __name__ == "__main__":
    unittest.main()
