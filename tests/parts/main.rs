//! The tail of a job: free slots download parts of the largest transfers. With any fault, the class
//! is from one version of the tar and few bytes are downloaded twice.

mod kills;
mod odd_origins;
mod split;

use tests::{
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    origin::{Origin, Request},
};

const LARGE: &str = "n00000005";
const SMALL: [&str; 4] = ["n00000001", "n00000002", "n00000008", "n00000009"];

/// The tar of the large class: about 30 MB, large enough to be split into parts.
fn large(seed: u64) -> Vec<u8> {
    images(LARGE, 300, 90_000..110_000, seed)
}

/// An origin with four small classes and one large class, at 1.5 MB/s per connection, and a job for
/// them. `place` is the index of the large class in the list.
fn skewed<'origin>(
    origin: &'origin Origin,
    tar: &[u8],
    place: usize,
) -> (Job, tests::origin::Scripted<'origin>) {
    for wnid in SMALL {
        origin.class(wnid, images(wnid, 10, 8000..12_000, 7));
    }
    let scripted = origin.class(LARGE, tar.to_vec());
    origin.limit_rate(1_500_000);
    let mut list = SMALL.to_vec();
    list.insert(place, LARGE);
    (
        Job::new()
            .classes(list)
            .origin(origin)
            .args(["--workers", "6"]),
        scripted,
    )
}

/// Panics unless the job completes all five classes and the large class matches its tar.
#[track_caller]
fn assert_whole(job: &Job, tar: &[u8]) {
    job.assert_ended(&job.run(), 0, Table::of(5, 0, 0));
    assert_class_is(tar, &job.class_folder(LARGE));
}

/// Number of bytes of the large class that were sent more than once.
fn extra(gets: &[Request], tar: &[u8]) -> u64 {
    gets.iter().map(|get| get.sent).sum::<u64>() - tar.len() as u64
}
