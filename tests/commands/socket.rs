//! Commands without an address use the socket in the target; the job is started with the README's
//! first command.

use std::{
    fs::Permissions,
    net::TcpStream,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown},
    path::PathBuf,
    process::Command,
};

use serde_json::Value;
use tests::{
    archives::images,
    cluster::{Job, Table},
    origin::Origin,
    programs::program,
    running::Running,
};

use super::{SLOW, command};

const SOCKET: &str = ".imagenet_downloader.sock";
/// A user without privileges.
const USER: u32 = 65_534;

/// Each class takes three seconds while the origin is slow; so many that the job outlasts the test.
const CLASSES: u64 = 12;

fn slow_origin() -> (Origin, Vec<String>) {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=CLASSES)
        .map(|number| format!("n{number:08}"))
        .collect();
    for (wnid, seed) in wnids.iter().zip(1..) {
        origin.class(wnid, images(wnid, 2, 6_000..8_000, seed));
    }
    origin.limit_rate(SLOW);
    (origin, wnids)
}

fn status_json(job: &Job, words: &[&str]) -> Option<Value> {
    let status_json = command(job, ["status", "--json"].iter().chain(words).copied());
    (status_json.code == Some(0))
        .then(|| serde_json::from_str(&status_json.stdout).expect("one JSON object"))
}

/// A job on one host with classes in progress.
fn start(job: &Job) -> Running {
    let mut running = job.start();
    running.wait_until("two classes are in progress", |_| {
        (status_json(job, &[])?["leased"] == 2).then_some(())
    });
    running
}

#[test]
fn a_job_on_one_host_answers_on_its_socket_and_removes_it() {
    let (origin, wnids) = slow_origin();
    let missing = "n00000099";
    let listed = [missing]
        .into_iter()
        .chain(wnids.iter().map(String::as_str));
    let job = Job::new()
        .classes(listed)
        .origin(&origin)
        .args(["--delete-tar", "--workers", "2"]);
    let mut running = start(&job);

    let socket = job.target_path().join(SOCKET);
    let file = socket
        .symlink_metadata()
        .expect("the socket exists")
        .file_type();
    assert!(
        file.is_socket(),
        "it must be a socket, which loaders of image folders ignore: {file:?}"
    );
    let mode = socket
        .symlink_metadata()
        .expect("the socket exists")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let elsewhere = |words: &[&str]| {
        let mut command = Command::new(program("coordinator"));
        command.args(words).current_dir("/");
        Running::wait(job.start_program(command))
    };
    let target = job.target_path().to_str().expect("a plain path");
    assert_eq!(elsewhere(&["status", "--target", target]).code, Some(0));

    running.wait_until("the missing class has failed", |_| {
        (status_json(&job, &[])?["failed"] == 1).then_some(())
    });
    let retried = command(&job, ["retry", missing]);
    assert_eq!(
        retried.stdout, "1 failed class is tried again\n",
        "{}",
        retried.stderr
    );
    assert_eq!(command(&job, ["resume"]).code, Some(0));
    let unknown = command(&job, ["drain", "absent"]);
    job.assert_could_not_run(
        &unknown,
        &["failed to drain a worker: there is no worker absent; these are there: "],
    );
    origin.limit_rate(0);
    job.assert_ended(&running.wait(), 1, Table::of(CLASSES, 0, 1));
    assert!(
        socket.symlink_metadata().is_err(),
        "the socket is removed with the job"
    );
}

#[test]
fn after_a_kill_the_next_coordinator_replaces_the_socket_and_watching_continues() {
    let (origin, wnids) = slow_origin();
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin);
    let job = job.args(["--delete-tar", "--workers", "2"]);
    let killed = start(&job);
    let mut watching = job.start_with(["status", "--watch"]);
    watching.wait_until("it prints the status for the first time", |it| {
        it.stdout().starts_with("running\n").then_some(())
    });
    killed.kill();
    watching.wait_until("it prints that there is no answer", |it| {
        it.stderr().contains("no answer from").then_some(())
    });
    let socket = job.target_path().join(SOCKET);
    assert!(socket.symlink_metadata().is_ok());
    if TcpStream::connect("127.0.0.1:50051").is_err() {
        let words = [
            "failed to reach the coordinator at http://127.0.0.1:50051: ",
            "no coordinator on this host answers",
        ];
        job.assert_could_not_run(&command(&job, ["status"]), &words);
    } else {
        eprintln!("skipped: a program listens at port 50051");
    }
    let running = start(&job);
    watching.wait_until("it prints that the coordinator answers again", |it| {
        it.stderr()
            .contains("the coordinator answers again")
            .then_some(())
    });
    origin.limit_rate(0);
    job.assert_ended(&running.wait(), 0, Table::of(CLASSES, 0, 0));
    assert!(socket.symlink_metadata().is_err());
    let ended = watching.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(
        ended.stdout.contains("\ndone\n12 classes: 12 success, "),
        "{}",
        ended.stdout
    );
}

/// A Unix socket address holds at most 107 bytes.
#[test]
fn a_target_with_a_long_path_has_a_socket_and_a_file_under_the_sockets_name_is_reported() {
    let (origin, wnids) = slow_origin();
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin);
    let job = job.args(["--delete-tar", "--workers", "2"]);
    let target: PathBuf = job.folder().join("x".repeat(120)).join("target");
    std::fs::create_dir_all(&target).expect("the folder is ours");
    let job = job.target(&target);
    let running = start(&job);
    let address = target.to_str().expect("a plain path");
    assert!(status_json(&job, &["--target", address]).is_some());
    origin.limit_rate(0);
    job.assert_ended(&running.wait(), 0, Table::of(CLASSES, 0, 0));

    let other = job.folder().join("other");
    std::fs::create_dir(&other).expect("the folder is ours");
    let job = job.target(&other);
    std::fs::write(other.join(SOCKET), "of another program").expect("the folder is ours");
    let ended = job.run();
    job.assert_ended(&ended, 0, Table::of(CLASSES, 0, 0));
    assert!(
        ended.stderr.contains(
            "no socket .imagenet_downloader.sock in the target: another file has its name"
        )
    );
    assert_eq!(
        std::fs::read_to_string(other.join(SOCKET)).expect("the file is kept"),
        "of another program"
    );
}

#[test]
fn another_user_of_the_host_cannot_use_the_socket_and_root_can() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can run programs as other users");
        return;
    }
    let (origin, wnids) = slow_origin();
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin);
    let images = job.folder().join("home/images");
    std::fs::create_dir_all(&images).expect("the folder is ours");
    std::fs::set_permissions(job.folder(), Permissions::from_mode(0o755))
        .expect("the folder is ours");
    for folder in [&images, &job.folder().join("home")] {
        chown(folder, Some(USER), Some(USER)).expect("root may change the owner");
    }
    let job = job.args(["--delete-tar", "--workers", "2"]).target(&images);
    let as_user = |user: u32| {
        let user = user.to_string();
        [
            "setpriv",
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
        ]
        .map(str::to_owned)
    };
    let job = job.under(as_user(USER).iter().map(String::as_str));
    let running = start(&job);
    let images = images.to_str().expect("a plain path");
    // The token file does not exist, so no TCP address is tried.
    let ask = |under: &[String]| {
        let asking = Job::new().under(under.iter().map(String::as_str));
        command(
            &asking,
            ["status", "--target", images, "--token-file", "/nowhere"],
        )
    };
    assert_eq!(ask(&as_user(USER)).code, Some(0));
    assert_eq!(ask(&[]).code, Some(0), "root");
    assert_eq!(ask(&as_user(USER - 1)).code, Some(2));
    origin.limit_rate(0);
    job.assert_ended(&running.wait(), 0, Table::of(CLASSES, 0, 0));
}
