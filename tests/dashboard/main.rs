//! The page of the coordinator and its data: who may look, who may retry, and that viewers slow
//! nothing.

mod access;
mod client;
mod streams;

use std::path::{Path, PathBuf};

use tests::{
    answer::Answer,
    archives::images,
    cluster::{Coordinator, Job},
    origin::Origin,
};

/// A job of which the first class is missing at the origin.
struct Watched {
    job: Job,
    origin: Origin,
}

impl Watched {
    fn of(classes: u64) -> Self {
        let origin = Origin::start();
        let wnids: Vec<String> = (1..=classes)
            .map(|number| format!("n{number:08}"))
            .collect();
        for (seed, wnid) in (1..).zip(&wnids) {
            origin.class(wnid, images(wnid, 5, 5000..15_000, seed));
        }
        let missing = origin.script_of(&wnids[0]).expect("it is served");
        missing.script([Answer::status(404)]);
        let wnids = wnids.iter().map(String::as_str);
        let job = Job::new().classes(wnids).origin(&origin);
        Self { job, origin }
    }

    /// Adds the files of `coordinator init`, certificates and tokens, and more arguments.
    fn with_tokens(self, more: &[&str]) -> Self {
        let folder = text(&self.trust(""));
        let made = self
            .job
            .start_with(["init", "--dir", &folder, "--advertise", "127.0.0.1"]);
        let made = made.wait();
        assert_eq!(made.code, Some(0), "{}", made.stderr);
        let [cert, key, tokens] =
            ["server.pem", "server.key", "tokens"].map(|name| text(&self.trust(name)));
        let args = [
            "--tls-cert",
            &cert,
            "--tls-key",
            &key,
            "--token-file",
            &tokens,
        ];
        Self {
            job: self.job.args(args.into_iter().chain(more.iter().copied())),
            origin: self.origin,
        }
    }

    fn args(self, args: &[&str]) -> Self {
        Self {
            job: self.job.args(args.iter().copied()),
            origin: self.origin,
        }
    }

    /// Keeps the job from its end: a class stalls.
    fn held(self, wnid: &str) -> Self {
        let class = self.origin.script_of(wnid).expect("it is served");
        class.script([Answer::stall_at(1000)]);
        self
    }

    /// The path of a file of `coordinator init`.
    fn trust(&self, name: &str) -> PathBuf {
        self.job.folder().join("trust").join(name)
    }

    /// The token of this role.
    fn token(&self, role: &str) -> String {
        let token = std::fs::read_to_string(self.trust(&format!("{role}.token")));
        token.expect("init created it").trim().to_owned()
    }

    fn start(&self) -> Coordinator {
        self.job.start_coordinator()
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("a plain path").to_owned()
}
