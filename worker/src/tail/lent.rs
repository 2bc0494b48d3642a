//! A part that another worker on the same storage fetches, as the class sees it: a file that grows until the task is over.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::{
    board::{Board, Task},
    fetch_part::{Ended, Shared},
    part_file::bytes_in,
};
use crate::progress::ClassProgress;

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_millis(200);

/// A task as it stands, and the file that is to come of it.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) board: Board,
    pub(crate) task: Task,
    pub(crate) path: PathBuf,
    /// Who has brought nothing for so long is not waited for.
    pub(crate) patience: Duration,
}

/// What a look has found.
struct Seen {
    /// The file seems to have the tar's bytes up to here; they are proved when they are read.
    reached: u64,
    is_over: bool,
}

impl Lent {
    /// Follows the file until the task is over, by whosever will. Then nobody counts on what still comes.
    pub(crate) async fn follow(mut self, progress: Arc<ClassProgress>, shared: Arc<Shared>) -> Ended {
        let (start, patience) = (self.task.start, self.patience);
        let mut grown = Instant::now();
        loop {
            let is_stopped = shared.stop.run_until_cancelled(sleep(INTERVAL)).await.is_none();
            let gives_up = is_stopped || grown.elapsed() > patience;
            let until = shared.until.get();
            let look = spawn_blocking(move || {
                let seen = self.look(until, gives_up);
                (self, seen)
            });
            // Only the end of the runtime takes it away.
            let Ok((same, Seen { reached, is_over })) = look.await else { return Ended::Failed };
            self = same;
            if let Some(more) = reached.checked_sub(shared.reached()).filter(|more| *more > 0) {
                progress.came_elsewhere(more);
                shared.has_grown(reached);
                grown = Instant::now();
            }
            if is_over {
                return if shared.reached() > start || is_stopped { Ended::Done } else { Ended::Failed };
            }
        }
    }

    fn look(&mut self, until: u64, gives_up: bool) -> Seen {
        let shortened = until >= self.task.end || self.board.shorten(&mut self.task, until).is_ok();
        // Before the file: who ends a task has written all that it had.
        let is_over = gives_up || !shortened || !self.board.stands(&self.task);
        if is_over && let Err(error) = self.board.end(&self.task) {
            tracing::info!(%error, "another worker may go on with what nobody waits for");
        }
        let Task { start, end, .. } = self.task;
        let length = fs::symlink_metadata(&self.path).map_or(0, |found| found.len());
        Seen { reached: start + bytes_in(length, end - start, is_over), is_over }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use shared::job_line::Screen;
    use tokio::{task::JoinSet, time::timeout};

    use super::*;
    use crate::progress::Progress;

    const MIB: u64 = 1 << 20;

    struct Story {
        folder: tempfile::TempDir,
        board: Board,
        task: Task,
        shared: Arc<Shared>,
        ended: JoinSet<Ended>,
    }

    /// A task from 1 to 2 MiB, and who follows it.
    fn story(patience: Duration) -> Story {
        let folder = tempfile::tempdir().unwrap();
        let board = Board::of(folder.path());
        let hand = board.put_up().unwrap();
        let task = Task { hand, start: MIB, end: 2 * MIB, staging: "n00000001.1".to_owned() };
        board.give(&task).unwrap();
        let shared = Arc::new(Shared::new(task.start, task.end, Arc::default()));
        let path = file(folder.path());
        let lent = Lent { board: board.clone(), task: task.clone(), path, patience };
        let progress = Arc::new(Progress::new(Screen::Silent, Arc::default()).beside());
        let ended = JoinSet::from_iter([lent.follow(progress, Arc::clone(&shared))]);
        Story { folder, board, task, shared, ended }
    }

    fn file(folder: &Path) -> PathBuf {
        folder.join("part")
    }

    async fn ends(story: Story) -> (Ended, u64) {
        let ended = timeout(Duration::from_secs(10), story.ended.join_all()).await.expect("it ends")[0];
        assert!(!story.board.stands(&story.task), "the task is over for the other side too");
        (ended, story.shared.reached())
    }

    #[tokio::test]
    async fn whole_blocks_count_at_once_and_the_last_one_with_the_end_of_the_task() {
        let story = story(Duration::from_mins(1));
        fs::write(file(story.folder.path()), vec![0; (256 << 10) + 36 + 136]).unwrap();
        while story.shared.reached() == MIB {
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(story.shared.reached(), MIB + (256 << 10));
        story.board.end(&story.task).unwrap();
        assert_eq!(ends(story).await, (Ended::Done, MIB + (256 << 10) + 100));
    }

    #[tokio::test]
    async fn a_shorter_part_is_a_shorter_task() {
        let mut story = story(Duration::from_mins(1));
        story.shared.until.set(MIB + 5000);
        let shorter = Task { end: MIB + 5000, ..story.task.clone() };
        while !story.board.stands(&shorter) {
            sleep(Duration::from_millis(20)).await;
        }
        story.task = shorter;
        story.shared.stop.cancel();
        assert_eq!(ends(story).await, (Ended::Done, MIB));
    }

    #[tokio::test]
    async fn who_brings_nothing_is_not_waited_for() {
        assert_eq!(ends(story(Duration::from_millis(300))).await, (Ended::Failed, MIB));
    }
}
