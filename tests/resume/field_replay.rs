//! Replays the field log: in one night the predecessor of this tool lost 633 classes, each to one
//! broken connection, and discarded the bytes that it had received.

use std::{path::Path, sync::Arc, time::Duration};

use tests::{
    answer::Answer,
    archives::{assert_streamed_class_is, streamed_images},
    cluster::{Job, Table},
    content::{Content, Segments},
    origin::Origin,
};

/// Divisor of the sizes of tars and cuts.
const SCALE: u64 = 500;
/// Image size of a scaled tar, in bytes. If images were scaled too, headers would dominate.
const IMAGE: u64 = 50_000;
/// In percent of the bytes of all tars.
const MAX_REPEATED_PERCENT: u64 = 2;

/// A class that was cut once.
struct Cut {
    wnid: String,
    at: u64,
    tar: Arc<Segments>,
}

/// The cuts of the field log, scaled.
fn cuts() -> Vec<Cut> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/field_cuts.csv");
    let text = std::fs::read_to_string(path).expect("the file is in the repository");
    let rows = text.lines().filter(|line| !line.starts_with('#')).skip(1);
    rows.zip(1..).map(|(row, seed)| cut(row, seed)).collect()
}

fn cut(row: &str, seed: u64) -> Cut {
    let [_, wnid, at, length] = row
        .split(',')
        .collect::<Vec<_>>()
        .try_into()
        .expect("four columns");
    let [at, length] =
        [at, length].map(|bytes: &str| bytes.parse::<u64>().expect("a number") / SCALE);
    let images = (length / IMAGE).max(1);
    let tar = streamed_images(
        wnid,
        images,
        (length / images).saturating_sub(512).max(1),
        seed,
    );
    assert!(at < tar.length(), "{wnid} was not cut");
    Cut {
        wnid: wnid.to_owned(),
        at,
        tar: Arc::new(tar),
    }
}

#[test]
fn the_633_cuts_of_the_field_log_cost_no_class_and_few_bytes() {
    let origin = Origin::start();
    let cuts = cuts();
    assert_eq!(cuts.len(), 633);
    for Cut { wnid, at, tar } in &cuts {
        origin
            .class(wnid, Arc::clone(tar))
            .script([Answer::cut_at(*at)]);
    }
    let job = Job::new()
        .classes(cuts.iter().map(|cut| cut.wnid.as_str()))
        .origin(&origin);
    let job = job
        .args(["--workers", "15", "--delete-tar"])
        .deadline(Duration::from_mins(4));
    job.assert_ended(&job.run(), 0, Table::of(633, 0, 0));
    for Cut { wnid, tar, .. } in &cuts {
        assert_streamed_class_is(&**tar, &job.class_folder(wnid));
    }
    let all: u64 = cuts.iter().map(|cut| cut.tar.length()).sum();
    let twice = origin.bytes_sent_again();
    let requests = origin.all_requests().len();
    println!("{twice} of {all} bytes were sent twice, in {requests} requests");
    assert!(
        requests >= 2 * cuts.len(),
        "{requests} requests: the classes were not cut"
    );
    assert!(
        twice * 100 <= all * MAX_REPEATED_PERCENT,
        "{twice} of {all} bytes were sent twice"
    );
}
