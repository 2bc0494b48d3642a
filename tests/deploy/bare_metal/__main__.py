"""Tests deploy/bare-metal.md: runs its blocks unchanged, on hosts made of namespaces, each with its
own booted systemd. After each block the promised results are checked.

    cargo build --locked -p coordinator -p worker -p tests --bins
    sudo python3 tests/deploy/bare_metal

The origin is the scripted one, with the host name of ImageNet and a certificate that the nodes
trust. Nothing on the machine changes. The only network access outside is a single download of the
packages of an SSH server, which are unpacked below target/.

Exit code: 0 (also with one line with the reason why it was skipped), 1 if the page is wrong or a
promised result is missing.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from hosts import Host, HostError, Network, Node
from origin import NAME, Origin, make_tars
from page import Block, PageError, blocks
from sshd import Sshd
from story import Story

REPOSITORY = Path(__file__).resolve().parents[3]
BUILD = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")).resolve()
HOME = "your machine"
NODES = ("node1", "node2")
# One class more is used for another list.
CLASSES = 160
# Slow enough that the job still runs at the last block of the page.
BYTES_A_SECOND = 15_000
NEEDS = (
    "ip",
    "unshare",
    "nsenter",
    "systemd-analyze",
    "nginx",
    "openssl",
    "ssh",
    "scp",
    "ssh-keygen",
    "man",
    "curl",
    "ps",
)


def your_machine(network: Network, space: str, sshd: Sshd) -> Host:
    """The machine itself, in the network of the nodes: the checkout with a `data.csv` in it, and a
    separate home folder. Files written to the checkout outside of target/ are discarded
    afterwards."""
    folder = network.folder / "home"
    folder.mkdir()
    etc = Path("/etc/netns") / space
    sshd.client(etc)
    (etc / "hosts").write_text(network.etc_hosts())
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")
    lines = "".join(f"n{number:08},class {number}\n" for number in range(1, CLASSES + 1))
    (folder / "data.csv").write_text(f"wnid,name\n{lines}")
    enter = (
        'mount --make-rprivate / && mount -t tmpfs checkout "$2" && '
        'mkdir "$2"/upper "$2"/work "$2"/target && '
        '{ [ ! -d "$1/target" ] || mount --bind "$1/target" "$2/target"; } && '
        'cp "$HOME/data.csv" "$2/upper" && '
        'mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" checkout "$1" && '
        'mkdir -p "$1/target" && mount --bind "$2/target" "$1/target" && '
        'cd "$1" && shift 2 && exec "$@"'
    )
    mount = network.folder / "checkout"
    mount.mkdir()
    real = Path.home()
    # The page's programs without optimization, which takes most of the build time. They are in a
    # separate folder so that they are not mistaken for release builds.
    quick = {
        "CARGO_TARGET_DIR": str(BUILD / "unoptimized"),
        "CARGO_PROFILE_RELEASE_OPT_LEVEL": "0",
        "CARGO_PROFILE_RELEASE_LTO": "off",
        "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
    }
    environment = {
        **os.environ,
        **quick,
        "HOME": str(folder),
        "CARGO_NET_OFFLINE": "true",
        "CARGO_HOME": os.environ.get("CARGO_HOME", str(real / ".cargo")),
        "RUSTUP_HOME": os.environ.get("RUSTUP_HOME", str(real / ".rustup")),
    }
    inside = [
        "ip",
        "netns",
        "exec",
        space,
        "unshare",
        "--mount",
        "bash",
        "-euc",
        enter,
        "enter",
        REPOSITORY,
        mount,
    ]
    return Host(HOME, inside, environment)


def follow(page: list[Block], hosts: dict[str, Host], story: Story) -> None:
    """Runs all blocks, and the check of each after it."""
    checks = dict(story.after)
    for block in page:
        for name in block.hosts:
            began = time.monotonic()
            hosts[name].must(block.commands)
            print(f"{block}, on {name}: {time.monotonic() - began:.1f} s", flush=True)
        check = checks.pop((block.heading, block.number), None)
        if check:
            check()
            print(f"    {check.__name__.replace('_', ' ')}", flush=True)
    if checks:
        absent = ", ".join(f"{number} in {heading}" for heading, number in checks)
        raise PageError(f"the page has no block {absent}")


def run(page: Path) -> None:
    """Runs the whole page."""
    steps = blocks(page.read_text(), {HOME, *NODES})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bare-metal-")))
        network = stack.enter_context(Network(folder))
        images = make_tars(folder / "tars", [f"n{number:08}" for number in range(1, CLASSES + 2)])
        program = BUILD / "debug/origin"
        origin = Origin(
            network.plug_in(NAME), folder / "origin", folder / "tars", program, BYTES_A_SECOND
        )
        stack.enter_context(origin)
        sshd = Sshd(folder / "ssh", BUILD / "bare_metal")
        nodes = [
            stack.enter_context(Node(network, name, sshd, origin.certificate)) for name in NODES
        ]
        home = your_machine(network, network.plug_in("yours"), sshd)
        began = time.monotonic()
        for node in nodes:
            node.boot(network)
        print(f"two nodes have booted: {time.monotonic() - began:.1f} s", flush=True)
        follow(
            steps,
            {HOME: home, **dict(zip(NODES, nodes, strict=True))},
            Story(*nodes, origin, images),
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bare_metal", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--page",
        type=Path,
        default=REPOSITORY / "deploy/bare-metal.md",
        help="another page than the one",
    )
    page = parser.parse_args().page
    missing = [need for need in NEEDS if not shutil.which(need)]
    if os.geteuid() or missing or not Path("/lib/systemd/systemd").exists():
        print(
            "skipped: the hosts of the page need root, systemd and "
            f"{', '.join(missing) or 'nothing else'}"
        )
        return 0
    # SIGTERM then removes all hosts, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run(page)
    except (HostError, PageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
