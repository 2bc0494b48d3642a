//! Redirects between public addresses, on a host that has such addresses (O19, S11, S13). Needs
//! root and iproute2.

use std::{net::Ipv4Addr, time::Duration};

use tests::{
    answer::Answer,
    archives::assert_class_is,
    cluster::{Job, Table},
    hosts::{Host, Network},
    origin::Origin,
    wait::wait_for,
};

use super::{QUICK, WNID, class};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Reserved for documentation (RFC 5737), but outside the private ranges.
const ORIGIN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// A host with these addresses, and an origin at each.
fn public_host() -> Option<(Network, Host, Origin, Origin)> {
    let (network, [host]) = Network::of(["client"])?;
    host.add_address(ORIGIN);
    host.add_address(OTHER);
    let listen = |address| {
        host.on(|| Origin::listen(&format!("{address}:0")))
            .expect("a free port on that host")
    };
    let origin = listen(ORIGIN);
    let other = listen(OTHER);
    Some((network, host, origin, other))
}

fn job(host: &Host, origin: &Origin) -> Job {
    Job::new()
        .classes([WNID])
        .origin(origin)
        .args(QUICK)
        .under(host.command())
}

#[test]
fn a_redirect_to_another_public_host_is_followed_by_address_and_by_name() {
    let Some((_network, host, origin, other)) = public_host() else {
        return;
    };
    host.know(&format!("{OTHER} cdn.test\n"));
    let port = other.address().port();
    for name in [OTHER.to_string(), "cdn.test".to_owned()] {
        origin
            .class(WNID, class())
            .forever(Answer::redirect(&format!(
                "http://{name}:{port}/{WNID}.tar"
            )));
        other.class(WNID, class()).script([Answer::cut_at(50_000)]);
        let job = job(&host, &origin);
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&class(), &job.class_folder(WNID));
    }
    assert_eq!(other.gets(WNID).len(), 4);
}

#[test]
fn a_redirect_from_a_public_host_to_a_private_address_sends_no_packet_there() {
    let Some((_network, host, origin, _other)) = public_host() else {
        return;
    };
    host.know(&format!(
        "{} inside.test\n127.0.0.1 here.test\n",
        host.address
    ));
    let listen = |address: Ipv4Addr| {
        host.on(|| Origin::listen(&format!("{address}:0")))
            .expect("a free port")
    };
    for (private, names) in [
        (
            listen(host.address),
            [host.address.to_string(), "inside.test".to_owned()],
        ),
        (
            listen(Ipv4Addr::LOCALHOST),
            ["localhost".to_owned(), "here.test".to_owned()],
        ),
    ] {
        private.class(WNID, class());
        for name in names {
            let there = format!("http://{name}:{}/{WNID}.tar", private.address().port());
            origin
                .class(WNID, class())
                .forever(Answer::redirect(&there));
            let job = job(&host, &origin);
            job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
            let failure = job.failure_of(WNID);
            let expected = format!(
                "HTTPError: redirect to another host refused: {name} has a private address"
            );
            assert!(failure.starts_with(&expected), "{failure}");
            assert_eq!(private.most_connections(), 0, "{name} was connected to");
        }
    }
}

/// DNS rebinding: the name of a public origin resolves to a private address later in the run.
#[test]
fn the_origins_name_does_not_turn_private_later_in_the_run() {
    const LATER: &str = "n00000002";
    let Some((_network, host, origin, _other)) = public_host() else {
        return;
    };
    let port = origin.address().port();
    for turned in [
        Ipv4Addr::LOCALHOST,
        host.address,
        Ipv4Addr::new(169, 254, 169, 254),
    ] {
        if turned.is_link_local() {
            host.add_address(turned);
        }
        let private = host
            .on(|| Origin::listen(&format!("{turned}:{port}")))
            .expect("the port is free at that address");
        for wnid in [WNID, LATER] {
            private.class(wnid, class());
        }
        host.know(&format!("{ORIGIN} origin.test\n"));
        origin.class(LATER, class());
        // Each class needs its own connection, and the first one stalls until the name is changed.
        origin
            .class(WNID, class())
            .script([Answer::stall_at(50_000).hanging_up()]);
        let args = [
            "--delete-tar",
            "--retries",
            "0",
            "--timeout",
            "20s",
            "--workers",
            "1",
        ];
        let job = Job::new()
            .classes([WNID, LATER])
            .args(args)
            .under(host.command());
        let job = job.url(&format!("http://origin.test:{port}"));
        let running = job.start();
        wait_for("the first class is in progress", TIMEOUT, || {
            origin.gets(WNID).iter().any(|get| get.sent > 0)
        });
        host.know(&format!("{turned} origin.test\n"));
        origin.end_stalls();
        job.assert_ended(&running.wait(), 1, Table::of(1, 0, 1));
        let failure = job.failure_of(LATER);
        assert!(failure.starts_with("ConnectionError: "), "{failure}");
        let why = if turned.is_link_local() {
            "a link-local or reserved address"
        } else {
            "a private address now"
        };
        assert!(
            failure.contains(&format!("origin.test has {why}")),
            "{failure}"
        );
        assert_eq!(private.most_connections(), 0, "{turned} was connected to");
        origin.forget_requests();
    }
}

/// An origin in a private network may redirect within it.
#[test]
fn an_origin_at_a_private_address_may_redirect_to_another_one() {
    let Some((_network, host, _, _)) = public_host() else {
        return;
    };
    let mirror = Ipv4Addr::new(10, 99, 0, 1);
    host.add_address(mirror);
    host.know(&format!(
        "{} origin.test\n{mirror} mirror.test\n",
        host.address
    ));
    let listen = |address| {
        host.on(|| Origin::listen(&format!("{address}:0")))
            .expect("a free port")
    };
    let origin = listen(host.address);
    let other = listen(mirror);
    other.class(WNID, class());
    for name in [mirror.to_string(), "mirror.test".to_owned()] {
        let there = format!("http://{name}:{}/{WNID}.tar", other.address().port());
        origin
            .class(WNID, class())
            .forever(Answer::redirect(&there));
        let job =
            job(&host, &origin).url(&format!("http://origin.test:{}", origin.address().port()));
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    }
}

/// `no_proxy` excludes addresses as well as names.
#[test]
fn no_proxy_with_a_star_bypasses_the_proxy() {
    let Some((_network, host, origin, _other)) = public_host() else {
        return;
    };
    origin.class(WNID, class());
    for (excepted, is_direct) in [("*", true), ("203.0.113.0/24", true), ("other.test", false)] {
        let job = job(&host, &origin)
            .variable("http_proxy", "http://127.0.0.1:9")
            .variable("NO_PROXY", excepted);
        let table = if is_direct {
            Table::of(1, 0, 0)
        } else {
            Table::of(0, 0, 1)
        };
        job.assert_ended(&job.run(), i32::from(!is_direct), table);
    }
}
