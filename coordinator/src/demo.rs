//! `--demo`: a little ImageNet in this process, so that everything can be seen at work in a few seconds, faults included.

use std::{io, net::Ipv4Addr};

use shared::{
    Wnid,
    job::{InvalidUrl, UrlTemplate},
};
use tokio::{net::TcpListener, task::JoinSet};

mod origin;
mod pictures;

/// The classes of the demo and what happens to them. All but the last are of ImageNet.
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

/// How the origin answers for a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    /// With the tar.
    Plain,
    /// 503 the first time.
    BusyFirst,
    /// The first answer breaks off in the middle of the body.
    CutFirst,
    /// 404, always.
    Missing,
}

/// A running demo origin. It ends when this is dropped.
#[derive(Debug)]
pub struct Demo {
    /// Where its tars are.
    pub url: UrlTemplate,
    /// The classes that it is asked for.
    pub wnids: Vec<Wnid>,
    _server: JoinSet<io::Result<()>>,
}

/// The demo could not start.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// No port on the loopback address.
    #[error("start the demo's origin on 127.0.0.1: {0}")]
    Bind(#[from] io::Error),
    /// Its address is no URL.
    #[error("use the URL of the demo's origin: {0}")]
    Url(#[from] InvalidUrl),
}

impl Demo {
    /// Draws the pictures and serves them on a free port of the loopback address.
    ///
    /// # Errors
    /// [`DemoError`] when there is no port to be had.
    pub async fn start() -> Result<Self, DemoError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = UrlTemplate::parse(&format!("http://{}", listener.local_addr()?))?;
        let classes = wnids();
        let router = tokio::task::spawn_blocking(move || origin::router(&classes)).await.map_err(io::Error::other)?;
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await });
        let wnids = wnids().into_iter().map(|(wnid, _)| wnid).collect();
        Ok(Self { url, wnids, _server: server })
    }

    /// What is about to be seen, in one line.
    pub fn announcement(&self) -> String {
        format!(
            "demo: {} classes from a little origin in this process; one connection is cut, one answer is 503, and n99999999 \
             is missing, so one class fails and the exit code is 1",
            self.wnids.len()
        )
    }
}

fn wnids() -> Vec<(Wnid, Script)> {
    CLASSES.iter().map(|(wnid, script)| (wnid.parse().expect("the list above holds ids"), *script)).collect()
}
