//! The free slots of a worker that has nothing else to do: each fetches parts for whoever asks on the board.
//!
//! Nothing of it can fail a class. Who asked does not wait for long, and proves what it finds.

use std::{io, sync::Arc, time::Duration};

use shared::{Wnid, job::UrlTemplate};
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    board::{Board, Hand, Task},
    fetch_part::{Ended, Shared, Tar},
    part_file::{PartWriter, Version},
};
use crate::{
    checkpoint,
    download_error::shown,
    progress::{ClassProgress, Progress},
    site::Site,
    source::Source,
};

/// A worker puts up no more notices than these.
const MOST: usize = 16;
/// How often a notice, or a task, is looked at.
const INTERVAL: Duration = Duration::from_millis(250);
/// After something that did not work, or while nobody else is at work in the target.
const PAUSE: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Hands {
    stops: Vec<CancellationToken>,
    tasks: JoinSet<()>,
}

impl Hands {
    /// So many slots are free.
    pub(crate) fn lend(&mut self, count: usize, site: &Arc<Site>, progress: &Progress) {
        while self.tasks.try_join_next().is_some() {}
        for stop in self.stops.split_off(count.min(self.stops.len())) {
            stop.cancel();
        }
        while self.stops.len() < count.min(MOST) {
            let stop = CancellationToken::new();
            self.stops.push(stop.clone());
            self.tasks.spawn(lend_a_hand(Arc::clone(site), Arc::new(progress.beside()), stop));
        }
    }

    /// Slots that are on this.
    pub(crate) fn count(&self) -> usize {
        self.stops.len()
    }

    /// Ends all of it, and waits for that.
    pub(crate) async fn withdraw(&mut self) {
        self.stops.drain(..).for_each(|stop| stop.cancel());
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for Hands {
    /// What is on its way ends as it does when the task is taken back.
    fn drop(&mut self) {
        self.stops.iter().for_each(CancellationToken::cancel);
    }
}

async fn lend_a_hand(site: Arc<Site>, progress: Arc<ClassProgress>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match once(&site, &progress, &stop).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "no part can be fetched for another worker now"),
        }
        stop.run_until_cancelled(sleep(PAUSE)).await;
    }
}

/// Waits for a task and does it. Says whether that went well.
async fn once(site: &Arc<Site>, progress: &Arc<ClassProgress>, stop: &CancellationToken) -> io::Result<bool> {
    let (board, here) = (Board::of(site.target().staging()), Arc::clone(site));
    let notices = board.clone();
    let put_up = move || here.target().has_neighbours().then(|| notices.put_up()).transpose();
    let Some(hand) = off_the_runtime(put_up).await? else { return Ok(false) };
    let fetched = match asked(&board, hand, stop).await? {
        Some(task) => fetch(site, &board, task, progress, stop).await?,
        None => stop.is_cancelled(),
    };
    off_the_runtime(move || board.take_down(hand)).await?;
    Ok(fetched)
}

/// What somebody asks for; `None` if the notice is gone, or is not to stay.
async fn asked(board: &Board, hand: Hand, stop: &CancellationToken) -> io::Result<Option<Task>> {
    loop {
        if stop.run_until_cancelled(sleep(INTERVAL)).await.is_none() {
            return Ok(None);
        }
        let board = board.clone();
        let look = move || if board.is_up(hand) { Ok(None) } else { board.task(hand).map(Some) };
        if let Some(task) = off_the_runtime(look).await? {
            return Ok(task);
        }
    }
}

/// Fetches a part into the staging folder of whoever asked. Says whether anything came.
async fn fetch(
    site: &Arc<Site>,
    board: &Board,
    task: Task,
    progress: &Arc<ClassProgress>,
    stop: &CancellationToken,
) -> io::Result<bool> {
    let (asking, known, here) = (board.clone(), task.clone(), Arc::clone(site));
    let Some((url, source)) = off_the_runtime(move || Ok(of_this_job(&here.job.url, &asking, &known))).await? else {
        return Ok(false);
    };
    tracing::debug!(url = %shown(&url), start = task.start, end = task.end, "fetching a part for another worker");
    let (origin, _) = site.beside();
    let tar = Tar { origin: origin.clone(), url, retries: site.job.retries, progress: Arc::clone(progress) };
    let mut shared = Shared::new(task.start, task.end, Arc::default());
    shared.stop = stop.child_token();
    let shared = Arc::new(shared);
    let path = board.staging(&task).join("parts").join(task.file());
    let (start, writer) = (task.start, PartWriter::new(path, Version::of(&source), task.start));
    let fetch = async {
        let ended = tar.fetch(source, writer, Arc::clone(&shared)).await;
        shared.stop.cancel();
        ended
    };
    let (ended, ()) = tokio::join!(fetch, watch(board, task, &shared));
    Ok(ended == Ended::Done || shared.reached() > start)
}

/// The tar that a task is of, if it is one of this job.
fn of_this_job(job: &UrlTemplate, board: &Board, task: &Task) -> Option<(Url, Source)> {
    let wnid: Wnid = task.staging.split_once('.')?.0.parse().ok()?;
    let url = job.for_class(wnid);
    let (source, _) = checkpoint::open(&board.staging(task).join("journal"))?;
    let is_here = source.url == shown(&url) && source.validator().is_some();
    (is_here && source.length.is_some_and(|length| task.end <= length)).then_some((url, source))
}

/// Stops when the task is taken back, or its staging folder is another's, and before its end where that comes nearer.
async fn watch(board: &Board, mut task: Task, shared: &Shared) {
    while shared.stop.run_until_cancelled(sleep(INTERVAL)).await.is_some() {
        let asking = board.clone();
        let look = move || {
            let current = if asking.stands(&task) { Some(task) } else { asking.task(task.hand)? };
            Ok(current.filter(|task| asking.staging(task).exists()))
        };
        match off_the_runtime(look).await {
            Ok(Some(current)) => {
                shared.until.set(current.end);
                task = current;
            }
            Ok(None) | Err(_) => return shared.stop.cancel(),
        }
    }
}

/// Who waits for a slow disk keeps nobody else waiting.
async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Journal;

    #[test]
    fn a_task_is_done_only_if_it_is_of_a_tar_of_the_same_job() {
        let folder = tempfile::tempdir().unwrap();
        let board = Board::of(folder.path());
        let [ours, others] = ["http://127.0.0.1:1", "http://127.0.0.1:2"].map(|url| UrlTemplate::parse(url).unwrap());
        let task = |staging: &str, end| Task { hand: 1, start: 0, end, staging: staging.to_owned() };
        let source = |url: &UrlTemplate, etag: Option<&str>| Source {
            url: shown(&url.for_class("n00000001".parse().unwrap())),
            length: Some(1000),
            etag: etag.map(str::to_owned),
            ..Source::default()
        };
        for (staging, source) in [
            ("n00000001.a", source(&ours, Some("\"tag\""))),
            ("n00000001.b", source(&ours, None)),
            ("n00000001.c", source(&others, Some("\"tag\""))),
            ("n00000002.d", source(&ours, Some("\"tag\""))),
            ("nobody.e", source(&ours, Some("\"tag\""))),
        ] {
            std::fs::create_dir(folder.path().join(staging)).unwrap();
            Journal::create(&folder.path().join(staging).join("journal"), &source).unwrap();
        }
        let (_, found) = of_this_job(&ours, &board, &task("n00000001.a", 1000)).unwrap();
        assert_eq!(found, source(&ours, Some("\"tag\"")));
        for (staging, end, why) in [
            ("n00000001.a", 1001, "it is shorter"),
            ("n00000001.b", 1000, "nothing would prove its version"),
            ("n00000001.c", 1000, "it comes from elsewhere"),
            ("n00000002.d", 1000, "the journal is of another class"),
            ("nobody.e", 1000, "it is of no class"),
            ("n00000001.f", 1000, "there is none"),
        ] {
            assert!(of_this_job(&ours, &board, &task(staging, end)).is_none(), "{why}");
        }
    }
}
