//! An HTTP server with twelve small classes (the demo's origin). The first request for two of them
//! fails on purpose, and a thirteenth class is in the list and does not exist. The server runs
//! inside of the coordinator with `--demo`, or as a process of its own with `coordinator
//! demo-origin`. It listens on one port and touches no file.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use shared::{
    Wnid,
    job::{InvalidUrl, UrlTemplate},
};
use tokio::{net::TcpListener, task::JoinSet};

mod origin;
mod pictures;

/// The classes of the demo and the origin's behaviour for each. All but the last exist in ImageNet.
const CLASSES: [(&str, Script); 13] = [
    ("n02124075", Script::Plain),     // Egyptian cat
    ("n02099601", Script::Plain),     // golden retriever
    ("n01443537", Script::CutFirst),  // goldfish
    ("n02165456", Script::Plain),     // ladybug
    ("n02279972", Script::Plain),     // monarch
    ("n02391049", Script::BusyFirst), // zebra
    ("n02504458", Script::Plain),     // African elephant
    ("n03792782", Script::Plain),     // mountain bike
    ("n04146614", Script::Plain),     // school bus
    ("n07753592", Script::Plain),     // banana
    ("n07873807", Script::Plain),     // pizza
    ("n09472597", Script::Plain),     // volcano
    ("n99999999", Script::Missing),
];

/// The download time of `--demo` (see [`Demo::listen`]), long enough to watch the progress.
const DOWNLOAD_TIME: Duration = Duration::from_millis(1500);

/// The origin's behaviour for a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    /// Sends the tar.
    Plain,
    /// Answers 503 to the first request.
    BusyFirst,
    /// Closes the first connection in the middle of the body.
    CutFirst,
    /// Always answers 404.
    Missing,
}

/// A running demo origin. It stops when it is dropped.
#[derive(Debug)]
pub struct Demo {
    /// The URL of its tars.
    pub url: UrlTemplate,
    /// The classes of the demo job.
    pub wnids: Vec<Wnid>,
    server: JoinSet<io::Result<()>>,
}

/// Why the demo could not start.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The address cannot be used.
    #[error("start the demo's origin on {address}: {source}; give another address with --listen")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The operating system's error.
        source: io::Error,
    },
    /// The server could not be prepared, or failed later.
    #[error("serve the demo's classes: {0}")]
    Serve(#[from] io::Error),
    /// The address is not a valid URL.
    #[error("use the URL of the demo's origin: {0}")]
    Url(#[from] InvalidUrl),
}

impl Demo {
    /// As [`Self::listen`], on a free port of the loopback address.
    ///
    /// # Errors
    /// [`DemoError`] if no port is available.
    pub async fn start() -> Result<Self, DemoError> {
        Self::listen((Ipv4Addr::LOCALHOST, 0).into(), DOWNLOAD_TIME).await
    }

    /// Creates the images and serves them on a local HTTP server. It limits its rate so that one
    /// connection takes `download_time` for a whole tar.
    ///
    /// # Errors
    /// [`DemoError`] if the address cannot be used.
    pub async fn listen(address: SocketAddr, download_time: Duration) -> Result<Self, DemoError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| DemoError::Bind { address, source })?;
        let url = UrlTemplate::parse(&format!("http://{}", listener.local_addr()?))?;
        let classes = wnids();
        let wnids = classes.iter().map(|(wnid, _)| *wnid).collect();
        let build_router = move || origin::router(&classes, download_time);
        let router = tokio::task::spawn_blocking(build_router).await;
        let router = router.map_err(io::Error::other)?;
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await });
        Ok(Self { url, wnids, server })
    }

    /// Serves until an error occurs.
    ///
    /// # Errors
    /// The server's error.
    pub async fn run_until_error(mut self) -> Result<(), DemoError> {
        while let Some(ended) = self.server.join_next().await {
            ended.map_err(io::Error::other)??;
        }
        Ok(())
    }

    /// One line for the user: what the demo shows, and how it ends.
    pub fn announcement(&self) -> String {
        format!(
            "demo: {} classes from a little origin in this process; one connection is cut, \
             one answer is 503, and n99999999 is missing, so one class fails and the exit code is \
             1",
            self.wnids.len()
        )
    }
}

fn wnids() -> Vec<(Wnid, Script)> {
    CLASSES
        .iter()
        .map(|(wnid, script)| (wnid.parse().expect("CLASSES has valid ids"), *script))
        .collect()
}

#[cfg(test)]
mod tests {
    use shared::class_list::ClassList;

    use super::*;

    #[test]
    fn the_demo_list_matches_the_classes_of_the_origin() {
        let list = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/demo.csv");
        let mut listed = ClassList::read(list.as_ref()).unwrap().wnids;
        let mut served: Vec<Wnid> = wnids().into_iter().map(|(wnid, _)| wnid).collect();
        listed.sort();
        served.sort();
        assert_eq!(listed, served);
    }
}
