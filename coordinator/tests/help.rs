//! `coordinator --help` is a manual: what it says is reviewed like code.

use std::process::Command;

#[test]
fn the_help_is_a_manual() {
    let output = Command::new(env!("CARGO_BIN_EXE_coordinator"))
        .arg("--help")
        .env_clear()
        .env("COLUMNS", "110")
        .env("IMAGENET_URL", "https://user:secret@host/x")
        .output()
        .unwrap();
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(!help.contains("secret"));
    insta::assert_snapshot!(help);
}
