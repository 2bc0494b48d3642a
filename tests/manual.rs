//! What both programs write about themselves: their version, manual pages and completions.

use std::{path::Path, process::Command};

use tests::programs::program;

const PROGRAMS: [&str; 2] = ["coordinator", "worker"];

/// What a command says, on standard output and then on standard error. It must succeed.
#[track_caller]
fn said(command: &mut Command) -> [String; 2] {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes| String::from_utf8(bytes).expect("it is text");
    let [out, error] = [text(output.stdout), text(output.stderr)];
    assert!(output.status.success(), "{command:?}: {error}");
    [out, error]
}

#[test]
fn the_version_names_the_commit_that_was_built() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let commit = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).current_dir(root).output();
    let commit = commit.ok().filter(|output| output.status.success()).map(|output| String::from_utf8(output.stdout));
    for name in PROGRAMS {
        let [version, _] = said(Command::new(program(name)).arg("--version"));
        let plain = format!("{name} {}", env!("CARGO_PKG_VERSION"));
        if let Some(Ok(commit)) = &commit {
            let committed = format!("{plain} ({}", commit.trim());
            let rest = version.trim().strip_prefix(&committed);
            assert!(matches!(rest, Some(")" | "-dirty)")), "{version} is not {committed}: build the programs again");
        } else {
            println!("skipped: the commit is not known where there is no repository");
            assert!(version.starts_with(&plain), "{version}");
        }
    }
}

#[test]
fn manual_pages_are_made_without_a_warning_and_have_every_flag() {
    for name in PROGRAMS {
        let folder = tempfile::tempdir().unwrap();
        let pages = folder.path().join("share/man1");
        said(Command::new(program(name)).arg("man").arg(&pages));
        let [help, _] = said(Command::new(program(name)).arg("--help"));
        let source = std::fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
        let flags: Vec<&str> =
            help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 3).collect();
        assert!(flags.len() > 5, "{help}");
        for flag in flags {
            let flag = flag.trim_end_matches(|last: char| !last.is_ascii_lowercase());
            assert!(source.contains(&flag.replace('-', "\\-")), "{flag} is not in {name}.1");
        }
        assert!(source.contains("IMAGENET_TARGET"), "{source}");
        let mut formatted = 0;
        for page in pages.read_dir().unwrap().map(|page| page.unwrap().path()) {
            let mut man = Command::new("man");
            man.args(["--warnings=all", "--encoding=UTF-8", "--no-hyphenation", "--local-file"]).arg(&page);
            if Command::new("man").arg("--version").output().is_err() {
                println!("skipped: manual pages are formatted where there is man-db");
                return;
            }
            let [text, warnings] = said(&mut man);
            assert_eq!(warnings, "", "{}", page.display());
            assert!(text.contains("SYNOPSIS"), "{text}");
            formatted += 1;
        }
        println!("{formatted} pages of {name}");
    }
}

#[test]
fn bash_completes_flags_and_commands() {
    for (name, words, completed) in [
        ("coordinator", ["coordinator", "--fn"], "--fname"),
        ("coordinator", ["coordinator", "ver"], "verify"),
        ("worker", ["worker", "--con"], "--connect"),
    ] {
        let script = format!(
            "source <(\"$1\" completions bash); COMP_WORDS=({0}); COMP_CWORD=1; _{name} {name} {1} {name}; echo \"${{COMPREPLY[*]}}\"",
            words.join(" "),
            words[1]
        );
        let [found, _] = said(Command::new("bash").args(["-c", &script, "bash"]).arg(program(name)));
        assert_eq!(found.trim(), completed);
    }
}

#[test]
fn there_are_completions_for_other_shells() {
    for name in PROGRAMS {
        for (shell, begins) in [("zsh", format!("#compdef {name}")), ("fish", "# Print".to_owned())] {
            let [script, _] = said(Command::new(program(name)).args(["completions", shell]));
            assert!(script.starts_with(&begins), "{script}");
        }
        let refused = Command::new(program(name)).args(["completions", "tcsh"]).output().unwrap();
        assert_eq!(refused.status.code(), Some(2));
    }
}
