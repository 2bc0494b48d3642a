"""The alerts and the queries of the dashboard, checked with `promtool` from Debian's package."""

import json
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml
from chart import CHART, NAMESPACE, RELEASE, of_kind, rendered, skip_without_helm, values_file
from tools import ROOT, TARGET

PROMTOOL = TARGET / "chart" / "prometheus" / "usr" / "bin" / "promtool"
OBSERVABILITY = ROOT / "deploy" / "observability"
# The selectors and labels that the chart's copy has in the place of `job`, by its file's.
OF_THE_RELEASE = {
    'job="imagenet-coordinator"': f'namespace="{NAMESPACE}",service="{RELEASE}-headless"',
    'job="imagenet-worker"': f'namespace="{NAMESPACE}",job="{NAMESPACE}/{RELEASE}-worker"',
    "job: imagenet-coordinator": f"namespace: {NAMESPACE}, service: {RELEASE}-headless",
    "job: imagenet-worker": f"namespace: {NAMESPACE}, job: {NAMESPACE}/{RELEASE}-worker",
}
# Changes of the rules, each of which a test must notice.
MUTATIONS = [
    ("for: 10m", "for: 25m"),
    ("for: 15m", "for: 4m"),
    ("for: 15m", "for: 25m"),
    ("for: 30m", "for: 10m"),
    ("for: 30m", "for: 50m"),
    ("[15m]", "[40m]"),
    ("[1h]", "[2h]"),
    ("14 * 86400", "13 * 86400"),
    ("} > 0", "} > 2"),
    ('phase="done"', 'phase="running"'),
]


def promtool() -> Path:
    found = PROMTOOL if PROMTOOL.is_file() else shutil.which("promtool")
    if not found:
        raise unittest.SkipTest(
            "no promtool; "
            f"apt-get download prometheus && dpkg -x prometheus_*.deb {PROMTOOL.parents[2]}"
        )
    return Path(found)


def of_the_release(text: str) -> str:
    for selector, other in OF_THE_RELEASE.items():
        text = text.replace(selector, other)
    return text


def queries(dashboard: str) -> list[str]:
    return [
        target["expr"] for panel in json.loads(dashboard)["panels"] for target in panel["targets"]
    ]


class Asked(unittest.TestCase):
    """Tests that ask `promtool`, in a folder of their own."""

    def setUp(self):
        self.promtool = promtool()
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def ask(self, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.promtool, *words], cwd=self.folder, capture_output=True, text=True
        )

    def verdict(self, rules: str, cases: str) -> subprocess.CompletedProcess:
        (self.folder / "rules.yaml").write_text(rules)
        (self.folder / "rules.test.yaml").write_text(cases)
        return self.ask("test", "rules", "rules.test.yaml")

    def assert_valid(self, asked: list[str]):
        self.assertGreater(len(asked), 15)
        records = [{"record": f"query{number}", "expr": one} for number, one in enumerate(asked)]
        groups = {"groups": [{"name": "dashboard", "rules": records}]}
        (self.folder / "dashboard.yaml").write_text(yaml.safe_dump(groups))
        done = self.ask("check", "rules", "dashboard.yaml")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class Observability(Asked):
    """The files in `deploy/observability`."""

    def test_each_alert_fires_when_it_should_and_not_before(self):
        rules = (OBSERVABILITY / "rules.yaml").read_text()
        cases = (OBSERVABILITY / "rules.test.yaml").read_text()
        done = self.verdict(rules, cases)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for old, new in MUTATIONS:
            with self.subTest(old=old, new=new):
                self.assertIn(old, rules)
                self.assertEqual(self.verdict(rules.replace(old, new), cases).returncode, 1)

    def test_each_alert_has_a_case_in_which_it_fires(self):
        rules = yaml.safe_load((OBSERVABILITY / "rules.yaml").read_text())
        cases = yaml.safe_load((OBSERVABILITY / "rules.test.yaml").read_text())
        alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
        asked = [case for test in cases["tests"] for case in test["alert_rule_test"]]
        self.assertEqual({case["alertname"] for case in asked if case["exp_alerts"]}, alerts)
        self.assertEqual({case["alertname"] for case in asked if not case["exp_alerts"]}, alerts)

    def test_the_scrape_configuration_is_valid(self):
        shutil.copytree(OBSERVABILITY, self.folder, dirs_exist_ok=True)
        done = self.ask("check", "config", "prometheus.yml")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_the_chart_has_the_same_files(self):
        for name in ("dashboard.json", "rules.yaml"):
            copy = CHART / "observability" / name
            self.assertEqual(
                copy.read_bytes(),
                (OBSERVABILITY / name).read_bytes(),
                f"cp {OBSERVABILITY / name} {copy}",
            )


class Chart(Asked):
    """What the chart makes of these files."""

    def setUp(self):
        skip_without_helm()
        super().setUp()
        self.objects = rendered(values_file("everything"))

    def test_its_alerts_are_those_of_the_release(self):
        [rules] = of_kind(self.objects, "PrometheusRule")
        text = yaml.safe_dump(rules["spec"], width=1000)
        self.assertNotIn('job="imagenet-', text)
        done = self.verdict(text, of_the_release((OBSERVABILITY / "rules.test.yaml").read_text()))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        source = yaml.safe_load(of_the_release((OBSERVABILITY / "rules.yaml").read_text()))
        self.assertEqual(rules["spec"], source)

    def test_every_query_of_its_dashboard_is_valid(self):
        [board] = [
            found
            for found in of_kind(self.objects, "ConfigMap")
            if "dashboard" in found["metadata"]["name"]
        ]
        [text] = board["data"].values()
        self.assert_valid(
            [
                one.replace("$__rate_interval", "1m").replace("$namespace", NAMESPACE)
                for one in queries(text)
            ]
        )


if __name__ == "__main__":
    unittest.main()
