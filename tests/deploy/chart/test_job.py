"""A job that the rendered pods run themselves, in all configurations of the chart."""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import time
import unittest
from pathlib import Path

import yaml
from chart import (
    NAMESPACE,
    RELEASE,
    component,
    of_kind,
    one,
    pods,
    skip_without_helm,
    template,
    values_file,
)
from podlets import Cluster, Pod, skip_unless_possible
from programs import program

CLASSES = ["n00000001", "n00000002", "n00000003"]
MISSING = "n00000009"
# Bytes per second and connection: a class takes 25 seconds.
SLOW = 12_000
# Deadline in seconds for steps that take a few seconds on an idle machine.
TIMEOUT = 180
COORDINATOR = f"{RELEASE}-coordinator-0"
EXEC = "/usr/local/bin/coordinator"
HEALTH = """
import sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    request = health_pb2.HealthCheckRequest(service=sys.argv[2])
    print(health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status)
"""


def setUpModule() -> None:
    skip_without_helm()
    skip_unless_possible()


def write_tars(folder: Path) -> None:
    for wnid in CLASSES:
        with tarfile.open(folder / f"{wnid}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(1, 6):
                content = random.Random(f"{wnid}{number}").randbytes(20_000 * number)
                entry = tarfile.TarInfo(f"{wnid}_{number}.JPEG")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


class Jobs(unittest.TestCase):
    def setUp(self):
        self.cluster = Cluster()
        self.addCleanup(self.cluster.close)
        self.tars = self.cluster.folder / "tars"
        self.tars.mkdir()
        write_tars(self.tars)
        self.url = self.cluster.origin(self.tars)

    # The actions of a user and of the controllers.

    def install(
        self,
        values: str,
        *settings: str,
        classes: list[str] = (*CLASSES, MISSING),
        keep: tuple[str, ...] = (),
    ) -> list[dict]:
        """Applies the rendered objects, with a test list and a test origin instead of those of the
        values file."""
        ours = [
            f"job.url={self.url}",
            "job.retries=1",
            "workers.count=2",
            "workers.allowPrivateOrigin=true",
            *settings,
        ]
        path, own = values_file(values), self.cluster.folder / "own.yaml"
        has_list = "csv" in yaml.safe_load(path.read_text())["classes"]
        own.write_text(
            yaml.safe_dump(
                {"classes": {"csv": "\n".join(["wnid", *classes, ""])}} if has_list else {}
            )
        )
        objects = template([path, own], ours)
        self.cluster.apply(objects, keep)
        return objects

    def coordinator_pod(self) -> dict:
        return self.cluster.objects["StatefulSet", f"{RELEASE}-coordinator"]["spec"]["template"]

    def start_coordinator(self) -> Pod:
        return self.cluster.run(COORDINATOR, self.coordinator_pod())

    def start_workers(self) -> list[Pod]:
        """Starts the number of workers in the Jobs or the Deployment, with the names that their
        pods have."""
        started = []
        for (kind, name), found in list(self.cluster.objects.items()):
            if kind in ("Job", "Deployment"):
                count = found["spec"].get("completions") or found["spec"].get("replicas")
                started += [
                    self.cluster.run(f"{name}-{number}", found["spec"]["template"])
                    for number in range(count)
                ]
        return started

    def probe(self, pod: Pod, template: dict, handler: str) -> bool:
        """Calls the probe as the kubelet does."""
        [container] = template["spec"]["containers"]
        probe = container[handler]
        if "grpc" in probe:
            words = [
                sys.executable,
                "-c",
                HEALTH,
                f"{pod.address}:{probe['grpc']['port']}",
                probe["grpc"]["service"],
            ]
            return self.cluster.command(words).strip() == "1"
        [port] = [
            port["containerPort"]
            for port in container["ports"]
            if port["name"] == probe["httpGet"]["port"]
        ]
        url = f"http://{pod.address}:{port}{probe['httpGet']['path']}"
        return (
            self.cluster.command(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url])
            == "200"
        )

    def wait_for_probe(self, pod: Pod, template: dict, handler: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not self.probe(pod, template, handler):
            self.assertLess(time.monotonic(), deadline, f"{handler} of {pod.name}: {pod.output()}")
            time.sleep(0.1)

    def exec(self, *words: str) -> str:
        """Runs a command as the chart's notes describe; the namespaces are like those of the pod,
        and the network is the pod's."""
        done = self.cluster.run(COORDINATOR, self.coordinator_pod(), [EXEC, *words])
        self.assertEqual(done.wait(), 0, done.output())
        return done.output()

    def metrics(self, pod: Pod) -> str:
        return self.cluster.command(["curl", "-s", f"http://{pod.address}:8080/metrics"])

    def received(self, worker: Pod) -> int:
        """Bytes from the origin so far."""
        return int(
            re.search(
                r"^imagenet_worker_received_bytes_total (\d+)", self.metrics(worker), re.MULTILINE
            )[1]
        )

    def assert_ended(self, workers: list[Pod]) -> None:
        for worker in workers:
            self.assertEqual(worker.wait(), 0, worker.output())

    def images(self, claim: str, folder: str) -> list[str]:
        """The classes in a claim, after a check of each file; all belong to the pod's user."""
        found = []
        for wnid in sorted(
            path.name for path in (self.cluster.volumes.claim(claim) / folder).glob("n*")
        ):
            at = self.cluster.volumes.claim(claim) / folder / wnid
            with tarfile.open(self.tars / f"{wnid}.tar") as tar:
                for entry in tar:
                    self.assertEqual(
                        (at / entry.name).read_bytes(), tar.extractfile(entry).read(), entry.name
                    )
            self.assertEqual(
                at.stat().st_uid, self.coordinator_pod()["spec"]["securityContext"]["runAsUser"]
            )
            found.append(wnid)
        return found

    def run_to_the_end(self, table: str) -> Pod:
        """Workers that start before the coordinator, the job, and the coordinator that keeps
        running."""
        workers = self.start_workers()
        coordinator = self.start_coordinator()
        self.assert_ended(workers)
        coordinator.wait_until("stays to tell")
        counts = re.findall(r"(?:Success|Skipped|Failed): +(\d+)", coordinator.output())
        self.assertEqual(" ".join(counts), table, coordinator.output())
        for handler in ("livenessProbe", "readinessProbe"):
            self.wait_for_probe(coordinator, self.coordinator_pod(), handler)
        return coordinator

    # The tests.

    def test_a_job_runs_to_its_end_as_it_is_installed_and_an_upgrade_begins_the_next(self):
        objects = self.install("defaults")
        coordinator = self.run_to_the_end("3 0 1")
        self.assertEqual(self.images(f"{RELEASE}-images", "imagenet"), CLASSES)
        self.assertIn(
            f"{MISSING} failed: HTTPError: 404",
            coordinator.output(),
            "people find it in the pod's log",
        )

        with self.subTest("watched as the notes say, and by helm test"):
            self.assertIn("done", self.exec("status", "--watch"))
            self.assertEqual(json.loads(self.exec("status", "--json"))["success"], 3)
            test = self.cluster.run(
                f"{RELEASE}-test-status", one(objects, "Pod", f"{RELEASE}-test-status")
            )
            self.assertEqual(test.wait(), 0, test.output())

        with self.subTest("a pod that comes late, or is started again, is sent home"):
            self.assert_ended(self.start_workers())

        with self.subTest(
            "the coordinator is moved: the finished job is shown, and no class is requested again"
        ):
            self.assertEqual(
                coordinator.stop(self.coordinator_pod()["spec"]["terminationGracePeriodSeconds"]), 1
            )
            coordinator = self.run_to_the_end("3 0 1")
            self.assertIn(f"{MISSING} failed: HTTPError: 404", coordinator.output())

        with self.subTest("another list is another run and another Job; the Secret is kept"):
            self.assertEqual(coordinator.stop(30), 1)
            jobs = {found["metadata"]["name"] for found in of_kind(objects, "Job")}
            objects = self.install("defaults", classes=CLASSES[:2], keep=("Secret",))
            self.assertTrue(
                jobs.isdisjoint({found["metadata"]["name"] for found in of_kind(objects, "Job")})
            )
            coordinator = self.run_to_the_end("0 2 0")
            self.assertEqual(coordinator.stop(30), 0)

    def test_pods_that_are_moved_in_the_middle_lose_nothing(self):
        """SIGTERM to all pods, as in a drain of the nodes, well within their grace period; then
        other pods with the same names."""
        self.url = self.cluster.origin(self.tars, SLOW)
        objects = self.install("defaults")
        coordinator, workers = self.start_coordinator(), self.start_workers()
        [pod, *_] = [pod for _, pod in pods(objects) if component(pod) == "worker"]
        for worker in workers:
            self.wait_for_probe(worker, pod, "livenessProbe")
            self.wait_for_probe(worker, pod, "readinessProbe")
        [job] = of_kind(objects, "Job")
        deadline = time.monotonic() + TIMEOUT
        while max(self.received(worker) for worker in workers) < SLOW:
            self.assertLess(time.monotonic(), deadline, [*map(Pod.output, workers)])
            time.sleep(0.05)
        began = time.monotonic()
        for worker in workers:
            worker.signal(signal.SIGTERM)
        self.assertEqual(
            [worker.wait(pod["spec"]["terminationGracePeriodSeconds"]) for worker in workers],
            [143, 143],
        )
        self.assertEqual(
            coordinator.stop(self.coordinator_pod()["spec"]["terminationGracePeriodSeconds"]), 143
        )
        self.assertLess(time.monotonic() - began, 30)
        others, coordinator = self.start_workers(), self.start_coordinator()
        self.assert_ended(others)
        coordinator.wait_until("stays to tell")
        self.assertEqual(self.images(f"{RELEASE}-images", "imagenet"), CLASSES)
        self.assertEqual(job["spec"]["backoffLimitPerIndex"], 10)

    def test_a_worker_that_is_drained_ends_as_one_that_is_done_and_the_other_finishes(self):
        self.url = self.cluster.origin(self.tars, SLOW)
        objects = self.install("defaults", "workers.slots=1")
        coordinator, workers = self.start_coordinator(), self.start_workers()
        [pod, *_] = [pod for _, pod in pods(objects) if component(pod) == "worker"]
        for worker in workers:
            self.wait_for_probe(worker, pod, "readinessProbe")
        self.exec("drain", workers[0].name)
        self.assertEqual(workers[0].wait(), 0, workers[0].output())
        self.assertTrue(
            coordinator.is_running() and "stays to tell" not in coordinator.output(),
            coordinator.output(),
        )
        self.assert_ended(workers[1:])
        coordinator.wait_until("stays to tell")
        self.assertEqual(self.images(f"{RELEASE}-images", "imagenet"), CLASSES)

    def test_each_worker_may_have_a_disk_of_its_own(self):
        self.install("local-disks")
        self.run_to_the_end("3 0 1")
        parts = [self.images(f"{RELEASE}-images-{number}", "imagenet") for number in range(2)]
        self.assertEqual(sorted(sum(parts, [])), CLASSES)

    def test_secrets_made_by_init_are_used_as_they_are(self):
        trust = self.init(f"{RELEASE}.{NAMESPACE}.svc")
        authority = (trust / "ca.pem").read_text()
        self.install("existing-secrets")
        for kind, name, texts in (
            (
                "Secret",
                "imagenet-trust",
                {path.name: path.read_text() for path in trust.iterdir() if path.name != "ca.key"},
            ),
            ("Secret", "origin-headers", {"headers": "Cookie: session=1\n"}),
            ("ConfigMap", "origin-authority", {"ca.crt": authority}),
            ("ConfigMap", "lists", {"data.csv": "\n".join(["wnid", *CLASSES, MISSING])}),
        ):
            self.cluster.objects[kind, name] = {"stringData" if kind == "Secret" else "data": texts}
        self.run_to_the_end("3 0 1")

    def test_certificates_by_cert_manager_are_used_and_renewed_without_a_restart(self):
        """With tokens by the chart, and all flags of the job except those that name another
        origin."""
        objects = self.install(
            "everything",
            "job.headerSecret=",
            "job.caConfigMap=",
            "job.attempt=1",
            "podSecurity.runAsUser=1000",
            "podDisruptionBudget.minWorkers=1",
        )
        names = one(objects, "Certificate", f"{RELEASE}-tls")["spec"]
        trust = self.init(*names["dnsNames"], *names["ipAddresses"])
        self.cert_manager_writes(trust)
        coordinator = self.run_to_the_end("3 0 1")
        self.assertEqual(self.images(f"{RELEASE}-images", "winter21"), CLASSES)

        shown = self.certificate(coordinator)
        for path in ("server.pem", "server.key"):
            (trust / path).unlink()
        self.init(*names["dnsNames"], *names["ipAddresses"])
        self.cert_manager_writes(trust)
        self.cluster.volumes.refresh()
        deadline = time.monotonic() + 30
        while (renewed := self.certificate(coordinator)) == shown:
            self.assertLess(time.monotonic(), deadline, coordinator.output())
            time.sleep(0.1)
        self.assertIn(renewed.strip(), (trust / "server.pem").read_text())
        self.assert_ended(self.start_workers())

    def cert_manager_writes(self, trust: Path) -> None:
        made = {"tls.crt": "server.pem", "tls.key": "server.key", "ca.crt": "ca.pem"}
        texts = {key: (trust / path).read_text() for key, path in made.items()}
        self.cluster.objects["Secret", f"{RELEASE}-tls"] = {"stringData": texts}

    def certificate(self, coordinator: Pod) -> str:
        """The certificate that the coordinator presents."""
        ask = f"import ssl; print(ssl.get_server_certificate(('{coordinator.address}', 50051)))"
        deadline = time.monotonic() + TIMEOUT
        while "BEGIN CERTIFICATE" not in (
            shown := self.cluster.command([sys.executable, "-c", ask]).strip()
        ):
            self.assertLess(time.monotonic(), deadline, shown)
        return shown

    def test_a_deployment_on_a_claim_of_ones_own_and_a_list_in_another(self):
        self.install("shared-volume")
        lists = self.cluster.volumes.claim("lists") / "winter21"
        lists.mkdir(parents=True)
        (lists / "data.csv").write_text("\n".join(["wnid", *CLASSES, MISSING]))
        self.run_to_the_end("3 0 1")
        self.assertEqual(self.images("datasets", "images/winter21"), CLASSES)

    def test_without_any_trust_it_is_probed_over_grpc(self):
        self.install("insecure", "bindAddress=0.0.0.0")
        pod = self.coordinator_pod()
        self.assertIn("grpc", pod["spec"]["containers"][0]["readinessProbe"])
        coordinator = self.run_to_the_end("3 0 1")
        self.assertIn("INSECURE", coordinator.output())

    def test_a_worker_with_a_foreign_credential_is_rejected(self):
        """One worker with another token than the Secret's, and one that trusts another
        authority."""
        objects = self.install("defaults")
        coordinator = self.start_coordinator()
        self.wait_for_probe(coordinator, self.coordinator_pod(), "readinessProbe")
        mine = self.cluster.objects["Secret", f"{RELEASE}-trust"]
        theirs = one(template([values_file("defaults")]), "Secret", f"{RELEASE}-trust")["data"]
        [job] = of_kind(objects, "Job")
        for number, (file, words) in enumerate(
            [("worker.token", "token"), ("ca.pem", "certificate")]
        ):
            with self.subTest(file=file):
                wrong = {**mine, "data": {**mine["data"], file: theirs[file]}}
                self.cluster.objects["Secret", f"{RELEASE}-trust"] = wrong
                other = self.cluster.run(f"other-{number}", job["spec"]["template"])
                deadline = time.monotonic() + TIMEOUT
                while words not in (output := self.log(other)):
                    self.assertLess(time.monotonic(), deadline, output)
                    time.sleep(0.1)
                self.assertIn('imagenet_workers{state="active"} 0', self.metrics(coordinator))

    def log(self, worker: Pod) -> str:
        path = (
            self.cluster.volumes.claim(f"{RELEASE}-images")
            / "imagenet"
            / f"imagenet_downloader.{worker.name}.log"
        )
        return worker.output() + (path.read_text() if path.is_file() else "")

    def test_the_dashboard_and_the_alerts_use_existing_metrics(self):
        self.url = self.cluster.origin(self.tars, SLOW)
        settings = [f"monitoring.{name}.enabled=true" for name in ("dashboard", "rules")]
        objects = self.install("defaults", *settings)
        coordinator, workers = self.start_coordinator(), self.start_workers()
        while "imagenet_worker_" not in (of_worker := self.metrics(workers[0])):
            self.assertTrue(workers[0].is_running(), workers[0].output())
        self.wait_for_probe(coordinator, self.coordinator_pod(), "readinessProbe")
        there = set(
            re.findall(r"^(imagenet_\w+)", self.metrics(coordinator) + of_worker, re.MULTILINE)
        )
        [board] = [
            found
            for found in of_kind(objects, "ConfigMap")
            if found["metadata"]["name"].endswith("-dashboard")
        ]
        [text] = board["data"].values()
        asked = [
            target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"]
        ]
        [rules] = of_kind(objects, "PrometheusRule")
        asked += [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]
        named = {name for expression in asked for name in re.findall(r"\bimagenet_\w+", expression)}
        self.assertGreater(len(named), 15)
        self.assertEqual(named - there, set())

    def init(self, *names: str) -> Path:
        trust = self.cluster.folder / "trust"
        words = [
            program("coordinator"),
            "init",
            "--dir",
            trust,
            "--advertise",
            ",".join(name for name in names if name != "localhost"),
        ]
        subprocess.run(words, check=True, capture_output=True, env={"PATH": os.environ["PATH"]})
        return trust


if __name__ == "__main__":
    unittest.main()
