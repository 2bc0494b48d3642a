//! A worker that is stopped (SIGSTOP) for longer than its leases: other workers take over its
//! classes, and it continues correctly.

use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    origin::Origin,
    running::Signal,
};

/// Takes fifteen seconds: the shortest lease and the margin after it.
#[test]
fn a_worker_that_resumes_after_its_leases_expired_does_no_harm_and_continues() {
    let origin = Origin::start();
    // In the order in which they are leased the first and the second time.
    let [taken, stalled, kept] = ["n00000001", "n00000002", "n00000003"];
    let tars = [(taken, 1), (stalled, 2), (kept, 3)]
        .map(|(wnid, seed)| images(wnid, 160, 40_000..60_000, seed));
    for (wnid, tar) in [taken, stalled, kept].iter().zip(&tars) {
        origin.class(wnid, tar.clone());
    }
    origin.limit_rate(1_000_000);
    let args = ["--delete-tar", "--lease-ttl", "3s"];
    let job = Job::new()
        .classes([taken, stalled, kept])
        .origin(&origin)
        .args(args);
    let coordinator = job.start_coordinator();
    let connect = format!("http://{}", coordinator.address);
    let start = |name, slots| job.start_worker_at(&connect, name, slots, job.target_path());

    let mut sleeper = start("sleeper", 3);
    sleeper.wait_until("five megabytes of each class were sent", |_| {
        let far = |wnid| {
            origin
                .gets(wnid)
                .first()
                .is_some_and(|get| get.sent > 5_000_000)
        };
        [taken, stalled, kept].into_iter().all(far).then_some(())
    });
    sleeper.signal(Signal::STOP);
    origin.limit_rate(0);
    origin
        .script_of(stalled)
        .expect("the class is served")
        .script([Answer::stall_at(100_000)]);
    let mut other = start("other", 1);
    other.wait_until(
        "it has completed the first class and stalls in the second",
        |_| (job.class_folder(taken).exists() && origin.gets(stalled).len() > 1).then_some(()),
    );
    sleeper.signal(Signal::CONT);
    sleeper.wait_until(
        "it completes the third class, which no other worker holds",
        |_| job.class_folder(kept).exists().then_some(()),
    );
    origin.end_stalls();

    for worker in [sleeper, other] {
        let finished = worker.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(3, 0, 0));
    for (wnid, tar) in [taken, stalled, kept].iter().zip(&tars) {
        assert_class_is(tar, &job.class_folder(wnid));
    }
    let gets = origin.gets(taken);
    assert!(
        gets.len() == 2 && gets[1].start() > 3_000_000,
        "no class was resumed at its journal: {gets:#?}"
    );
}
