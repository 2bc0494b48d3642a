"""The image from already built programs, and the unchanged Compose file, on a real engine.

    deploy/static-build && python3 -m unittest discover --verbose tests/deploy/docker

Needs root and Debian's docker.io, docker-compose and iptables; no registry is used.
"""

import json
import os
import subprocess
import tempfile
import tomllib
import unittest
from pathlib import Path
from unittest import mock

from engine import REPOSITORY, Engine, Failed, run, wait_until, why_not

IMAGE = "imagenet-downloader"
USER = 65532
LARGEST = 40_000_000
REVISION = "0123abc"
SOURCE = "https://example.org/imagenet-downloader"
CLASSES = {
    line.split(",")[0] for line in (REPOSITORY / "deploy/demo.csv").read_text().splitlines()[1:]
}
MISSING = "n99999999"
# Long enough that each fault happens during the job, with a short lease for short waits.
PACE = {"CLASS_TAKES": "30s", "LEASE_TTL": "5s"}
# Seconds until a silent worker is lost: the lease, and the additional time that a coordinator
# grants.
LOST_AFTER = 5 + 10
# Deadline in seconds for steps that take a few seconds on an idle machine.
PATIENCE = 120.0

engine: Engine


def setUpModule():
    global engine
    if reason := why_not():
        raise unittest.SkipTest(reason)
    engine = unittest.enterModuleContext(Engine(PACE))
    engine.docker(
        "build",
        "--tag",
        IMAGE,
        "--build-arg",
        f"REVISION={REVISION}",
        "--build-arg",
        f"SOURCE={SOURCE}",
        REPOSITORY / "target/image",
    )


class TheImage(unittest.TestCase):
    """The properties of the image that the Dockerfile promises."""

    def test_is_small_runs_as_an_unprivileged_user_and_has_labels(self):
        image = json.loads(engine.docker("inspect", IMAGE))[0]
        print(f"the image has {image['Size'] / 1e6:.1f} MB", flush=True)
        self.assertLess(image["Size"], LARGEST)
        self.assertEqual(image["Config"]["User"], f"{USER}:{USER}")
        labels = {
            name.removeprefix("org.opencontainers.image."): text
            for name, text in image["Config"]["Labels"].items()
        }
        version = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["workspace"]["package"][
            "version"
        ]
        found = (labels["version"], labels["revision"], labels["source"], labels["licenses"])
        self.assertEqual(found, (version, REVISION, SOURCE, "MIT"))

    def test_both_programs_run_with_nothing_at_all(self):
        least = ["run", "--rm", "--read-only", "--cap-drop", "ALL", "--network", "none", IMAGE]
        for program in ("coordinator", "worker"):
            self.assertIn(program, engine.docker(*least, program, "--version"))
        with self.assertRaisesRegex(Failed, "executable file not found"):
            engine.docker(*least, "sh")

    def test_a_folder_of_the_host_is_written_by_its_owner(self):
        with tempfile.TemporaryDirectory() as folder:
            os.chown(folder, 1000, 1000)
            with self.assertRaises(Failed) as ended:
                engine.docker(
                    "run",
                    "--rm",
                    "--read-only",
                    "--cap-drop",
                    "ALL",
                    "--network",
                    "none",
                    "--user",
                    "1000:1000",
                    "--volume",
                    f"{folder}:/data",
                    IMAGE,
                    "coordinator",
                    "--demo",
                )
            # The exit code of a demo, which has a missing class.
            self.assertIn("ended with 1\n", str(ended.exception))
            classes = {
                each.name: each.stat().st_uid
                for each in Path(folder, "images").iterdir()
                if each.is_dir()
            }
            self.assertEqual([each.name for each in Path(folder).iterdir()], ["images"])
            self.assertEqual(classes, dict.fromkeys(CLASSES - {MISSING}, 1000))

    def test_the_programs_need_no_library_and_cannot_be_written(self):
        container = engine.docker("create", IMAGE)
        listing = subprocess.run(
            f"docker export {container} | tar --list --verbose --numeric-owner",
            shell=True,
            check=True,
            env=engine.environment,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        engine.docker("rm", container)
        files = {
            words[5]: words for words in map(str.split, listing.splitlines()) if len(words) == 6
        }
        programs = {name for name, words in files.items() if words[0].startswith("-rwx")}
        # The files that the engine adds to each container are below dev and etc.
        programs = {name for name in programs if name.startswith("usr/")}
        self.assertEqual(programs, {"usr/local/bin/coordinator", "usr/local/bin/worker"})
        ours = {name: (words[0], words[1]) for name, words in files.items() if words[1] != "0/0"}
        owner = f"{USER}/{USER}"
        self.assertEqual(
            ours, {f"{name}/": ("drwxr-xr-x", owner) for name in ("data", "join", "trust")}
        )


class AMistake(unittest.TestCase):
    """A mistake is reported at once, and leaves no files."""

    def test_a_list_that_is_not_there(self):
        self.addCleanup(engine.compose, "down", "--volumes")
        with tempfile.TemporaryDirectory() as folder:
            missing = Path(folder) / "data.csv"
            with (
                mock.patch.dict(engine.environment, CLASSES=str(missing)),
                self.assertRaisesRegex(Failed, f"exist: {missing}"),
            ):
                engine.compose("up", "--detach", "--no-build", "coordinator")
            self.assertFalse(missing.exists(), "a folder in the place of the list")


class TheComposeFile(unittest.TestCase):
    """One job with several faults."""

    def setUp(self):
        self.addCleanup(engine.compose, "down", "--volumes")
        engine.compose("up", "--detach", "--no-build")

    def test_a_job_survives_what_happens_to_its_containers(self):
        self.wait_for(
            "three workers with something to do, and a class",
            lambda job: (
                job["success"] and [each["leased"] > 0 for each in job["workers"]] == [True] * 3
            ),
        )
        killed, cut_off, stays = engine.containers("worker")
        for service in ("coordinator", "origin", "worker"):
            for container in engine.containers(service):
                self.assert_confined(container)
        self.assert_holds_the_workers_token_alone(stays)
        wait_until("it is ready", lambda: engine.fetch("http://127.0.0.1:8080/readyz") == "ok")
        first = self.status()

        engine.docker("kill", killed)
        engine.docker("network", "disconnect", "imagenet_default", cut_off)
        # The engine restarts the killed process, which waits for the workers with sessions.
        (crashed,) = engine.containers("coordinator")
        run("kill", "-KILL", engine.inspect(crashed, "{{.State.Pid}}"))
        self.wait_for(
            "the coordinator is there again", lambda job: job["epoch"] == first["epoch"] + 1
        )
        self.assertEqual(engine.inspect(crashed, "{{.RestartCount}}"), "1")
        # The container is replaced during that wait.
        engine.compose("rm", "--force", "--stop", "coordinator")
        engine.compose("up", "--detach", "--no-build", "coordinator")
        self.assertNotEqual(engine.containers("coordinator"), [crashed])
        self.wait_for(
            "the one that is left goes on alone, with what the others held",
            lambda job: names(job) == {stays[:12]} and job["phase"] == "running",
            within=LOST_AFTER + PATIENCE,
        )
        self.assertEqual(engine.inspect(cut_off, "{{.State.Running}}"), "true")
        engine.docker("network", "connect", "imagenet_default", cut_off)
        self.wait_for(
            "who was cut off is back", lambda job: names(job) == {stays[:12], cut_off[:12]}
        )

        done = self.wait_for("the end", lambda job: job["phase"] == "done" and job, within=600)
        counts = [
            done[each] for each in ("success", "skipped", "failed", "leased", "pending", "total")
        ]
        self.assertEqual(counts, [len(CLASSES) - 1, 0, 1, 0, 0, len(CLASSES)])
        self.assertEqual((done["run_id"], done["epoch"]), (first["run_id"], first["epoch"] + 2))
        self.assert_complete()
        wait_until(
            "workers end with 0 when the job is done",
            lambda: self.ended(cut_off, stays) == ["0", "0"],
        )
        self.assertEqual(self.ended(killed), ["137"])

        # Start again with all workers: no class is started again, and the origin receives no
        # request.
        engine.compose("stop", "coordinator")
        self.assertEqual(
            self.ended(*engine.containers("coordinator")),
            ["1"],
            "the job's, of which a class is missing",
        )
        engine.compose("up", "--detach", "--no-build")
        again = self.wait_for("the finished run", lambda job: job["phase"] == "done" and job)
        self.assertEqual(
            [again[each] for each in ("run_id", "success", "total")],
            [done[each] for each in ("run_id", "success", "total")],
        )
        wait_until(
            "all workers end with 0", lambda: self.ended(*engine.containers("worker")) == ["0"] * 3
        )

    def status(self) -> dict:
        (coordinator,) = engine.containers("coordinator")
        return json.loads(
            engine.docker(
                "exec",
                coordinator,
                "coordinator",
                "status",
                "--json",
                "--connect",
                "https://localhost:50051",
                "--token-file",
                "/trust/viewer.token",
            )
        )

    def wait_for(self, what: str, reached, within: float = PATIENCE):
        """The first true result of `reached` for the job's status."""
        found = wait_until(what, lambda: reached(self.status()), within)
        print(f"  {what}", flush=True)
        return found

    def ended(self, *containers: str) -> list[str]:
        """The exit codes; a dash for a running container."""
        return [
            engine.inspect(each, "{{if .State.Running}}-{{else}}{{.State.ExitCode}}{{end}}")
            for each in containers
        ]

    def assert_confined(self, container: str):
        """Checks the confinement in the kernel, not in the engine."""
        process = Path("/proc") / engine.inspect(container, "{{.State.Pid}}")
        fields = dict(
            line.split(":\t", 1)
            for line in (process / "status").read_text().splitlines()
            if ":\t" in line
        )
        self.assertEqual(fields["Uid"].split() + fields["Gid"].split(), [str(USER)] * 8)
        self.assertEqual(
            {int(fields[each], 16) for each in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")},
            {0},
        )
        self.assertEqual((fields["NoNewPrivs"], fields["Seccomp"]), ("1", "2"))
        root = next(
            line.split()
            for line in (process / "mountinfo").read_text().splitlines()
            if line.split()[4] == "/"
        )
        self.assertIn("ro", root[5].split(","))

    def assert_holds_the_workers_token_alone(self, worker: str):
        volumes = {
            each["Destination"]: each
            for each in json.loads(engine.inspect(worker, "{{json .Mounts}}"))
        }
        self.assertEqual(set(volumes), {"/data", "/join"})
        self.assertFalse(volumes["/join"]["RW"])
        self.assertEqual(
            [each.name for each in Path(volumes["/join"]["Source"]).iterdir()], ["worker.token"]
        )

    def assert_complete(self):
        """Checks that all classes but the missing one match their manifests, and that no other
        files are left."""
        output = engine.compose("run", "--rm", "verify")
        there = len(CLASSES) - 1
        self.assertIn(f"{there} classes: {there} right, 0 different, 0 not proved;", output)
        images, state = (
            Path(
                engine.docker(
                    "volume", "inspect", "--format", "{{.Mountpoint}}", f"imagenet_{name}"
                )
            )
            for name in ("images", "state")
        )
        self.assertEqual([each.name for each in images.iterdir()], ["images"])
        self.assertEqual(
            {each.name for each in (images / "images").iterdir() if each.is_dir()},
            CLASSES - {MISSING},
        )
        failures = (state / "failed_downloads.log").read_text().splitlines()
        self.assertEqual([line.split(":")[0] for line in failures], [f"{MISSING} - HTTPError"])


def names(job: dict) -> set[str]:
    """The names of the workers, which are the first characters of their containers' ids."""
    return {each["name"] for each in job["workers"]}


if __name__ == "__main__":
    unittest.main(verbosity=2)
