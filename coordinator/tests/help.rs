//! Snapshots of `coordinator --help`, so that each change of the help is reviewed.

use std::{os::unix::process::CommandExt as _, process::Command};

fn help(of: &[&str]) -> String {
    help_under("coordinator", of)
}

fn help_under(name: &str, of: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_coordinator"))
        .arg0(name)
        .args(of)
        .arg("--help")
        .env_clear()
        .env("COLUMNS", "110")
        .env("IMAGENET_URL", "https://user:secret@host/x")
        .env("IMAGENET_TOKEN_FILE", "/secret")
        .output()
        .expect("the program starts");
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).expect("help is text");
    assert!(!help.contains("secret"));
    help
}

#[test]
fn the_help_is_a_manual() {
    insta::assert_snapshot!(help(&[]));
}

#[test]
fn the_help_under_the_name_of_the_python_package_is_about_one_machine() {
    let help = help_under("imagenet-downloader", &[]);
    let options = |help: &str| {
        let flags = help
            .lines()
            .map(str::trim_start)
            .filter(|line| line.starts_with("--"));
        flags.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(options(&help), options(&self::help(&[])));
    let (about, rest) = help.split_once("\nCommands:").unwrap();
    let (_, examples) = rest.split_once("\nExamples:").unwrap();
    insta::assert_snapshot!(format!("{about}\n[...]\nExamples:{examples}"));
    let status = help_under("imagenet-downloader", &["status"]);
    assert!(
        status.contains("Usage: imagenet-downloader status"),
        "{status}"
    );
}

#[test]
fn the_help_of_verify_is_a_manual() {
    insta::assert_snapshot!(help(&["verify"]));
}

#[test]
fn the_help_of_status_is_a_manual() {
    insta::assert_snapshot!(help(&["status"]));
}

#[test]
fn the_help_of_retry_is_a_manual() {
    insta::assert_snapshot!(help(&["retry"]));
}

#[test]
fn the_help_of_drain_is_a_manual() {
    insta::assert_snapshot!(help(&["drain"]));
}

#[test]
fn the_help_of_resume_is_a_manual() {
    insta::assert_snapshot!(help(&["resume"]));
}

#[test]
fn the_help_of_init_is_a_manual() {
    insta::assert_snapshot!(help(&["init"]));
}

#[test]
fn the_help_of_demo_origin_is_a_manual() {
    insta::assert_snapshot!(help(&["demo-origin"]));
}

#[test]
fn the_help_states_the_defaults_of_the_protocol() {
    let port = shared::protocol::DEFAULT_PORT;
    for (of, text) in [
        (&[][..], format!("[default: 127.0.0.1:{port};")),
        (&["status"], format!("http://127.0.0.1:{port}]")),
        (&["status"], format!("`https://host:{port}`")),
    ] {
        assert!(help(of).contains(&text), "{text}");
    }
}
