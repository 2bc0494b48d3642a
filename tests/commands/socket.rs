//! Commands without an address: the socket in the target, with the first command of the README.

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
/// A user without rights of its own.
const USER: u32 = 65_534;

/// Classes that take three seconds each while the origin is slow, and so many that the job does not end meanwhile.
const CLASSES: u64 = 12;

fn slow_origin() -> (Origin, Vec<String>) {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=CLASSES).map(|number| format!("n{number:08}")).collect();
    for (wnid, seed) in wnids.iter().zip(1..) {
        origin.class(wnid, images(wnid, 2, 6_000..8_000, seed));
    }
    origin.limit_rate(SLOW);
    (origin, wnids)
}

fn told(job: &Job, words: &[&str]) -> Option<Value> {
    let told = command(job, ["status", "--json"].iter().chain(words).copied());
    (told.code == Some(0)).then(|| serde_json::from_str(&told.stdout).expect("one JSON object"))
}

/// A job on one host, under way.
fn start(job: &Job) -> Running {
    let mut running = job.start();
    running.wait_until("two classes are under way", |_| (told(job, &[])?["leased"] == 2).then_some(()));
    running
}

#[test]
fn a_job_on_one_host_is_asked_without_an_address_and_leaves_no_socket() {
    let (origin, wnids) = slow_origin();
    let missing = "n00000099";
    let listed = [missing].into_iter().chain(wnids.iter().map(String::as_str));
    let job = Job::new().classes(listed).origin(&origin).args(["--delete-tar", "--workers", "2"]);
    let mut running = start(&job);

    let socket = job.target_path().join(SOCKET);
    let file = socket.symlink_metadata().expect("it is there").file_type();
    assert!(file.is_socket(), "a loader of image folders looks at folders only: {file:?}");
    let mode = socket.symlink_metadata().expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let elsewhere = |words: &[&str]| {
        let mut command = Command::new(program("coordinator"));
        command.args(words).current_dir("/");
        Running::wait(job.start_program(command))
    };
    let target = job.target_path().to_str().expect("a plain path");
    assert_eq!(elsewhere(&["status", "--target", target]).code, Some(0));

    running.wait_until("the missing class has failed", |_| (told(&job, &[])?["failed"] == 1).then_some(()));
    let retried = command(&job, ["retry", missing]);
    assert_eq!(retried.stdout, "1 failed class is tried again\n", "{}", retried.stderr);
    assert_eq!(command(&job, ["resume"]).code, Some(0));
    let unknown = command(&job, ["drain", "absent"]);
    job.assert_could_not_run(&unknown, &["failed to drain a worker: there is no worker absent; these are there: "]);
    origin.limit_rate(0);
    job.assert_ended(&running.wait(), 1, Table::of(CLASSES, 0, 1));
    assert!(socket.symlink_metadata().is_err(), "the socket is gone with the job");
}

#[test]
fn after_a_kill_the_next_coordinator_replaces_the_socket_and_who_watches_goes_on() {
    let (origin, wnids) = slow_origin();
    let job = Job::new().classes(wnids.iter().map(String::as_str)).origin(&origin);
    let job = job.args(["--delete-tar", "--workers", "2"]);
    let killed = start(&job);
    let mut watching = job.start_with(["status", "--watch"]);
    watching.wait_until("it tells the first time", |it| it.stdout().starts_with("running\n").then_some(()));
    killed.kill();
    watching.wait_until("it says that there is no answer", |it| it.stderr().contains("no answer from").then_some(()));
    let socket = job.target_path().join(SOCKET);
    assert!(socket.symlink_metadata().is_ok());
    if TcpStream::connect("127.0.0.1:50051").is_err() {
        let words =
            ["failed to reach the coordinator at http://127.0.0.1:50051: ", "no coordinator on this host answers"];
        job.assert_could_not_run(&command(&job, ["status"]), &words);
    } else {
        eprintln!("skipped: a program listens at port 50051");
    }
    let running = start(&job);
    watching.wait_until("it goes on", |it| it.stderr().contains("the coordinator answers again").then_some(()));
    origin.limit_rate(0);
    job.assert_ended(&running.wait(), 0, Table::of(CLASSES, 0, 0));
    assert!(socket.symlink_metadata().is_err());
    let ended = watching.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains("\ndone\n12 classes: 12 success, "), "{}", ended.stdout);
}

/// A path of more than 107 bytes is no address of a socket.
#[test]
fn a_target_with_a_long_path_has_a_socket_and_a_file_in_its_place_is_told() {
    let (origin, wnids) = slow_origin();
    let job = Job::new().classes(wnids.iter().map(String::as_str)).origin(&origin);
    let job = job.args(["--delete-tar", "--workers", "2"]);
    let target: PathBuf = job.folder().join("x".repeat(120)).join("target");
    std::fs::create_dir_all(&target).expect("the folder is ours");
    let job = job.target(&target);
    let running = start(&job);
    let address = target.to_str().expect("a plain path");
    assert!(told(&job, &["--target", address]).is_some());
    origin.limit_rate(0);
    job.assert_ended(&running.wait(), 0, Table::of(CLASSES, 0, 0));

    let other = job.folder().join("other");
    std::fs::create_dir(&other).expect("the folder is ours");
    let job = job.target(&other);
    std::fs::write(other.join(SOCKET), "of another program").expect("the folder is ours");
    let ended = job.run();
    job.assert_ended(&ended, 0, Table::of(CLASSES, 0, 0));
    assert!(ended.stderr.contains("no socket .imagenet_downloader.sock in the target: another file has its name"));
    assert_eq!(std::fs::read_to_string(other.join(SOCKET)).expect("it stays"), "of another program");
}

#[test]
fn another_user_of_the_host_cannot_use_it_and_root_can() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can run programs as other users");
        return;
    }
    let (origin, wnids) = slow_origin();
    let job = Job::new().classes(wnids.iter().map(String::as_str)).origin(&origin);
    let images = job.folder().join("home/images");
    std::fs::create_dir_all(&images).expect("the folder is ours");
    std::fs::set_permissions(job.folder(), Permissions::from_mode(0o755)).expect("the folder is ours");
    for folder in [&images, &job.folder().join("home")] {
        chown(folder, Some(USER), Some(USER)).expect("root may");
    }
    let job = job.args(["--delete-tar", "--workers", "2"]).target(&images);
    let as_user = |user: u32| {
        let user = user.to_string();
        ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"].map(str::to_owned)
    };
    let job = job.under(as_user(USER).iter().map(String::as_str));
    let running = start(&job);
    let images = images.to_str().expect("a plain path");
    // With a token file that is not there, no address is asked.
    let ask = |under: &[String]| {
        let asking = Job::new().under(under.iter().map(String::as_str));
        command(&asking, ["status", "--target", images, "--token-file", "/nowhere"])
    };
    assert_eq!(ask(&as_user(USER)).code, Some(0));
    assert_eq!(ask(&[]).code, Some(0), "root");
    assert_eq!(ask(&as_user(USER - 1)).code, Some(2));
    origin.limit_rate(0);
    job.assert_ended(&running.wait(), 0, Table::of(CLASSES, 0, 0));
}
