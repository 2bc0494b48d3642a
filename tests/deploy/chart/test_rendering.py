"""Every values file of the chart renders to valid objects of Kubernetes and the operators, with
both versions of Helm."""

import json
import logging
import subprocess
import sys
import tomllib
import unittest
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml
from chart import (
    CHART,
    NAMESPACE,
    RELEASE,
    ROOT,
    VALUES,
    helm,
    rendered,
    skip_without_helm,
    template,
)
from tools import helms

KUBERNETES = ("1.29", "1.33", "1.37")
# Kinds of operators, for which Kubernetes has no schema.
SCHEMAS = {
    path.stem: json.loads(path.read_text())
    for path in Path(__file__).with_name("schemas").glob("*.json")
}

setUpModule = skip_without_helm


def problem(found: dict, version: str) -> str | None:
    """The reason why an object is invalid, or None."""
    try:
        if found["kind"] in SCHEMAS:
            jsonschema.validate(found, SCHEMAS[found["kind"]])
        else:
            kubernetes_validate.validate(found, version, strict=True)
    except (
        jsonschema.ValidationError,
        kubernetes_validate.ValidationError,
        kubernetes_validate.SchemaNotFoundError,
    ) as error:
        return str(error.args[0] if error.args else error)
    return None


class Rendering(unittest.TestCase):
    def test_there_is_a_helm_of_each_major_version(self):
        self.assertEqual([version[:2] for version in sorted(helms())], ["v3", "v4"])

    def test_lint_reports_nothing(self):
        for version in helms():
            for path in [None, *VALUES]:
                with self.subTest(helm=version, values=path and path.name):
                    given = ["-f", path] if path else []
                    done = helm(["lint", "--strict", CHART, *given], version)
                    self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_every_values_file_becomes_objects_that_kubernetes_knows(self):
        self.assertGreaterEqual(len(VALUES), 6)
        kinds = set()
        for version in helms():
            for path in VALUES:
                objects = template([path], version=version)
                kinds |= {found["kind"] for found in objects}
                for kubernetes in KUBERNETES:
                    for found in objects:
                        with self.subTest(
                            helm=version,
                            values=path.name,
                            kubernetes=kubernetes,
                            kind=found["kind"],
                        ):
                            self.assertIsNone(problem(found, kubernetes))
        self.assertGreaterEqual(
            kinds, {*SCHEMAS, "StatefulSet", "Job", "Deployment", "Pod", "PersistentVolumeClaim"}
        )

    def test_both_versions_of_helm_render_the_same(self):
        for path in VALUES:
            # Generated secrets differ each time.
            each = [
                [found for found in template([path], version=version) if found["kind"] != "Secret"]
                for version in helms()
            ]
            with self.subTest(values=path.name):
                self.assertEqual(each[0], each[1])

    def test_a_wrong_object_is_found(self):
        objects = {found["kind"]: found for path in VALUES for found in rendered(path)}
        objects["Job"]["spec"]["parallelism"] = "three"
        objects["StatefulSet"]["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
        objects["ServiceMonitor"]["spec"]["endpoints"][0]["targetport"] = "http"
        objects["Certificate"]["spec"].pop("issuerRef")
        objects["PrometheusRule"]["spec"]["groups"][0]["rules"][0]["for"] = 5
        for kind in ("Job", "StatefulSet", "ServiceMonitor", "Certificate", "PrometheusRule"):
            self.assertIsNotNone(problem(objects[kind], KUBERNETES[-1]), kind)
        self.assertIsNone(problem(objects["Service"], KUBERNETES[-1]))

    def test_everything_is_in_the_namespace_and_named_after_the_release(self):
        for path in VALUES:
            for found in rendered(path):
                self.assertIn(found["metadata"].get("namespace", NAMESPACE), [NAMESPACE])
                name = found["metadata"]["name"]
                self.assertTrue(name.startswith(RELEASE) or found["kind"] == "ServiceAccount", name)

    def test_names_stay_host_names_with_a_long_release_name(self):
        release = "r" + "-long" * 10
        done = helm(
            [
                "template",
                release,
                CHART,
                "-f",
                CHART / "ci/local-disks-values.yaml",
                "--set",
                "workers.count=1000",
            ]
        )
        objects = [found for found in yaml.safe_load_all(done.stdout) if found]
        # The pods of a Job append their number, those of a StatefulSet too.
        longest = max((found["metadata"]["name"] for found in objects), key=len)
        self.assertLessEqual(len(longest), 63 - len("-0"), longest)

    def test_the_notes_say_how_to_watch_it(self):
        for path in VALUES:
            done = helm(
                [
                    "install",
                    RELEASE,
                    CHART,
                    "--dry-run=client",
                    "--namespace",
                    NAMESPACE,
                    "-f",
                    path,
                ]
            )
            notes = done.stdout.partition("\nNOTES:\n")[2]
            self.assertIn(
                "exec -it imagenet-coordinator-0 -- /usr/local/bin/coordinator status --watch",
                notes,
                done.stderr,
            )
            # Without it an upgrade discards the values of the installation.
            self.assertRegex(
                notes, r"upgrade imagenet CHART --reuse-values --set job\.attempt=[23]\n"
            )
            self.assertEqual("WARNING" in notes, path.name.startswith("insecure"))
            self.assertNotIn("<no value>", notes)


class Documents(unittest.TestCase):
    def test_the_list_of_values_is_made_from_the_comments(self):
        done = subprocess.run(
            [sys.executable, CHART / "values_table.py"], capture_output=True, text=True
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_every_value_has_its_place_in_the_schema(self):
        """The schema allows exactly the values in the values file."""

        def paths(values: dict, schema: dict, at: str = "") -> set[str]:
            known = schema.get("properties")
            if not isinstance(values, dict) or known is None:
                return {at}
            self.assertIs(schema.get("additionalProperties"), False, f"{at} must be closed")
            self.assertEqual(set(known) - {"global"}, set(values), at)
            return set().union(*(paths(values[key], known[key], f"{at}.{key}") for key in values))

        values = yaml.safe_load((CHART / "values.yaml").read_text())
        schema = json.loads((CHART / "values.schema.json").read_text())
        self.assertGreater(len(paths(values, schema)), 70)

    def test_the_chart_is_of_this_version(self):
        workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"][
            "version"
        ]
        self.assertEqual(
            yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"], workspace
        )


logging.disable(logging.WARNING)

if __name__ == "__main__":
    unittest.main()
