"""An upgrade keeps what the first installation has generated: Helm asks a server, here one that knows a single Secret."""

import json
import threading
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml
from chart import CHART, NAMESPACE, RELEASE, Object, helm, one, rendered, skip_without_helm, texts, values_file
from tools import helms

setUpModule = skip_without_helm

NAME = f"{RELEASE}-trust"
PATH = f"/api/v1/namespaces/{NAMESPACE}/secrets/{NAME}"
KINDS = {
    "v1": ["Secret", "ConfigMap", "Service", "ServiceAccount", "PersistentVolumeClaim", "Pod"],
    "apps/v1": ["StatefulSet", "Deployment"],
    "batch/v1": ["Job"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
    "cert-manager.io/v1": ["Issuer", "Certificate"],
}
NOT_FOUND = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}


def discovery() -> dict[str, Object]:
    """What there is to be asked for: by path, as a client asks before anything else."""
    answers = {
        "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
    }
    groups = []
    for version, kinds in KINDS.items():
        names = {kind: kind.lower().removesuffix("y") + ("ies" if kind.endswith("y") else "s") for kind in kinds}
        resources = [
            {"name": name, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": ["get"]}
            for kind, name in names.items()
        ]
        root = "/api" if version == "v1" else "/apis"
        answers[f"{root}/{version}"] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        group, _, number = version.rpartition("/")
        if group:
            known = {"groupVersion": version, "version": number}
            groups.append({"name": group, "versions": [known], "preferredVersion": known})
    answers["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    return answers


class Server:
    """As much of a Kubernetes API as `lookup` asks for."""

    def __init__(self, secret: Object | None):
        answers = discovery() | ({PATH: secret} if secret else {})
        self.asked = asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.partition("?")[0]
                asked.append(path)
                body = json.dumps(answers.get(path, NOT_FOUND)).encode()
                self.send_response(200 if path in answers else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def secret(self, version: str, values: str) -> Object:
        """The chart's Secret, rendered with what the server has."""
        url = f"http://127.0.0.1:{self.server.server_port}"
        server = ["--dry-run=server", "--disable-openapi-validation", "--kube-apiserver", url]
        done = helm(["template", RELEASE, CHART, "-n", NAMESPACE, "-f", values_file(values), *server], version)
        assert done.returncode == 0, done.stderr
        return one([found for found in yaml.safe_load_all(done.stdout) if found], "Secret", NAME)


class Upgrade(unittest.TestCase):
    def installed(self, values: str) -> Object:
        """The Secret as a cluster has it."""
        made = one(rendered(values_file(values)), "Secret", NAME)
        owner = {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": NAMESPACE}
        metadata = made["metadata"] | {"namespace": NAMESPACE, "annotations": owner}
        return made | {"metadata": metadata}

    def test_certificate_and_tokens_stay(self):
        for version in helms():
            for values in ("defaults", "tls"):
                with self.subTest(helm=version, values=values):
                    before = self.installed(values)
                    with Server(before) as server:
                        after = server.secret(version, values)
                    self.assertIn(PATH, server.asked)
                    self.assertEqual(after["data"], before["data"])

    def test_they_are_made_where_there_are_none_or_not_all(self):
        half = self.installed("tls")
        for version in helms():
            for secret in (None, half):
                with self.subTest(helm=version, has=secret and set(secret["data"])), Server(secret) as server:
                    after = server.secret(version, "defaults")
                    self.assertIn(PATH, server.asked)
                    self.assertIn("BEGIN CERTIFICATE", texts(after)["server.pem"])


if __name__ == "__main__":
    unittest.main()
