//! `coordinator verify`: compares class folders with their manifests, several at a time, and
//! reports each difference as it is found.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::available_parallelism,
    time::Duration,
};

use serde::Serialize;
use shared::{
    Wnid,
    exit_code::Exit,
    job_line::Screen,
    outcome::printable,
    shutdown::Shutdown,
    threads::{self, NoThread},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, interval_at},
};
use worker::verify::{Difference, FolderState, VerifiedClass, Verifier, classes};

use super::{CommandError, json, write_line};
use crate::{
    config::VerifyArgs,
    wording::{bytes, counted},
};

/// More threads do not make a disk faster, and the limit bounds the memory.
const MOST_THREADS: usize = 16;
/// Capacity of the queue of findings that are not printed yet.
const QUEUE: usize = 256;
/// Interval of the progress lines.
const PROGRESS: Duration = Duration::from_secs(10);

/// The `difference` of a folder that has no usable manifest.
const NOT_PROVED: &str = "not_proved";

/// Why the verification could not start or was not finished.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The folder does not exist or is not readable for this user.
    #[error("read the folder {}: {source}; name the one with the class folders with --target", path.display())]
    Target {
        /// The folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The folder contains no class. Reporting success would be misleading.
    #[error(
        "find a class in {}: no folder there has the name of one (n and eight digits); name another with --target",
        path.display()
    )]
    NoClass {
        /// The folder.
        path: PathBuf,
    },
    /// No thread could be started.
    #[error(transparent)]
    Thread(#[from] NoThread),
}

/// A finding of a verification thread.
enum Found {
    Difference {
        wnid: Wnid,
        file: Option<String>,
        difference: Difference,
    },
    Class {
        wnid: Wnid,
        checked: VerifiedClass,
    },
}

/// The totals of all findings.
#[derive(Debug, Default, Serialize)]
struct Totals {
    classes: u64,
    right: u64,
    different: u64,
    not_proved: u64,
    files: u64,
    bytes: u64,
}

/// A finding as a JSON object.
#[derive(Serialize)]
struct Line<'found> {
    class: String,
    file: Option<&'found str>,
    difference: &'static str,
    text: String,
}

/// Verifies the classes in the target.
pub(super) async fn run(
    arguments: &VerifyArgs,
    screen: &Screen,
    shutdown: &Shutdown,
    out: &mut impl Write,
) -> Result<Exit, CommandError> {
    let path = &arguments.target;
    let classes = classes(path).map_err(|source| VerifyError::Target {
        path: path.clone(),
        source,
    })?;
    if classes.is_empty() {
        return Err(VerifyError::NoClass { path: path.clone() }.into());
    }
    let count = classes.len();
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = JoinSet::new();
    let findings = start(classes, path, arguments.repair, &stop, &mut threads);
    let mut findings = findings.map_err(VerifyError::from)?;
    let mut progress = interval_at(Instant::now() + PROGRESS, PROGRESS);
    let mut totals = Totals::default();
    let verified = loop {
        tokio::select! {
            found = findings.recv() => match found {
                Some(found) => if let Err(error) = totals.report(&found, arguments.json, out) { break Err(error) },
                None => break Ok(()),
            },
            () = shutdown.drain.cancelled(), if !stop.load(Ordering::Relaxed) => stop.store(true, Ordering::Relaxed),
            _ = progress.tick() => {
                let read = bytes(totals.bytes);
                screen.write_line(&format!("{} of {count} classes, {read}, {} different", totals.classes, totals.different));
            }
        }
    };
    let stopped = stop.swap(true, Ordering::Relaxed);
    drop(findings);
    while threads.join_next().await.is_some() {}
    verified?;
    if stopped {
        screen.write_line(&format!(
            "interrupted: {} of {count} classes were compared",
            totals.classes
        ));
        return Ok(Exit::Interrupted);
    }
    let text = if arguments.json {
        json(&totals)
    } else {
        totals.text()
    };
    write_line(out, &text)?;
    if arguments.repair && totals.different > 0 {
        screen.write_line(&totals.repair_advice());
    }
    Ok(totals.exit(arguments.strict))
}

/// Starts threads that each verify one class after another. Starts fewer if the system has no more
/// threads.
fn start(
    classes: Vec<Wnid>,
    target: &Path,
    repair: bool,
    stop: &Arc<AtomicBool>,
    set: &mut JoinSet<()>,
) -> Result<mpsc::Receiver<Found>, NoThread> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let classes = Arc::new(classes);
    let next = Arc::new(AtomicUsize::new(0));
    let count = available_parallelism()
        .map_or(1, usize::from)
        .min(MOST_THREADS);
    for _ in 0..count {
        let verifier = Verifier::new(target, Arc::clone(stop), repair);
        let sender = sender.clone();
        let classes = Arc::clone(&classes);
        let next = Arc::clone(&next);
        let stop = Arc::clone(stop);
        let started = threads::start(set, "verify", move || {
            while !stop.load(Ordering::Relaxed)
                && let Some(wnid) = classes.get(next.fetch_add(1, Ordering::Relaxed)).copied()
            {
                let send = |found| drop(sender.blocking_send(found));
                let checked = verifier.check(wnid, |file, difference| {
                    send(Found::Difference {
                        wnid,
                        file: file.map(str::to_owned),
                        difference,
                    });
                });
                send(Found::Class { wnid, checked });
            }
        });
        match started {
            // The threads that were started do all the work.
            Err(_) if !set.is_empty() => break,
            started => started?,
        }
    }
    Ok(receiver)
}

impl Line<'_> {
    fn text(&self) -> String {
        let Self { class, text, .. } = self;
        match self.file {
            Some(file) => format!("{class}/{} {text}", printable(file)),
            None if self.difference == NOT_PROVED => format!("{class} is not proved: {text}"),
            None => format!("{class} {text}"),
        }
    }
}

impl Totals {
    /// Counts a finding and prints it if it is a difference or cannot be proved.
    fn report(&mut self, found: &Found, as_json: bool, out: &mut impl Write) -> io::Result<()> {
        let line = match found {
            Found::Difference {
                wnid,
                file,
                difference,
            } => Line {
                class: wnid.to_string(),
                file: file.as_deref(),
                difference: difference.word(),
                text: difference.to_string(),
            },
            Found::Class { wnid, checked } => {
                let counter = match checked.verdict {
                    FolderState::Right => &mut self.right,
                    FolderState::Differs => &mut self.different,
                    FolderState::NotProved(_) => &mut self.not_proved,
                    FolderState::Gone | FolderState::Stopped => return Ok(()),
                };
                *counter += 1;
                self.classes += 1;
                self.files += checked.files;
                self.bytes += checked.bytes;
                let FolderState::NotProved(why) = checked.verdict else {
                    return Ok(());
                };
                Line {
                    class: wnid.to_string(),
                    file: None,
                    difference: NOT_PROVED,
                    text: why.to_owned(),
                }
            }
        };
        let line = if as_json { json(&line) } else { line.text() };
        write_line(out, &line)
    }

    fn text(&self) -> String {
        let Self {
            right,
            different,
            not_proved,
            ..
        } = self;
        let classes = counted(self.classes, "class", "classes");
        let files = counted(self.files, "file", "files");
        let counts =
            format!("{classes}: {right} right, {different} different, {not_proved} not proved");
        format!("{counts}; {files}, {} compared", bytes(self.bytes))
    }

    /// How to repair the classes that differ.
    fn repair_advice(&self) -> String {
        let classes = counted(self.different, "class is", "classes are");
        let them = if self.different == 1 { "it" } else { "them" };
        format!("{classes} marked as different; run the same job again: it downloads {them} again")
    }

    fn exit(&self, strict: bool) -> Exit {
        if self.different > 0 || (strict && self.not_proved > 0) {
            Exit::SomeFailed
        } else {
            Exit::Done
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(found: &[Found], as_json: bool) -> (Totals, String) {
        let mut totals = Totals::default();
        let mut out = Vec::new();
        for found in found {
            totals.report(found, as_json, &mut out).unwrap();
        }
        (totals, String::from_utf8(out).unwrap())
    }

    fn class(verdict: FolderState) -> Found {
        let wnid = "n02124075".parse().unwrap();
        Found::Class {
            wnid,
            checked: VerifiedClass {
                verdict,
                files: 10,
                bytes: 1_500_000,
            },
        }
    }

    fn found() -> Vec<Found> {
        let wnid = "n02124075".parse().unwrap();
        let difference = |file: Option<&str>, difference| Found::Difference {
            wnid,
            file: file.map(str::to_owned),
            difference,
        };
        vec![
            difference(
                Some("a\n.JPEG"),
                Difference::Size {
                    listed: 7,
                    found: 9,
                },
            ),
            difference(None, Difference::Unreadable("no".to_owned())),
            class(FolderState::Differs),
            class(FolderState::Right),
            class(FolderState::NotProved("it has no manifest")),
            class(FolderState::Gone),
        ]
    }

    #[test]
    fn text_output_has_one_line_for_each_finding_and_the_totals() {
        let (totals, text) = lines(&found(), false);
        assert_eq!(
            text,
            "n02124075/a\\n.JPEG has 9 bytes, the manifest says 7\n\
             n02124075 cannot be read (no)\n\
             n02124075 is not proved: it has no manifest\n"
        );
        assert_eq!(
            totals.text(),
            "3 classes: 1 right, 1 different, 1 not proved; 30 files, 4.50MB compared"
        );
        let one = Totals {
            classes: 1,
            right: 1,
            files: 1,
            bytes: 7,
            ..Totals::default()
        };
        assert_eq!(
            one.text(),
            "1 class: 1 right, 0 different, 0 not proved; 1 file, 7B compared"
        );
    }

    #[test]
    fn json_output_has_one_object_for_each_finding_and_the_totals() {
        let (totals, text) = lines(&found(), true);
        assert_eq!(
            text,
            r#"{"class":"n02124075","file":"a\n.JPEG","difference":"size","text":"has 9 bytes, the manifest says 7"}
{"class":"n02124075","file":null,"difference":"unreadable","text":"cannot be read (no)"}
{"class":"n02124075","file":null,"difference":"not_proved","text":"it has no manifest"}
"#
        );
        let totals = json(&totals);
        assert_eq!(
            totals,
            r#"{"classes":3,"right":1,"different":1,"not_proved":1,"files":30,"bytes":4500000}"#
        );
    }

    #[test]
    fn unproved_classes_fail_only_in_strict_mode() {
        for (verdict, lenient, strict) in [
            (FolderState::Right, Exit::Done, Exit::Done),
            (FolderState::NotProved(""), Exit::Done, Exit::SomeFailed),
            (FolderState::Differs, Exit::SomeFailed, Exit::SomeFailed),
        ] {
            let (totals, _) = lines(&[class(verdict)], false);
            assert_eq!((totals.exit(false), totals.exit(true)), (lenient, strict));
        }
    }
}
