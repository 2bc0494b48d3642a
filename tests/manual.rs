//! The version, manual pages and completions that both programs generate.

use std::{path::Path, process::Command, sync::mpsc, thread, time::Duration};

use tests::{answer::Answer, archives::images, cluster::Job, origin::Origin, programs::program};

const PROGRAMS: [&str; 2] = ["coordinator", "worker"];

/// Runs a command and returns its standard output and standard error. Panics unless it succeeds.
#[track_caller]
fn output_of(command: &mut Command) -> [String; 2] {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes| String::from_utf8(bytes).expect("the output is UTF-8");
    let [out, error] = [text(output.stdout), text(output.stderr)];
    assert!(output.status.success(), "{command:?}: {error}");
    [out, error]
}

#[test]
fn the_version_names_the_commit_that_was_built() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let commit = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .current_dir(root)
        .output();
    let commit = commit
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8(output.stdout));
    for name in PROGRAMS {
        let [version, _] = output_of(Command::new(program(name)).arg("--version"));
        let plain = format!("{name} {}", env!("CARGO_PKG_VERSION"));
        if let Some(Ok(commit)) = &commit {
            let committed = format!("{plain} ({}", commit.trim());
            let rest = version.trim().strip_prefix(&committed);
            assert!(
                matches!(rest, Some(")" | "-dirty)")),
                "{version} is not {committed}: build the programs again"
            );
        } else {
            println!("skipped: without a repository the commit is unknown");
            assert!(version.starts_with(&plain), "{version}");
        }
    }
}

#[test]
fn manual_pages_are_generated_without_a_warning_and_have_every_flag() {
    for name in PROGRAMS {
        let folder = tempfile::tempdir().unwrap();
        let pages = folder.path().join("share/man1");
        output_of(Command::new(program(name)).arg("man").arg(&pages));
        let [help, _] = output_of(Command::new(program(name)).arg("--help"));
        let source = std::fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
        let flags: Vec<&str> = help
            .split_whitespace()
            .filter(|word| word.starts_with("--") && word.len() > 3)
            .collect();
        assert!(flags.len() > 5, "{help}");
        for flag in flags {
            let flag = flag.trim_end_matches(|last: char| !last.is_ascii_lowercase());
            assert!(
                source.contains(&flag.replace('-', "\\-")),
                "{flag} is not in {name}.1"
            );
        }
        assert!(source.contains("IMAGENET_TARGET"), "{source}");
        let mut formatted = 0;
        for page in pages.read_dir().unwrap().map(|page| page.unwrap().path()) {
            let mut man = Command::new("man");
            man.args([
                "--warnings=all",
                "--encoding=UTF-8",
                "--no-hyphenation",
                "--local-file",
            ])
            .arg(&page);
            if Command::new("man").arg("--version").output().is_err() {
                println!("skipped: formatting manual pages needs man-db");
                return;
            }
            let [text, warnings] = output_of(&mut man);
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
            "source <(\"$1\" completions bash); COMP_WORDS=({0}); COMP_CWORD=1; _{name} {name} {1} \
             {name}; echo \"${{COMPREPLY[*]}}\"",
            words.join(" "),
            words[1]
        );
        let [found, _] = output_of(
            Command::new("bash")
                .args(["-c", &script, "bash"])
                .arg(program(name)),
        );
        assert_eq!(found.trim(), completed);
    }
}

/// The completions that bash offers for a command line of `coordinator`.
fn bash_offers(words: &[&str]) -> Vec<String> {
    let script = "source <(\"$1\" completions bash); shift; COMP_WORDS=(\"$@\"); \
                  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); \
                  _coordinator_with_workers \"$1\" \"${COMP_WORDS[COMP_CWORD]}\" coordinator; \
                  printf '%s\\n' \"${COMPREPLY[@]}\"";
    let coordinator = program("coordinator");
    let mut bash = Command::new("bash");
    bash.args(["-c", script, "bash"])
        .arg(&coordinator)
        .arg(&coordinator)
        .args(words);
    let [found, errors] = output_of(&mut bash);
    assert_eq!(errors, "", "{words:?}");
    found
        .lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The completions that zsh offers for the argument of `drain`, from the function that clap's
/// script calls for it.
fn zsh_offers(words: &[&str]) -> Vec<String> {
    let script = "source <(\"$1\" completions zsh); LBUFFER=\"${*:2}\"; _coordinator_worker_names";
    let coordinator = program("coordinator");
    let mut zsh = Command::new("zsh");
    zsh.args([
        "-f",
        "-c",
        &format!("compdef() {{ :; }}; compadd() {{ print -l -- $names; }}; {script}"),
        "zsh",
    ]);
    let [found, errors] = output_of(zsh.arg(&coordinator).arg(&coordinator).args(words));
    assert_eq!(errors, "", "{words:?}");
    let [script, _] = output_of(Command::new(&coordinator).args(["completions", "zsh"]));
    let calls = script.matches(":_coordinator_worker_names'").count();
    assert_eq!(
        calls, 1,
        "clap's script calls the function for one argument"
    );
    let begun = words.last().copied().unwrap_or_default();
    found
        .lines()
        .filter(|line| !line.is_empty() && line.starts_with(begun))
        .map(str::to_owned)
        .collect()
}

/// The completions that fish offers for a command line.
fn fish_offers(words: &[&str]) -> Vec<String> {
    let coordinator = program("coordinator");
    let line = format!("{} {}", coordinator.display(), words.join(" "));
    let script = "$argv[1] completions fish | source; complete -C $argv[2]";
    let mut fish = Command::new("fish");
    let [found, errors] = output_of(
        fish.args(["--no-config", "-c", script])
            .arg(&coordinator)
            .arg(line),
    );
    assert_eq!(errors, "", "{words:?}");
    found.lines().map(str::to_owned).collect()
}

/// Returns the completions that a shell offers for the words of a command line.
type Offers = fn(&[&str]) -> Vec<String>;

#[test]
fn shells_complete_the_names_of_workers_and_nothing_without_a_coordinator() {
    let shells: [(&str, Offers); 3] = [
        ("bash", bash_offers),
        ("zsh", zsh_offers),
        ("fish", fish_offers),
    ];
    let is_installed = |shell: &str| Command::new(shell).arg("--version").output().is_ok();
    let (installed, missing): (Vec<_>, Vec<_>) = shells
        .into_iter()
        .partition(|(shell, _)| is_installed(shell));
    for (shell, _) in missing {
        println!("skipped: the completion of {shell} needs {shell}");
    }
    let origin = Origin::start();
    origin.class("n00000001", images("n00000001", 2, 10_000..20_000, 1));
    // Keeps the job running.
    origin
        .script_of("n00000001")
        .expect("the class is served")
        .script([Answer::stall_at(10_000)]);
    let job = Job::new()
        .classes(["n00000001"])
        .origin(&origin)
        .args(["--delete-tar"]);
    let mut coordinator = job.start_coordinator();
    let connect = format!("http://{}", coordinator.address);
    let workers =
        ["left", "lower"].map(|name| job.start_worker(name, &coordinator, job.target_path()));
    coordinator
        .running
        .wait_until("both workers have registered", |_| {
            (bash_offers(&["drain", "--connect", &connect, ""]) == ["left", "lower"]).then_some(())
        });
    let target = job.target_path().to_str().expect("a plain path");
    for (shell, offers) in &installed {
        assert_eq!(
            offers(&["drain", "--connect", &connect, ""]),
            ["left", "lower"],
            "{shell}"
        );
        assert_eq!(
            offers(&["drain", "--connect", &connect, "lo"]),
            ["lower"],
            "{shell}"
        );
        assert_eq!(
            offers(&["drain", "--target", target, ""]),
            ["left", "lower"],
            "{shell}"
        );
    }
    assert_eq!(bash_offers(&["status", "--js"]), ["--json"]);
    origin.end_stalls();
    for worker in workers {
        assert_eq!(worker.wait().code, Some(0));
    }
    assert_eq!(coordinator.running.wait().code, Some(0));
    for (shell, offers) in installed {
        let (sender, offered) = mpsc::channel();
        let connect = connect.clone();
        thread::spawn(move || sender.send(offers(&["drain", "--connect", &connect, ""])));
        assert_eq!(
            offered.recv_timeout(Duration::from_mins(1)),
            Ok(Vec::new()),
            "{shell}"
        );
    }
}

/// In a manual page, lines that begin with a space are a table. On a terminal of 80 columns they
/// are not re-wrapped, and no line is wider.
#[test]
fn manual_pages_keep_tables_on_a_terminal_of_80_columns() {
    if Command::new("man").arg("--version").output().is_err() {
        println!("skipped: formatting manual pages needs man-db");
        return;
    }
    for (name, commands) in [
        (
            "coordinator",
            &["", "init", "status", "retry", "drain", "resume", "verify"][..],
        ),
        ("worker", &[""]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        output_of(Command::new(program(name)).arg("man").arg(folder.path()));
        for command in commands {
            let page = if command.is_empty() {
                format!("{name}.1")
            } else {
                format!("{name}-{command}.1")
            };
            let mut man = Command::new("man");
            man.args(["--encoding=UTF-8", "--no-hyphenation", "--local-file"])
                .arg(folder.path().join(&page));
            let [text, _] = output_of(man.env("MANWIDTH", "80"));
            let shown: Vec<&str> = text.lines().collect();
            let wide = shown.iter().find(|line| line.chars().count() > 80);
            assert!(wide.is_none(), "{page}: {wide:?}");
            let source = std::fs::read_to_string(folder.path().join(&page)).unwrap();
            let after = source
                .split_once(".SH EXTRA\n")
                .map_or("", |(_, after)| after.split("\n.SH").next().unwrap());
            let after = after.replace("\\-", "-").replace("\\*(Aq", "'");
            for line in after.lines().filter(|line| line.starts_with(' ')) {
                let kept = format!("       {line}");
                assert!(
                    shown.contains(&kept.trim_end()),
                    "{page} has no line {kept:?}:\n{text}"
                );
            }
        }
    }
}

#[test]
fn zsh_and_fish_have_completions_and_other_shells_are_rejected() {
    for name in PROGRAMS {
        for (shell, begins) in [
            ("zsh", format!("#compdef {name}")),
            ("fish", "# Print".to_owned()),
        ] {
            let [script, _] = output_of(Command::new(program(name)).args(["completions", shell]));
            assert!(script.starts_with(&begins), "{script}");
        }
        let refused = Command::new(program(name))
            .args(["completions", "tcsh"])
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(2));
    }
}
