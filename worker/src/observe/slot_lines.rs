//! The downloads of a worker as lines for the terminal: one for each slot that has a class, with
//! its progress or with what it waits for. Pure: time and size of the terminal are passed in.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use shared::{
    Wnid,
    job_line::{approximate, clock, short},
    terminal::{Emphasis, Line, Size, width},
};
use tokio::time::Instant;

use crate::observe::progress::ClassProgress;

/// The shown rate is the mean over this time.
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// A class that has received nothing for this long shows what it waits for.
const STALL: Duration = Duration::from_secs(1);
/// Narrower bars are omitted, in cells.
const MIN_BAR: usize = 4;
/// A cell of the bar in eighths, the full one first.
const EIGHTHS: [char; 9] = ['█', '▉', '▊', '▋', '▌', '▍', '▎', '▏', ' '];

/// The lines, and the positions that they were made of.
#[derive(Debug, Default)]
pub(crate) struct SlotLines(BTreeMap<usize, Seen>);

/// What was seen of the class in a slot.
#[derive(Debug)]
struct Seen {
    wnid: Wnid,
    /// Times and positions within [`RATE_WINDOW`], the oldest first. Reset when the position
    /// decreases.
    positions: VecDeque<(Instant, u64)>,
    /// When the position last changed.
    moved_at: Instant,
}

impl SlotLines {
    /// The lines for these classes, in the order of their slots, at most `room.rows`. If there are
    /// more, the last line counts the rest.
    pub(crate) fn lines<'class>(
        &mut self,
        classes: impl Iterator<Item = &'class ClassProgress>,
        now: Instant,
        room: Size,
    ) -> Vec<Line> {
        let mut former = std::mem::take(&mut self.0);
        let mut lines = Vec::new();
        let mut waiting = Vec::new();
        for class in classes {
            let known = former.remove(&class.slot);
            let mut seen = known
                .filter(|seen| seen.wnid == class.wnid)
                .unwrap_or_else(|| Seen::of(class, now));
            seen.update(class.position(), now);
            let (line, waits) = line(class, &seen, now, room.columns);
            lines.push(line);
            waiting.push(waits);
            self.0.insert(class.slot, seen);
        }
        if lines.len() > room.rows {
            let shown = room.rows.saturating_sub(1);
            let more = lines.len() - shown;
            let waits = waiting[shown..].iter().filter(|waits| **waits).count();
            lines.truncate(shown);
            let text = format!("… and {more} more downloads, {waits} of them waiting");
            lines.push(Line::emphasized(text, Emphasis::Faint));
        }
        lines
    }
}

impl Seen {
    fn of(class: &ClassProgress, now: Instant) -> Self {
        Self {
            wnid: class.wnid,
            positions: VecDeque::new(),
            moved_at: now,
        }
    }

    fn update(&mut self, position: u64, now: Instant) {
        let last = self.positions.back().map(|(_, position)| *position);
        if last.is_some_and(|last| position < last) {
            self.positions.clear();
        }
        if last != Some(position) {
            self.moved_at = now;
        }
        self.positions.push_back((now, position));
        self.positions
            .retain(|(then, _)| now - *then <= RATE_WINDOW);
    }

    /// Bytes per second.
    fn rate(&self, now: Instant) -> f64 {
        let Some(((then, first), (_, last))) = self.positions.front().zip(self.positions.back())
        else {
            return 0.0;
        };
        let seconds = (now - *then).as_secs_f64();
        if seconds > 0.0 {
            approximate(last - first) / seconds
        } else {
            0.0
        }
    }
}

/// The line of a class, and whether it waits. As tqdm writes it while bytes arrive:
/// `[00] n02124075: 100%|████████| 45.2M/45.2M [00:23<00:00, 1.95MB/s]`.
fn line(class: &ClassProgress, seen: &Seen, now: Instant, columns: usize) -> (Line, bool) {
    let head = format!("[{:02}] {}:", class.slot, class.wnid);
    let elapsed = clock(now.saturating_duration_since(class.since));
    let length = class.length();
    let position = class.position();
    if class.is_local() {
        let step = if class.has_begun() {
            "publishing"
        } else {
            "reading what is there"
        };
        return (Line::plain(format!("{head} {step} [{elapsed}]")), false);
    }
    let is_moving = class.has_begun() && now - seen.moved_at < STALL;
    let reason = class.waits.reason(now).filter(|_| !is_moving);
    if !class.has_begun() {
        let reason = reason.map(|reason| format!(": {reason}"));
        let text = format!("{head} waiting [{elapsed}]{}", reason.unwrap_or_default());
        return (Line::emphasized(text, Emphasis::Faint), true);
    }
    let waits = reason.is_some();
    let rate = seen.rate(now);
    let state = match reason {
        Some(reason) => format!(", waiting: {reason}"),
        None => format!(", {}B/s", short(rate)),
    };
    if length == 0 {
        let position = short(approximate(position));
        let text = format!("{head} {position} [{elapsed}{state}]");
        return (Line::plain(text), waits);
    }
    let left = if waits {
        String::new()
    } else {
        format!("<{}", time_left(length.saturating_sub(position), rate))
    };
    let part = (approximate(position) / approximate(length)).min(1.0);
    let before = format!("{head} {:>3.0}%|", (part * 100.0).floor());
    let after = format!(
        "| {}/{} [{elapsed}{left}{state}]",
        short(approximate(position)),
        short(approximate(length))
    );
    let cells = columns.saturating_sub(1 + width(&before) + width(&after));
    let text = format!("{before}{}{after}", bar(part, cells));
    (Line::plain(text), waits)
}

fn time_left(bytes: u64, rate: f64) -> String {
    let seconds = approximate(bytes) / rate;
    Duration::try_from_secs_f64(seconds).map_or_else(|_| "--:--".to_owned(), clock)
}

/// A bar of so many cells; empty if those are too few.
fn bar(part: f64, cells: usize) -> String {
    if cells < MIN_BAR {
        return String::new();
    }
    let eighths = eighths(part, cells);
    let cell = |at: usize| EIGHTHS[8 - eighths.saturating_sub(at * 8).min(8)];
    (0..cells).map(cell).collect()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a part of the cells of a terminal"
)]
fn eighths(part: f64, cells: usize) -> usize {
    (part * (cells * 8) as f64) as usize
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shared::job_line::Screen;

    use super::*;
    use crate::observe::progress::Progress;

    const WIDE: Size = Size {
        columns: 100,
        rows: 20,
    };

    fn class(slot: usize) -> ClassProgress {
        let wnid = format!("n{:08}", 2_124_075 + slot).parse().unwrap();
        Progress::new(Screen::Silent, Arc::default()).class(slot, wnid)
    }

    fn shown(lines: &mut SlotLines, classes: &[ClassProgress], room: Size) -> Vec<String> {
        let now = Instant::now();
        let lines = lines.lines(classes.iter(), now, room).into_iter();
        lines.map(|line| line.text).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_has_the_format_of_tqdm() {
        let mut lines = SlotLines::default();
        let classes = [class(0)];
        let mut shown = || shown(&mut lines, &classes, WIDE).remove(0);
        assert_eq!(shown(), "[00] n02124075: waiting [00:00]");
        classes[0].begin(0, None);
        assert_eq!(shown(), "[00] n02124075: 0 [00:00, 0B/s]");
        classes[0].begin(0, Some(45_200_000));
        tokio::time::advance(Duration::from_secs(5)).await;
        classes[0].received(22_600_000);
        let line = shown();
        assert!(line.starts_with("[00] n02124075:  50%|██"), "{line}");
        assert!(
            line.ends_with(" | 22.6M/45.2M [00:05<00:05, 4.52MB/s]"),
            "{line}"
        );
        assert_eq!(width(&line), 99, "{line}");
        assert!(!line.contains("waiting"), "{line}");
        classes[0].received(22_600_000);
        let _local = classes[0].locally();
        assert_eq!(shown(), "[00] n02124075: publishing [00:05]");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_that_waits_says_for_what_and_one_that_receives_does_not() {
        let mut lines = SlotLines::default();
        let classes = [class(0)];
        let mut shown = || shown(&mut lines, &classes, WIDE).remove(0);
        let began = Instant::now();
        let wait = classes[0].waits.begin(move |now| {
            format!(
                "origin asked for 12 s, {} s left",
                12 - (now - began).as_secs()
            )
        });
        assert_eq!(
            shown(),
            "[00] n02124075: waiting [00:00]: origin asked for 12 s, 12 s left"
        );
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(
            shown(),
            "[00] n02124075: waiting [00:02]: origin asked for 12 s, 10 s left"
        );
        classes[0].begin(100, Some(1000));
        classes[0].received(100);
        assert!(!shown().contains("waiting"), "another connection receives");
        tokio::time::advance(STALL).await;
        let line = shown();
        assert!(
            line.ends_with("| 200/1.00k [00:03, waiting: origin asked for 12 s, 9 s left]"),
            "{line}"
        );
        drop(wait);
        assert!(shown().ends_with("B/s]"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_slots_fit_on_any_terminal() {
        let mut lines = SlotLines::default();
        let classes: Vec<_> = (0..1000).map(class).collect();
        for class in &classes[..10] {
            class.begin(0, Some(100));
        }
        for rows in [0, 1, 2, 20, 1000] {
            for columns in [0, 5, 40, 300] {
                let shown = shown(&mut lines, &classes, Size { columns, rows });
                assert!(shown.len() <= rows.max(1), "{rows}: {}", shown.len());
            }
        }
        let last = shown(&mut lines, &classes, WIDE).pop().unwrap();
        assert_eq!(last, "… and 981 more downloads, 981 of them waiting");
    }

    #[tokio::test(start_paused = true)]
    async fn another_class_in_the_slot_has_no_rate_of_the_former_one() {
        let mut lines = SlotLines::default();
        let first = [class(0)];
        first[0].begin(0, Some(1000));
        shown(&mut lines, &first, WIDE);
        first[0].received(900);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(shown(&mut lines, &first, WIDE)[0].ends_with("900B/s]"));
        let wnid = "n00000001".parse().unwrap();
        let second = [Progress::new(Screen::Silent, Arc::default()).class(0, wnid)];
        second[0].begin(900, Some(1000));
        assert!(shown(&mut lines, &second, WIDE)[0].ends_with(", 0B/s]"));
        assert_eq!(shown(&mut lines, &[], WIDE), [""; 0]);
        assert!(lines.0.is_empty(), "nothing is kept of a free slot");
    }
}
