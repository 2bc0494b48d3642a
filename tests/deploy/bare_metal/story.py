"""The checks between the blocks of the page: each method belongs to one block and runs after it."""

import json
import time
from collections.abc import Callable

from hosts import Host, HostError, Node
from origin import Origin

SECONDS_TO_SEE = 120
COORDINATOR, WORKER = "imagenet-coordinator", "imagenet-worker"
STATUS = (
    "coordinator status --json --connect https://node1:50051 "
    "--token-file /etc/imagenet/viewer.token"
)
# Files of a node, without those that systemd and Debian maintain themselves.
FILES = (
    "find /etc /usr/local /root /var/lib -xdev "
    "! -name '*-' ! -name man1 ! -path '/var/lib/systemd*' | sort"
)


class Story:
    """The checks; `after` maps each block to its check."""

    def __init__(
        self, node1: Node, node2: Node, origin: Origin, images: dict[str, dict[str, bytes]]
    ):
        self.node1, self.node2, self.origin, self.images = node1, node2, origin, images
        self.before = {node.name: node.must(FILES) for node in (node1, node2)}
        self.after: dict[tuple[str, int], Callable[[], None]] = {
            ("Install", 2): self.units_are_right,
            ("Start", 1): self.the_coordinator_runs_and_its_secrets_are_its_own,
            ("Start", 2): self.mistakes_are_reported_as_the_page_says,
            ("Start", 3): self.classes_arrive,
            ("Watch", 1): self.killed_programs_resume,
            ("Stop and go on", 1): self.it_is_the_same_run,
            ("Stop and go on", 2): self.classes_arrive,
            ("Stop and go on", 3): self.the_drained_worker_has_ended,
            ("Stop and go on", 4): self.classes_arrive,
            ("Renew", 2): self.the_certificate_is_another,
            ("Renew", 3): self.old_tokens_are_rejected,
            ("Renew", 4): self.the_copy_is_still_the_old_one,
            ("Renew", 5): self.raise_the_rate,
            ("Finish", 1): self.only_another_list_starts_a_new_run,
            ("Finish", 2): self.every_image_is_there,
            ("Remove", 1): self.nothing_is_left_but_the_images,
        }

    def units_are_right(self) -> None:
        for node in (self.node1, self.node2):
            output = node.must(
                f"systemd-analyze verify {COORDINATOR}.service {WORKER}.service 2>&1"
            )
            require(not output, f"verify says: {output}")

    def the_coordinator_runs_and_its_secrets_are_its_own(self) -> None:
        wait(
            "the coordinator answers",
            lambda: self.node1.run(STATUS).returncode == 0,
            lambda: journal(self.node1, COORDINATOR),
        )
        pid = self.active(self.node1, COORDINATOR)
        user = self.node1.must(f"ps --no-headers -o user {pid}")
        require(user == "imagenet", f"it runs as {user}")
        for secret in (
            "/etc/imagenet/server.key",
            f"/run/credentials/{COORDINATOR}.service/server.key",
        ):
            self.node1.must(f"test -s {secret}")
            readable = (
                self.node1.run(f"setpriv --reuid nobody --clear-groups cat {secret}").returncode
                == 0
            )
            require(not readable, f"every user can read {secret}")
        refused = self.node1.run(
            f"setpriv --reuid imagenet --clear-groups cat /etc/imagenet/server.key"
        ).returncode
        require(refused != 0, "the user imagenet can read the key that is for root alone")

    def mistakes_are_reported_as_the_page_says(self) -> None:
        settings, token, target = (
            "/etc/imagenet/worker.env",
            "/etc/imagenet/worker.token",
            "/srv/imagenet",
        )
        for spoil, message, mend in (
            (f"rm {settings}", "Failed to load environment files", ":"),
            (f"echo > {settings}", "--connect <URL>", ":"),
            (f"mv {token} {token}.away", "Failed at step CREDENTIALS", f"mv {token}.away {token}"),
            (
                f"mv {target} {target}.away",
                "Failed at step NAMESPACE",
                f"mv {target}.away {target}",
            ),
            (
                f"chown root: {target}",
                "give a writable folder with --target",
                f"chown imagenet: {target}",
            ),
        ):
            self.node2.must(f"echo IMAGENET_CONNECT=https://node1:50051 > {settings}; {spoil}")
            self.node2.run(f"systemctl start {WORKER}")
            wait(
                f"it says: {message}",
                lambda words=message: words in journal(self.node2, WORKER),
                lambda: journal(self.node2, WORKER),
            )
            self.node2.must(f"systemctl stop {WORKER}; {mend}; rm -f {settings}")

    def classes_arrive(self) -> None:
        wait(
            "a class is under way",
            lambda: any(each["leased"] for each in self.status()["workers"]),
            lambda: journal(self.node2, WORKER),
        )
        pid = self.active(self.node2, WORKER)
        user = self.node2.must(f"ps --no-headers -o user {pid}")
        require(user == "imagenet", f"it runs as {user}")

    def killed_programs_resume(self) -> None:
        self.run_id = self.status()["run_id"]
        self.node1.must(
            "curl --silent --fail http://127.0.0.1:8080/metrics | grep imagenet_build_info"
        )
        for node, unit in ((self.node1, COORDINATOR), (self.node2, WORKER)):
            node.must(f"systemctl kill --signal SIGKILL {unit}")
            wait(
                f"{unit} is started again",
                lambda n=node, u=unit: shown(n, u, "NRestarts", "SubState") == "1 running",
            )
        self.it_is_the_same_run()
        self.classes_arrive()

    def it_is_the_same_run(self) -> None:
        wait("the coordinator answers", lambda: self.node1.run(STATUS).returncode == 0)
        require(self.status()["run_id"] == self.run_id, "another run has begun")

    def the_drained_worker_has_ended(self) -> None:
        self.ends_well(self.node2)

    def the_certificate_is_another(self) -> None:
        self.it_is_the_same_run()
        shown_now = (
            "openssl s_client -connect node1:50051 -alpn h2 </dev/null 2>/dev/null | openssl x509"
        )
        newest = "openssl x509 -in /etc/imagenet/server.pem"
        require(
            self.node1.must(shown_now) == self.node1.must(newest),
            "the coordinator shows the old certificate",
        )
        self.old_token = self.node1.must("cat /etc/imagenet/viewer.token")
        self.old_worker_token = self.node2.must("cat /etc/imagenet/worker.token")
        self.classes_arrive()

    def old_tokens_are_rejected(self) -> None:
        self.it_is_the_same_run()
        with_old = (
            STATUS.replace("/etc/imagenet/viewer.token", "/dev/stdin") + f" <<< {self.old_token}"
        )
        done = self.node1.run(with_old)
        require(
            done.returncode == 2 and "token" in done.stdout,
            f"an old token gets {done.returncode}: {done.stdout}",
        )

    def the_copy_is_still_the_old_one(self) -> None:
        copy = self.node2.must(f"cat /run/credentials/{WORKER}.service/worker.token")
        require(
            copy == self.old_worker_token,
            "the page says that a worker has a copy, which only a restart replaces",
        )
        require(
            self.node2.must("cat /etc/imagenet/worker.token") != copy, "the token is the old one"
        )

    def raise_the_rate(self) -> None:
        self.classes_arrive()
        self.origin.raise_the_rate()

    def only_another_list_starts_a_new_run(self) -> None:
        # The job is done shortly before the worker receives that.
        self.ends_well(self.node2)
        for restart in (
            f"systemctl restart {COORDINATOR}",
            f"systemctl kill --signal SIGKILL {COORDINATOR}",
        ):
            pid = self.active(self.node1, COORDINATOR)
            self.node1.must(restart)
            wait(
                "another process runs",
                lambda p=pid: shown(self.node1, COORDINATOR, "MainPID") not in (p, "0"),
            )
            self.it_is_the_same_run()
            self.counts_are(success=len(self.images) - 1)
        # A worker that starts after the end of the job receives that it is done.
        self.the_worker_starts_and_ends()
        self.counts_are(success=len(self.images) - 1)
        rows = "".join(f"{wnid}\\n" for wnid in self.images)
        self.node1.must(
            f"printf 'wnid\\n{rows}' > /etc/imagenet/data.csv; systemctl restart {COORDINATOR}"
        )
        self.the_worker_starts_and_ends()
        self.counts_are(success=1, skipped=len(self.images) - 1)

    def the_worker_starts_and_ends(self) -> None:
        self.node2.must(f"systemctl start {WORKER}")
        self.ends_well(self.node2)

    def counts_are(self, success: int, skipped: int = 0) -> None:
        status = self.status()
        counts = [status[name] for name in ("success", "skipped", "total", "failed")]
        require(counts == [success, skipped, success + skipped, 0] and status["done"], f"{status}")

    def every_image_is_there(self) -> None:
        for wnid, files in self.images.items():
            for name, content in files.items():
                path = self.node2.outside(f"/srv/imagenet/images/{wnid}/{name}")
                require(path.read_bytes() == content, f"{name} is another")
        owners = self.node2.must("find /srv/imagenet -printf '%u:%g\\n' | sort -u")
        require(owners == "imagenet:imagenet", f"they belong to {owners}")
        folders = self.node2.must(
            "ls --almost-all /srv/imagenet; "
            "ls --almost-all --file-type /srv/imagenet/images | grep /"
        )
        require(
            folders.split() == ["images", *(f"{wnid}/" for wnid in sorted(self.images))],
            f"a loader would find {folders}",
        )
        logs = self.node1.must("cat /var/lib/imagenet/failed_downloads.log")
        require(not logs, f"classes have failed: {logs}")

    def nothing_is_left_but_the_images(self) -> None:
        for node in (self.node1, self.node2):
            now = node.must(FILES)
            left = set(now.splitlines()) ^ set(self.before[node.name].splitlines())
            require(not left, f"{node.name} differs in {sorted(left)}")
            require(node.run("getent passwd imagenet").returncode == 2, "the user is left")
            require(
                node.run("systemctl list-unit-files | grep imagenet").returncode == 1,
                "a unit is left",
            )
        left = self.node2.must("ls /srv/imagenet/images | grep -c '^n'")
        require(left == str(len(self.images)), f"{left} classes are left")

    def status(self) -> dict:
        return json.loads(self.node1.must(STATUS).splitlines()[-1])

    def active(self, node: Host, unit: str) -> str:
        """Checks that the unit runs; returns its process id."""
        state, pid = shown(node, unit, "ActiveState", "MainPID").split()
        require(
            state == "active" and pid != "0",
            f"{unit} on {node.name} is {state}: {journal(node, unit)}",
        )
        return pid

    def ends_well(self, node: Host) -> None:
        wait(
            "its unit has stopped",
            lambda: shown(node, WORKER, "ActiveState") not in ("active", "deactivating"),
            lambda: journal(node, WORKER),
        )
        ended = shown(node, WORKER, "ActiveState", "Result", "ExecMainStatus")
        require(
            ended == "inactive success 0", f"its unit ended as {ended}: {journal(node, WORKER)}"
        )


def require(holds: bool, otherwise: str) -> None:
    """Raises an error with this text unless the condition holds."""
    if not holds:
        raise HostError(otherwise)


def wait(what: str, comes: Callable[[], bool], otherwise: Callable[[], str] = str) -> None:
    """Waits until the condition holds; on a timeout, the error contains the output of
    `otherwise`."""
    until = time.monotonic() + SECONDS_TO_SEE
    while not has_come(comes):
        if time.monotonic() > until:
            raise HostError(f"waited {SECONDS_TO_SEE} s in vain: {what}\n{otherwise()}")
        time.sleep(0.2)


def has_come(comes: Callable[[], bool]) -> bool:
    """Evaluates the condition; a failing command counts as false."""
    try:
        return comes()
    except HostError:
        return False


def shown(node: Host, unit: str, *properties: str) -> str:
    """The values of properties of a unit, in this order."""
    return " ".join(
        node.must(f"systemctl show --value --property {each} {unit}") for each in properties
    )


def journal(node: Host, unit: str) -> str:
    """The last log lines of a unit."""
    return node.run(f"journalctl --no-pager --lines 30 --unit {unit}").stdout
