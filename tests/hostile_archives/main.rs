//! Malicious archives: each is rejected as a whole, nothing of it becomes visible, nothing outside
//! the class's folder changes, and the other classes of the job are complete.

mod bombs;
mod broken_archives;
mod harmless_archives;
mod unsafe_entries;

use std::path::Path;

use tests::{
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    content::Content,
    folders::{classes, snapshot},
    origin::Origin,
    raw_tar::{Entry, tar_of},
};

const GOOD: &str = "n00000000";

/// A tar that begins with a valid file, so that a reader without checks would leave something
/// behind.
fn after_a_good_file(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    tar_of(std::iter::once(Entry::file("first.JPEG", &[7; 3000])).chain(entries))
}

/// A job with one class per case and a valid class.
struct HostileJob {
    origin: Origin,
    job: Job,
    wnids: Vec<String>,
}

impl HostileJob {
    fn new() -> Self {
        let origin = Origin::start();
        origin.class(GOOD, images(GOOD, 20, 1000..20_000, 1));
        Self {
            origin,
            job: Job::new(),
            wnids: Vec::new(),
        }
    }

    /// The folder that a path traversal would reach; it contains only files of the job.
    fn outside(&self) -> &Path {
        self.job.folder()
    }

    fn add(&mut self, tar: impl Content + 'static) {
        let wnid = format!("n{:08}", self.wnids.len() + 1);
        self.origin.class(&wnid, tar);
        self.wnids.push(wnid);
    }

    /// Runs the job: the valid class is complete, each of the others fails with one of these kinds.
    /// Returns the failures.
    #[track_caller]
    fn assert_all_rejected(self, kinds: &[&str]) -> Vec<String> {
        let Self { origin, job, wnids } = self;
        let all = wnids.iter().map(String::as_str).chain([GOOD]);
        let job = job.classes(all).origin(&origin).args([
            "--delete-tar",
            "--retries",
            "1",
            "--workers",
            "4",
        ]);
        let before = outside(&job);
        let finished = job.run();
        job.assert_ended(&finished, 1, Table::of(1, 0, wnids.len() as u64));
        assert_eq!(
            outside(&job),
            before,
            "something outside the target has changed"
        );
        assert_eq!(
            classes(job.target_path()),
            [GOOD],
            "an archive that was rejected is visible"
        );
        assert_class_is(&images(GOOD, 20, 1000..20_000, 1), &job.class_folder(GOOD));
        for wnid in &wnids {
            assert_eq!(
                origin.gets(wnid).len(),
                1,
                "{wnid}: a rejected archive is not downloaded again"
            );
        }
        let failures: Vec<String> = wnids.iter().map(|wnid| job.failure_of(wnid)).collect();
        for (wnid, failure) in wnids.iter().zip(&failures) {
            let as_told = kinds
                .iter()
                .any(|kind| failure.starts_with(&format!("{kind}: ")));
            assert!(as_told, "{wnid}: {failure}\n{failures:#?}");
        }
        failures
    }
}

/// Names of all entries beside the target, without the programs' output files.
fn outside(job: &Job) -> Vec<String> {
    let all = snapshot(job.folder())
        .into_iter()
        .map(|(path, thing)| (path.display().to_string(), thing));
    let ours = all.filter(|(path, _)| !path.starts_with("target") && !path.starts_with("output"));
    ours.map(|(path, thing)| format!("{path}: {thing:?}"))
        .collect()
}

/// Panics unless each tar is rejected as broken or unsafe.
#[track_caller]
fn assert_rejected(tars: impl IntoIterator<Item = Vec<u8>>) -> Vec<String> {
    let mut hostile = HostileJob::new();
    tars.into_iter().for_each(|tar| hostile.add(tar));
    hostile.assert_all_rejected(&["TarError"])
}
