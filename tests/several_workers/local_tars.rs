//! A class that its worker unpacks from a local tar: the worker keeps the lease although it
//! receives no bytes from the origin.

use std::{fs, mem, path::Path, process::Command, time::Duration};

use tests::{
    archives::{assert_class_is, images},
    cluster::Table,
    fleet::Fleet,
    folders::staging,
    wait::wait_for,
};

const WNID: &str = "n00000001";

/// C source of a library that delays each read of a tar by 0.5 s, as a slow disk does.
const SLOW_READS: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

ssize_t pread64(int file, void *buffer, size_t size, off64_t offset) {
    ssize_t (*read)(int, void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pread64");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path);
    if (length > 4 && memcmp(path + length - 4, ".tar", 4) == 0)
        usleep(500000);
    return read(file, buffer, size, offset);
}
"#;

/// Builds the library for `LD_PRELOAD` and returns its path.
fn slow_reads(folder: &Path) -> String {
    let [source, library] = ["slow_reads.c", "slow_reads.so"].map(|name| folder.join(name));
    fs::write(&source, SLOW_READS).expect("the folder is ours");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .arg("-ldl")
        .output();
    let built =
        built.expect("a C compiler, which the build of the programs needs as well, is installed");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    library.to_str().expect("a plain path").to_owned()
}

#[test]
fn a_worker_keeps_its_lease_while_it_unpacks_a_local_tar_slowly() {
    // Without progress a lease is revoked after 4 s; reading the tar takes twice that time.
    let tar = images(WNID, 20, 200_000..220_000, 1);
    let mut fleet = Fleet::of(
        vec![(WNID.to_owned(), tar.clone())],
        &["--lease-ttl", "3s", "--timeout", "1s"],
    );
    let library = slow_reads(fleet.job.folder());
    fleet.job = mem::take(&mut fleet.job).variable("LD_PRELOAD", &library);
    let [with_tar, other] = ["with-tar", "other"].map(|name| fleet.job.folder().join(name));
    for disk in [&with_tar, &other] {
        fs::create_dir(disk).expect("the folder is ours");
    }
    fs::write(with_tar.join(format!("{WNID}.tar")), &tar).expect("the folder is ours");

    let coordinator = fleet.start_coordinator();
    let holder = fleet.start_worker_in(&with_tar, &fleet.url(), "with-tar", 1);
    wait_for(
        "the class is being unpacked",
        Duration::from_secs(30),
        || {
            let entries = fs::read_dir(staging(&with_tar))
                .into_iter()
                .flatten()
                .flatten();
            entries
                .map(|entry| entry.file_name())
                .any(|name| name.to_string_lossy().starts_with(WNID))
        },
    );
    let idle = fleet.start_worker_in(&other, &fleet.url(), "other", 1);
    for worker in [holder, idle] {
        let finished = worker.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }
    fleet
        .job
        .assert_ended(&coordinator.wait(), 0, Table::of(1, 0, 0));
    assert_eq!(
        fleet.gets(WNID),
        0,
        "no worker requests the class from the origin"
    );
    assert_class_is(&tar, &with_tar.join(WNID));
    assert!(!other.join(WNID).exists());
}
