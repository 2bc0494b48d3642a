//! Origins that are reached through a proxy.

use tests::{
    answer::Answer,
    archives::assert_class_is,
    cluster::{Job, Table},
    forward_proxy::ForwardProxy,
    origin::Origin,
};

use super::{QUICK, WNID, class};

/// The proxy is the user's own choice, so it may stand at a private address, whatever redirects may not.
#[test]
fn a_proxy_of_a_private_name_reaches_an_origin_that_only_it_knows() {
    let origin = Origin::start();
    for host in ["localhost", "127.0.0.1"] {
        origin.class(WNID, class()).script([Answer::cut_at(50_000)]);
        let authority = format!("origin.test:{}", origin.address().port());
        let proxy = ForwardProxy::start(&authority, origin.address());
        let job = Job::new().classes([WNID]).url(&format!("http://{authority}")).args(QUICK);
        let job = job.variable("http_proxy", &format!("http://{host}:{}", proxy.port()));
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&class(), &job.class_folder(WNID));
        let request = format!("GET http://{authority}/{WNID}.tar HTTP/1.1");
        assert_eq!(proxy.asked(), [request.clone(), request], "{host}");
    }
    assert!(origin.gets(WNID)[1].start() > 0, "the cut went on where it broke, through the proxy too");
}
