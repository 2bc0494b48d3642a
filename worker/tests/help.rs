//! `worker --help` is a manual. A snapshot makes each change of it part of the review.

use std::process::Command;

#[test]
fn the_help_is_a_manual() {
    let output = Command::new(env!("CARGO_BIN_EXE_worker"))
        .arg("--help")
        .env_clear()
        .env("COLUMNS", "110")
        .env("IMAGENET_CONNECT", "http://user:secret@host:1")
        .output()
        .unwrap();
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(!help.contains("secret"));
    let port = shared::protocol::DEFAULT_PORT;
    assert!(help.contains(&format!(
        "`http://127.0.0.1:{port}`, or `https://host:{port}`"
    )));
    insta::assert_snapshot!(help);
}
