//! Where workers on one storage find one another: empty files in `idle/` in the staging area whose
//! names say everything.
//!
//! Who has a free slot puts up a notice, named by a number that nobody else has. Who has a transfer that is worth cutting
//! renames it: behind the number now stands which bytes of which staging folder to fetch. Of several only one can rename it,
//! or take it down. A renamed notice is a task: a shorter one is another name, and without it there is nothing to do. Both
//! sides may vanish at any moment, and neither waits for the other; what is fetched proves itself ([`super::part_file`]).

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use shared::{Wnid, listing::list};

use crate::file_tree::remove_if_there;

/// Folder in the staging area.
const IDLE: &str = "idle";
/// More than these are not read.
const NOTICES: usize = 256;

/// Somebody who would fetch a part.
pub(crate) type Hand = u64;

/// A part that somebody was asked to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) hand: Hand,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Name of the staging folder.
    pub(crate) staging: String,
}

impl Task {
    fn name(&self) -> String {
        let Self { hand, start, end, staging } = self;
        format!("{hand:016x}@{start}-{end}@{staging}")
    }

    fn parse(name: &str) -> Option<Self> {
        let mut words = name.splitn(3, '@');
        let hand = Hand::from_str_radix(words.next()?, 16).ok()?;
        let (start, end) = words.next()?.split_once('-')?;
        let (start, end) = (start.parse().ok()?, end.parse().ok()?);
        let staging = words.next().filter(|name| !name.contains('/'))?.to_owned();
        staging.split_once('.')?.0.parse::<Wnid>().ok()?;
        (start < end).then_some(Self { hand, start, end, staging })
    }

    /// Name of the part's file.
    pub(crate) fn file(&self) -> String {
        let Self { hand, start, .. } = self;
        format!("{start}.{hand:016x}")
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    area: PathBuf,
}

impl Board {
    /// The board of a target, by its staging area.
    pub(crate) fn of(area: &Path) -> Self {
        Self { area: area.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.area.join(IDLE).join(name)
    }

    /// A staging folder in the same target.
    pub(crate) fn staging(&self, task: &Task) -> PathBuf {
        self.area.join(&task.staging)
    }

    /// Says that somebody could fetch a part.
    pub(crate) fn put_up(&self) -> io::Result<Hand> {
        let hand = rand::random();
        let path = self.path(&notice(hand));
        if File::create_new(&path).is_err() {
            // Never the area itself, which could be on a disk that is gone.
            match fs::create_dir(self.area.join(IDLE)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => File::create_new(&path)?,
            };
        }
        Ok(hand)
    }

    /// Takes down what was put up, or the task that became of it.
    pub(crate) fn take_down(&self, hand: Hand) -> io::Result<()> {
        if fs::remove_file(self.path(&notice(hand))).is_ok() {
            return Ok(());
        }
        self.task(hand)?.map_or(Ok(()), |task| self.end(&task))
    }

    /// Those who wait for a task.
    pub(crate) fn waiting(&self) -> io::Result<Vec<Hand>> {
        let hands = self.names()?.into_iter().filter(|name| !name.contains('@'));
        Ok(hands.filter_map(|name| Hand::from_str_radix(&name, 16).ok()).collect())
    }

    /// What somebody was asked to do; `None` if nobody has, or does not want it any more.
    pub(crate) fn task(&self, hand: Hand) -> io::Result<Option<Task>> {
        let prefix = notice(hand);
        let name = self.names()?.into_iter().find(|name| name.starts_with(&prefix));
        Ok(name.as_deref().and_then(Task::parse))
    }

    /// Whether a notice stands as it was put up.
    pub(crate) fn is_up(&self, hand: Hand) -> bool {
        self.path(&notice(hand)).exists()
    }

    /// Whether a task stands as it was given.
    pub(crate) fn stands(&self, task: &Task) -> bool {
        self.path(&task.name()).exists()
    }

    /// Gives somebody a task; an error if another was first, or there is nobody any more.
    pub(crate) fn give(&self, task: &Task) -> io::Result<()> {
        fs::rename(self.path(&notice(task.hand)), self.path(&task.name()))
    }

    /// Makes a task shorter; an error if nobody works on it any more.
    pub(crate) fn shorten(&self, task: &mut Task, end: u64) -> io::Result<()> {
        let shorter = Task { end, ..task.clone() };
        fs::rename(self.path(&task.name()), self.path(&shorter.name()))?;
        *task = shorter;
        Ok(())
    }

    /// The end of a task, from either side.
    pub(crate) fn end(&self, task: &Task) -> io::Result<()> {
        remove_if_there(fs::remove_file(self.path(&task.name())))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match list(&self.area.join(IDLE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        entries.take(NOTICES).map(|entry| Ok(entry?.text().unwrap_or_default().to_owned())).collect()
    }
}

fn notice(hand: Hand) -> String {
    format!("{hand:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> (tempfile::TempDir, Board) {
        let folder = tempfile::tempdir().unwrap();
        let board = Board::of(folder.path());
        (folder, board)
    }

    fn task(hand: Hand) -> Task {
        Task { hand, start: 500, end: 900, staging: "n00000001.0123456789abcdef".to_owned() }
    }

    #[test]
    fn a_name_says_what_the_task_is_and_nothing_else_is_one() {
        let task = task(7);
        assert_eq!(Task::parse(&task.name()), Some(task.clone()));
        assert_eq!(task.file(), "500.0000000000000007");
        for name in
            ["", "7", "7@5-9", "x@5-9@n", "7@9-9@n", "7@9-5@n", "7@-5@n", "7@5-9@../n", "7@5-9@..", "7@5-9@idle"]
        {
            assert_eq!(Task::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_notice_becomes_one_task_which_can_be_shortened_and_ended() {
        let (_folder, board) = board();
        assert!(board.waiting().unwrap().is_empty());
        let hand = board.put_up().unwrap();
        assert_eq!((board.waiting().unwrap(), board.is_up(hand), board.task(hand).unwrap()), (vec![hand], true, None));
        let mut given = task(hand);
        board.give(&given).unwrap();
        assert!(board.give(&Task { start: 1, ..given.clone() }).is_err(), "another was first");
        assert_eq!((board.waiting().unwrap(), board.is_up(hand)), (vec![], false));
        assert_eq!(board.task(hand).unwrap().as_ref(), Some(&given));
        board.shorten(&mut given, 700).unwrap();
        assert_eq!((given.end, board.stands(&given)), (700, true));
        assert_eq!(board.task(hand).unwrap().as_ref(), Some(&given));
        board.end(&given).unwrap();
        assert_eq!((board.task(hand).unwrap(), board.stands(&given)), (None, false));
        assert!(board.shorten(&mut given, 600).is_err(), "nobody works on it any more");
    }

    #[test]
    fn who_leaves_takes_its_notice_or_its_task_down() {
        let (folder, board) = board();
        board.take_down(board.put_up().unwrap()).unwrap();
        let hand = board.put_up().unwrap();
        board.give(&task(hand)).unwrap();
        board.take_down(hand).unwrap();
        board.take_down(hand).unwrap();
        assert_eq!(fs::read_dir(folder.path().join(IDLE)).unwrap().count(), 0);
    }
}
