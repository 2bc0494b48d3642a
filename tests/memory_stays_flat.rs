//! Memory does not grow with the size of a tar or a header, or with the number of concurrent
//! classes.

use std::time::Duration;

use tests::{
    archives::{MANIFEST, streamed_images},
    cluster::{Job, Table},
    content::{Segment, Segments},
    origin::Origin,
    raw_tar::Entry,
};

const LIMIT: u64 = 150 << 20;

/// A class that is rejected for an extension header just above the limit.
fn oversized_header(kind: u8) -> Segments {
    let length = 65 << 10;
    let header = Entry::of_kind(kind, "x")
        .stating_size(length)
        .gnu()
        .header()
        .to_vec();
    Segments::new(vec![
        Segment::Bytes(header),
        Segment::Fill { byte: b'a', length },
    ])
    .with_end_marker()
}

#[test]
fn ten_large_tars_at_once_stay_below_the_limit() {
    let origin = Origin::start();
    let mut wnids = Vec::new();
    let mut serve = |content: Segments| {
        let wnid = format!("n{:08}", wnids.len() + 1);
        origin.class(&wnid, content);
        wnids.push(wnid);
    };
    // Three tars of 200 MB, one of them with a few huge files, and seven of 20 MB.
    serve(streamed_images("n00000001", 2000, 100_000, 1));
    serve(streamed_images("n00000002", 20, 10_000_000, 2));
    serve(streamed_images("n00000003", 2000, 100_000, 3));
    for seed in 4..=10 {
        serve(streamed_images("n00000004", 200, 100_000, seed));
    }
    for kind in *b"xLxLxL" {
        serve(oversized_header(kind));
    }
    let args = ["--workers", "10", "--delete-tar", "--durability", "process"];
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(args);
    let job = job.deadline(Duration::from_mins(5));
    let finished = job.run();
    job.assert_ended(&finished, 1, Table::of(10, 0, 6));
    assert!(
        job.failures()
            .iter()
            .all(|line| line.contains(" - TarError: ")),
        "{:?}",
        job.failures()
    );
    for (wnid, files) in wnids
        .iter()
        .zip([2000, 20, 2000, 200, 200, 200, 200, 200, 200, 200])
    {
        let names = std::fs::read_dir(job.class_folder(wnid))
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        assert_eq!(
            names.filter(|name| name != MANIFEST).count(),
            files,
            "{wnid}"
        );
    }
    let Some(peak) = finished.peak_memory else {
        println!("skipped: the peak memory of a process is not known on this system");
        return;
    };
    println!("peak memory {} MiB", peak >> 20);
    assert!(peak < LIMIT, "{} MiB", peak >> 20);
}
