"""Invalid values are rejected before the installation, with a message or with the path of the
mistake."""

import tempfile
import unittest
from pathlib import Path

import yaml
from chart import CHART, Refused, helm, skip_without_helm, template, values_file
from tools import helms

setUpModule = skip_without_helm

# A setting, and a text that the message must contain.
WRONG = [
    # Unknown names.
    ("replicas=3", "replicas"),
    ("image.repo=x", "repo"),
    ("job.maxconnections=3", "maxconnections"),
    ("coordinator.replicas=2", "replicas"),
    ("workers.storage.size=1Gi", "storage"),
    ("workers.resources.request.cpu=1", "request"),
    ("trust.issuerRef.nam=x", "nam"),
    ("networkPolicy.enable=true", "enable"),
    ("monitoring.serviceMonitor.scrapeInterval=1m", "scrapeInterval"),
    ("podSecurity.runAsNonRoot=false", "runAsNonRoot"),
    # Wrong types.
    ("workers.count=three", "/workers/count"),
    ("workers.count=2.5", "/workers/count"),
    ("job.deleteTar=maybe", "/job/deleteTar"),
    ("image.pullSecrets=registry", "/image/pullSecrets"),
    ("workers.nodeSelector=gpu", "/workers/nodeSelector"),
    ("coordinator.extraEnv.A=b", "/coordinator/extraEnv"),
    ("workers.extraEnv[0].value=b", "/workers/extraEnv/0"),
    # Out of range.
    ("workers.count=0", "/workers/count"),
    ("workers.slots=1001", "/workers/slots"),
    ("workers.terminationGracePeriodSeconds=10", "/workers/terminationGracePeriodSeconds"),
    ("coordinator.terminationGracePeriodSeconds=10", "/coordinator/terminationGracePeriodSeconds"),
    ("job.maxConnections=0", "/job/maxConnections"),
    ("job.retries=-1", "/job/retries"),
    ("podSecurity.runAsUser=0", "/podSecurity/runAsUser"),
    ("networkPolicy.originPorts[0]=70000", "/networkPolicy/originPorts"),
    # Not in the list of allowed values.
    ("trust.mode=open", "/trust/mode"),
    ("storage.mode=local", "/storage/mode"),
    ("storage.accessMode=ReadOnlyMany", "/storage/accessMode"),
    ("workers.kind=StatefulSet", "/workers/kind"),
    ("job.existing=overwrite", "/job/existing"),
    ("job.durability=none", "/job/durability"),
    ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
    ("coordinator.service.type=ExternalName", "/coordinator/service/type"),
    ("bindAddress=127.0.0.1", "/bindAddress"),
    # Wrong format.
    ("image.digest=latest", "/image/digest"),
    ("image.repository=https://registry.example.org/imagenet", "/image/repository"),
    ("job.url=ftp://example.org", "/job/url"),
    ("job.timeout=soon", "/job/timeout"),
    ("job.leaseTtl=30", "/job/leaseTtl"),
    ("job.maxRate=fast", "/job/maxRate"),
    ("job.maxRate=10KMGT", "/job/maxRate"),
    ("workers.extraEnv[0].name=A,workers.extraEnv[0].value=1", "/workers/extraEnv/0/value"),
    (
        "coordinator.extraEnv[0].name=A,coordinator.extraEnv[0].value=true",
        "/coordinator/extraEnv/0/value",
    ),
    ("storage.size=2 TB", "/storage/size"),
    ("storage.folder=../up", "/storage/folder"),
    ("storage.folder=/images", "/storage/folder"),
    ("storage.existingClaim=My_Claim", "/storage/existingClaim"),
    ("trust.names[0]=https://example.org", "/trust/names/0"),
    ("trust.names[0]=example.org:50051", "/trust/names/0"),
    ("trust.names[0]=10.0.5", "/trust/names/0"),
    ("workers.resources.limits.memory=much", "/workers/resources/limits/memory"),
    ("monitoring.serviceMonitor.interval=often", "/monitoring/serviceMonitor/interval"),
    # Conflicting settings.
    ("image.repository=", "image.repository is empty: build the image with deploy/Dockerfile"),
    ("classes.csv=", "classes is empty: give the list with --set-file classes.csv=data.csv"),
    ("classes.existingConfigMap=lists", "classes has more than one list"),
    ("trust.mode=existing", "trust.mode is existing, and trust.existingSecret is empty"),
    ("trust.existingSecret=mine", "trust.existingSecret is only used with trust.mode=existing"),
    (
        "workers.kind=Deployment,storage.mode=perWorker",
        "workers.kind Deployment has no claim for each worker",
    ),
    ("storage.mode=perWorker,storage.existingClaim=c", "storage.existingClaim is one claim"),
    ("storage.accessMode=ReadWriteOncePod", "storage.accessMode ReadWriteOncePod lets one pod in"),
    ("podDisruptionBudget.minWorkers=3", "podDisruptionBudget.minWorkers lets no worker go"),
    ("fullnameOverride=my.images", "my.images can be no Service's name"),
]


class Values(unittest.TestCase):
    def test_invalid_values_are_refused_by_name(self):
        for version in helms():
            for setting, words in WRONG:
                with self.subTest(helm=version, setting=setting):
                    with self.assertRaises(Refused) as refused:
                        template([values_file("defaults")], [setting], version)
                    output = str(refused.exception)
                    # The two Helm versions print the path of a value in different formats.
                    self.assertTrue(
                        words in output or words.lstrip("/").replace("/", ".") in output, output
                    )

    def test_a_release_name_that_is_no_service_name_needs_another_name_for_its_objects(self):
        for release in ("21k", "2024", "winter.21"):
            words = ["template", release, CHART, "-f", values_file("defaults")]
            refused = helm(words)
            self.assertEqual(refused.returncode, 1)
            self.assertIn(
                f"{release}-imagenet can be no Service's name, which begins with a letter",
                refused.stderr,
            )
            done = helm([*words, "--set", "fullnameOverride=images"])
            self.assertEqual(done.returncode, 0, done.stderr)
            for found in yaml.safe_load_all(done.stdout):
                # A label of digits alone would be a number, which Kubernetes rejects.
                self.assertEqual(found["metadata"]["labels"]["app.kubernetes.io/instance"], release)

    def test_names_and_addresses_of_all_kinds_get_into_a_certificate(self):
        for name in (
            "node1",
            "4u-server",
            "*.example.org",
            "a_b.example.org",
            "192.0.2.7",
            "::1",
            "2001:db8::7",
        ):
            for mode in ("generated", "certManager"):
                with self.subTest(name=name, mode=mode):
                    template(
                        [values_file("defaults")], [f"trust.names[0]={name}", f"trust.mode={mode}"]
                    )

    def test_without_values_one_sentence_says_what_is_needed(self):
        for setting in ([], ["--set", "image.repository=r.example/imagenet"]):
            done = helm(["template", "imagenet", CHART, *setting])
            self.assertEqual(done.returncode, 1)
            self.assertEqual(
                len([line for line in done.stderr.splitlines() if line.startswith("Error: ")]),
                1,
                done.stderr,
            )
            self.assertIn(
                "--set-file classes.csv=data.csv" if setting else "--set image.repository=NAME",
                done.stderr,
            )

    def test_a_list_that_no_config_map_holds_is_refused_and_all_of_imagenet_is_not(self):
        for rows, fits in ((21_843, True), (100_000, False)):
            with self.subTest(rows=rows):
                path = Path(self.enterContext(tempfile.TemporaryDirectory()), "data.csv")
                path.write_text("wnid\n" + "".join(f"n{number:08}\n" for number in range(rows)))
                done = helm(
                    [
                        "template",
                        "imagenet",
                        CHART,
                        "-f",
                        values_file("defaults"),
                        "--set-file",
                        f"classes.csv={path}",
                    ]
                )
                self.assertEqual(done.returncode == 0, fits, done.stderr)
                if not fits:
                    self.assertIn(
                        "classes.csv is larger than a ConfigMap can be: keep only its wnid column",
                        done.stderr,
                    )


if __name__ == "__main__":
    unittest.main()
