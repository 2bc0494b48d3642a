#!/usr/bin/env python3
"""A worker in Python: shows that a foreign client needs only `coordinator.proto`.

    python3 -m venv venv && venv/bin/pip install -r tests/python_client/requirements.txt
    venv/bin/python tests/python_client/client.py --connect 127.0.0.1:50051

It downloads nothing. It leases three classes of a job that another worker processes too: it reports
one as published and one as failed, releases the third, and watches the job to its end. It prints
its leases and results, one JSON object per line. Any violation of the protocol ends it with an
AssertionError. Stubs are generated at the start, with grpcio-tools.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parents[2] / "proto" / "coordinator.proto"
# Deadline of each call; Acquire is a long poll of up to 20 seconds.
SECONDS = 10
LONG_POLL = 30
JOB = 60


def generate(proto: Path, folder: str):
    """Generates and imports the stubs, as `python -m grpc_tools.protoc` does."""
    code = protoc.main(
        [
            "protoc",
            f"-I{proto.parent}",
            f"--python_out={folder}",
            f"--grpc_python_out={folder}",
            proto.name,
        ]
    )
    assert code == 0, f"protoc ended with {code}"
    sys.path.insert(0, folder)
    import coordinator_pb2
    import coordinator_pb2_grpc

    return coordinator_pb2, coordinator_pb2_grpc


def say(**what) -> None:
    print(json.dumps(what), flush=True)


def check_health(channel: grpc.Channel) -> None:
    """Calls the health service as `grpc_health_probe` and Kubernetes do: for the server, the
    service, and an unknown service."""
    health = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for reply in health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=SECONDS):
        # The server may have started a moment ago.
        if reply.status == serving:
            break
    for service in ["", "imagenet.v1.Coordinator"]:
        reply = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS)
        assert reply.status == serving, (service, reply)
    assert (
        refused(
            lambda: health.Check(health_pb2.HealthCheckRequest(service="unknown"), timeout=SECONDS)
        )
        == grpc.StatusCode.NOT_FOUND
    )


def refused(call) -> grpc.StatusCode:
    """The status with which a call is rejected."""
    try:
        reply = call()
    except grpc.RpcError as error:
        return error.code()
    raise AssertionError(f"it was not refused: {reply}")


class Worker:
    """One worker session."""

    def __init__(self, pb, stub, name: str):
        self.pb, self.stub, self.name = pb, stub, name
        # Distinguishes this process from another one of the same name.
        self.nonce = os.urandom(16)
        self.held: dict[str, int] = {}
        self.session = self.epoch = 0

    def holds(self):
        """Every call contains the full list of held leases."""
        return [self.pb.Held(wnid=wnid, token=token) for wnid, token in self.held.items()]

    def register(self, version: int = 1):
        request = self.pb.RegisterRequest(
            protocol_version=version,
            worker_name=self.name,
            instance_nonce=self.nonce,
            slots=3,
            build="python",
            held=self.holds(),
        )
        reply = self.stub.Register(request, timeout=SECONDS)
        self.session, self.epoch = reply.session_id, reply.epoch
        return reply

    def renew(self, session: int | None = None):
        request = self.pb.RenewRequest(
            session_id=self.session if session is None else session, held=self.holds()
        )
        return self.stub.Renew(request, timeout=SECONDS)

    def acquire(self, most: int):
        request = self.pb.AcquireRequest(session_id=self.session, max=most, held=self.holds())
        reply = self.stub.Acquire(request, timeout=LONG_POLL)
        for lease in reply.leases:
            assert lease.wnid not in self.held, f"{lease.wnid} is leased already"
            assert lease.token >> 32 == self.epoch, f"the token of {lease.wnid} is of another epoch"
            self.held[lease.wnid] = lease.token
        return reply

    def report(self, wnid: str, token: int, outcome):
        result = self.pb.Result(wnid=wnid, token=token, outcome=outcome)
        reply = self.stub.Report(
            self.pb.ReportRequest(session_id=self.session, results=[result]), timeout=SECONDS
        )
        assert list(reply.acked) == [wnid], reply
        self.held.pop(wnid, None)
        return reply.status

    def leave(self) -> None:
        self.stub.Leave(self.pb.LeaveRequest(session_id=self.session), timeout=SECONDS)
        self.held.clear()


def watch(stub, pb, until):
    """Watches the counts of the job until they match; at any time they add up to the total."""
    status = None
    for status in stub.Watch(pb.WatchRequest(), timeout=JOB):
        parts = status.success + status.skipped + status.failed + status.leased + status.pending
        assert parts == status.total, f"the counts do not add up: {status}"
        if until(status):
            return status
    raise AssertionError(f"the job ended at {status}")


def run(worker: Worker, stub, pb) -> None:
    assert refused(lambda: worker.register(version=0)) == grpc.StatusCode.FAILED_PRECONDITION
    first = worker.register()
    assert first.session_id and first.epoch and "{wnid}" in first.job.url_template, first
    assert first.renew_ms * 2 < first.ttl_ms, first
    again = worker.register()
    assert (again.session_id, again.epoch) == (first.session_id, first.epoch), (
        "the same process got two sessions"
    )
    directives = pb.Directive
    assert worker.renew(session=first.session_id + 1).directive == directives.DIRECTIVE_REREGISTER

    acquired = worker.acquire(3)
    assert len(worker.held) == 3 and not acquired.status.done, acquired
    say(holds=sorted(worker.held))
    renewed = worker.renew()
    assert (
        renewed.directive == directives.DIRECTIVE_CONTINUE
        and not renewed.drop_leases
        and renewed.epoch == first.epoch
    ), renewed

    # The other worker completes the rest of the job.
    watch(
        stub, pb, lambda status: status.pending == 0 and status.leased == 3 and status.workers == 2
    )
    assert not worker.renew().drop_leases, "a lease was lost although it was renewed"

    published, failed, released = sorted(worker.held)
    tokens = dict(worker.held)
    success = pb.Outcome(success=pb.Published(files=1, bytes=10240))
    failure = pb.Outcome(
        failure=pb.Failure(
            kind=pb.FAILURE_KIND_HTTP_ERROR,
            message="404 Client Error: from Python",
            suspect=pb.SUSPECT_CLASS,
        )
    )
    before = worker.report(published, tokens[published], success)
    # As after a lost answer: the repeated report is acknowledged and counts once.
    assert worker.report(published, tokens[published], success).success == before.success
    # A failure of a settled class is ignored.
    assert worker.report(published, tokens[published], failure).success == before.success
    # A failure from a worker that does not hold the lease is ignored, too.
    assert worker.report(failed, tokens[failed] - 1, failure).failed == 0
    assert worker.report(failed, tokens[failed], failure).failed == 1
    assert refused(lambda: worker.report("../etc", 0, success)) == grpc.StatusCode.INVALID_ARGUMENT
    assert worker.renew().directive == directives.DIRECTIVE_CONTINUE
    worker.leave()
    assert worker.renew().directive == directives.DIRECTIVE_REREGISTER
    done = watch(stub, pb, lambda status: status.done)
    say(
        published=published,
        failed=failed,
        released=released,
        success=done.success,
        skipped=done.skipped,
        failures=done.failed,
        total=done.total,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connect", required=True, metavar="HOST:PORT")
    parser.add_argument("--name", default="python")
    parser.add_argument("--proto", type=Path, default=PROTO)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pb, grpc_stubs = generate(options.proto, folder)
        with grpc.insecure_channel(options.connect) as channel:
            check_health(channel)
            stub = grpc_stubs.CoordinatorStub(channel)
            run(Worker(pb, stub, options.name), stub, pb)


if __name__ == "__main__":
    main()
