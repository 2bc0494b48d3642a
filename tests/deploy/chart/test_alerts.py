"""The alerts and the queries of the dashboard, checked with `promtool` from Debian's package."""

import json
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml
from chart import of_kind, rendered, skip_without_helm, values_file
from tools import TARGET

PROMTOOL = TARGET / "chart" / "prometheus" / "usr" / "bin" / "promtool"


def promtool() -> Path:
    found = PROMTOOL if PROMTOOL.is_file() else shutil.which("promtool")
    if not found:
        raise unittest.SkipTest(
            "no promtool; "
            f"apt-get download prometheus && dpkg -x prometheus_*.deb {PROMTOOL.parents[2]}"
        )
    return Path(found)


def setUpModule() -> None:
    skip_without_helm()
    promtool()


class Alerts(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.objects = rendered(values_file("everything"))
        [rules] = of_kind(self.objects, "PrometheusRule")
        self.rules = yaml.safe_dump(rules["spec"])

    def ask(self, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run([promtool(), *words], cwd=self.folder, capture_output=True, text=True)

    def verdict(self, rules: str) -> subprocess.CompletedProcess:
        (self.folder / "rules.yaml").write_text(rules)
        shutil.copy(Path(__file__).with_name("alerts.yaml"), self.folder)
        return self.ask("test", "rules", "alerts.yaml")

    def test_each_alert_fires_when_it_should_and_not_before(self):
        done = self.verdict(self.rules)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for old, new in (
            ("[30m]", "[80m]"),
            ("for: 15m", "for: 25m"),
            ("14 * 86400", "13 * 86400"),
            ("> 0", "> 2"),
        ):
            self.assertIn(old, self.rules)
            self.assertEqual(self.verdict(self.rules.replace(old, new)).returncode, 1, new)

    def test_every_query_of_the_dashboard_is_valid(self):
        [board] = [
            found
            for found in of_kind(self.objects, "ConfigMap")
            if "dashboard" in found["metadata"]["name"]
        ]
        [text] = board["data"].values()
        asked = [
            target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"]
        ]
        filled = [
            one.replace("$__rate_interval", "1m").replace("$namespace", "vision") for one in asked
        ]
        records = [
            {"record": f"question{number}", "expr": one} for number, one in enumerate(filled)
        ]
        (self.folder / "board.yaml").write_text(
            yaml.safe_dump({"groups": [{"name": "board", "rules": records}]})
        )
        done = self.ask("check", "rules", "board.yaml")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
