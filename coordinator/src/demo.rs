//! A little ImageNet, so that everything can be seen at work in a few seconds, faults included: in this process with `--demo`,
//! and alone as `coordinator demo-origin`, for a cluster on one machine.

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

/// A class of --demo takes about this long, so that there is something to see.
const CLASS_TAKES: Duration = Duration::from_millis(1500);

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
    server: JoinSet<io::Result<()>>,
}

/// The demo could not start.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The address is not to be had.
    #[error("start the demo's origin on {address}: {source}; give another address with --listen")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// It served, and cannot any more.
    #[error("serve the demo's classes: {0}")]
    Serve(#[from] io::Error),
    /// Its address is no URL.
    #[error("use the URL of the demo's origin: {0}")]
    Url(#[from] InvalidUrl),
}

impl Demo {
    /// As [`Self::listen`], on a free port of the loopback address.
    ///
    /// # Errors
    /// [`DemoError`] when there is no port to be had.
    pub async fn start() -> Result<Self, DemoError> {
        Self::listen((Ipv4Addr::LOCALHOST, 0).into(), CLASS_TAKES).await
    }

    /// Draws the pictures and serves them; a class takes so long over one connection.
    ///
    /// # Errors
    /// [`DemoError`] when the address is not to be had.
    pub async fn listen(address: SocketAddr, class_takes: Duration) -> Result<Self, DemoError> {
        let listener = TcpListener::bind(address).await.map_err(|source| DemoError::Bind { address, source })?;
        let url = UrlTemplate::parse(&format!("http://{}", listener.local_addr()?))?;
        let classes = wnids();
        let draw = move || origin::router(&classes, class_takes);
        let router = tokio::task::spawn_blocking(draw).await.map_err(io::Error::other)?;
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await });
        let wnids = wnids().into_iter().map(|(wnid, _)| wnid).collect();
        Ok(Self { url, wnids, server })
    }

    /// Serves until something breaks.
    ///
    /// # Errors
    /// What broke.
    pub async fn served(mut self) -> Result<(), DemoError> {
        while let Some(ended) = self.server.join_next().await {
            ended.map_err(io::Error::other)??;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use shared::class_list::ClassList;

    use super::*;

    #[test]
    fn the_list_of_the_demo_cluster_names_what_its_origin_has() {
        let list = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/demo.csv");
        let mut listed = ClassList::read(list.as_ref()).unwrap().wnids;
        let mut served: Vec<Wnid> = wnids().into_iter().map(|(wnid, _)| wnid).collect();
        listed.sort();
        served.sort();
        assert_eq!(listed, served);
    }
}
