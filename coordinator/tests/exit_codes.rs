//! Exit codes and error messages of the real program when the machine lacks a resource.

use std::{
    path::Path,
    process::{Command, Output},
};

fn shell(line: &str, folder: &Path) -> Output {
    Command::new("sh")
        .args(["-c", line, "sh", env!("CARGO_BIN_EXE_coordinator")])
        .current_dir(folder)
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
        .output()
        .expect("sh starts")
}

/// Runs a command that must exit with 2, and returns its standard error.
fn could_not_run(line: &str, folder: &Path) -> String {
    let output = shell(line, folder);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{line}: {message}");
    message
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("data.csv"), "wnid\nn00000001\n").expect("a file");
    folder
}

#[test]
fn the_exit_code_is_correct_when_output_cannot_be_written() {
    let folder = folder();
    for line in [
        r#""$1" --bogus 2>/dev/full"#,
        r#""$1" --bogus 2>&-"#,
        r#""$1" --fname nowhere.csv 2>/dev/full"#,
        r#""$1" --help >/dev/full"#,
        // The program fails after the log is open, with a warning on the way.
        r#""$1" --ledger . 2>/dev/full"#,
    ] {
        could_not_run(line, folder.path());
    }
    assert_eq!(
        shell(r#""$1" --demo >/dev/full 2>/dev/full"#, folder.path())
            .status
            .code(),
        Some(1),
        "one class of the demo fails"
    );
    assert_eq!(
        shell(r#""$1" --demo >&- 2>&-"#, folder.path())
            .status
            .code(),
        Some(1)
    );
}

#[test]
fn an_unreadable_file_is_reported_with_advice() {
    let folder = folder();
    if !may_become_another_user() {
        eprintln!("skipped: files of another user need setpriv, prlimit and root");
        return;
    }
    let prepare = r#""$1" init --advertise here --dir . >/dev/null &&
        chmod 755 . && chmod 644 server.key && chmod 600 data.csv"#;
    assert!(shell(prepare, folder.path()).status.success());
    for (flags, message) in [
        (
            "--fname data.csv",
            "failed to read data.csv: permission denied; make it readable for the user that this \
             program",
        ),
        (
            "--token-file tokens",
            "failed to read tokens: Permission denied (os error 13); make it readable for the user",
        ),
        (
            "--token-file nowhere",
            "failed to read nowhere: No such file or directory (os error 2); name a file that is \
             there",
        ),
    ] {
        let line = format!(
            r#"setpriv --reuid=54321 --clear-groups "$1" {flags} \
            --listen 127.0.0.1:0 --tls-cert server.pem --tls-key server.key"#
        );
        let error = could_not_run(&line, folder.path());
        assert!(
            error.contains(message) && error.lines().count() == 1,
            "{error}"
        );
    }
}

#[test]
fn an_unusable_ledger_is_reported_in_one_sentence() {
    let folder = folder();
    for (ledger, message) in [
        (
            ".",
            "failed to open the ledger .: it is a folder; name a file with --ledger",
        ),
        (
            "/dev/full",
            "failed to open the ledger /dev/full: it is no regular file; give another one with \
             --ledger",
        ),
        (
            "nowhere/x",
            "failed to open the ledger nowhere/x: No such file or directory (os error 2); give \
             another file",
        ),
        (
            "data.csv",
            "failed to read the ledger data.csv: file is not a database (it is damaged or no \
             ledger: move it",
        ),
    ] {
        let error = could_not_run(&format!(r#""$1" --dev --ledger {ledger}"#), folder.path());
        assert!(
            error.contains(message) && error.lines().count() == 1,
            "{error}"
        );
    }
    assert_eq!(
        std::fs::read_to_string(folder.path().join("data.csv")).expect("it stays"),
        "wnid\nn00000001\n"
    );
    // A database of this user in a folder that only another user can write to.
    if may_become_another_user() {
        let prepare =
            r#""$1" --demo --target t --ledger l >/dev/null 2>&1; chmod 555 .; chown -R 54321 t l"#;
        shell(prepare, folder.path());
        let line = r#"setpriv --reuid=54321 --clear-groups "$1" --dev --target t --ledger l"#;
        let error = could_not_run(line, folder.path());
        assert!(
            error.contains("(give a file in a writable folder with --ledger)"),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    } else {
        eprintln!("skipped: a folder that cannot be written needs setpriv, prlimit and root");
    }
}

#[test]
fn a_failed_start_of_the_runtime_is_reported_in_one_sentence() {
    let folder = folder();
    // The test runner may leave a few open files to its children.
    let starved = [
        r#"exec 3>&- 4>&- 5>&-; ulimit -n 4; exec "$1" --demo"#,
        // A user of its own: the limit counts all threads of a user, including those of other
        // tests.
        r#"prlimit --nproc=1 setpriv --reuid=54322 --clear-groups "$1" --demo"#,
    ];
    for line in starved {
        if line.starts_with("prlimit") && !may_become_another_user() {
            eprintln!("skipped: a limit of threads needs setpriv, prlimit and root");
            continue;
        }
        let message = could_not_run(line, folder.path());
        assert!(
            message.starts_with("error: failed to start: ") && message.lines().count() == 1,
            "{message}"
        );
    }
}

/// Whether the tests can start the program as another user.
fn may_become_another_user() -> bool {
    let line = r#"prlimit --nproc=99 setpriv --reuid=54321 --clear-groups "$1" --version"#;
    shell(line, Path::new("/")).status.success()
}
