//! Throughput and connections over the whole run in bounded memory: the older, the coarser. Pure:
//! the caller gives the time.
//!
//! In messages a point is an array: time in Unix seconds, bytes per second, limit, open connections
//! and settled classes. In a snapshot all but the rate are the differences to the last known value
//! before, and the first ones are whole.

use std::collections::VecDeque;

use serde::{Serialize, Serializer, ser::SerializeSeq as _};

use crate::ledger::{PastSpan, SPAN};

/// Seconds that one point of each level covers. Each level has [`POINTS`] points: 4 minutes, 1
/// hour, 16 hours and 10 days.
pub(super) const SPANS: [u64; 4] = [1, 15, 240, 3600];
/// Number of points of each level.
pub(super) const POINTS: usize = 240;

/// Throughput and connections in one span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    /// Start of the span, in seconds since 1970.
    pub(super) at: u64,
    /// Received from the origin, in bytes per second, averaged.
    pub(super) bytes_per_second: u64,
    /// Connections that were allowed at the end of the span; `None` if unknown.
    pub(super) limit: Option<u32>,
    /// Connections with a request, averaged; `None` if unknown.
    pub(super) open: Option<u32>,
    /// Settled classes at the end of the span.
    pub(super) settled: u64,
}

/// A change of the number of connections, or a pause, with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Mark {
    /// Time in Unix milliseconds.
    pub(super) at_ms: u64,
    /// Connections that are allowed since then.
    pub(super) limit: u32,
    /// The reason, in words.
    pub(super) why: String,
}

impl Serialize for Point {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            at,
            bytes_per_second,
            limit,
            open,
            settled,
        } = self;
        (at, bytes_per_second, limit, open, settled).serialize(serializer)
    }
}

/// Serializes points with the differences to the point before.
pub(super) fn as_differences<S: Serializer>(
    points: &[Point],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(points.len()))?;
    let mut at_before = 0;
    let mut settled_before = 0;
    let mut limit_before = 0;
    let mut open_before = 0;
    for point in points {
        // A retried class lowers the number of settled ones.
        let settled = point.settled.cast_signed() - settled_before;
        let since = point.at.saturating_sub(at_before);
        let limit = difference(point.limit, &mut limit_before);
        let open = difference(point.open, &mut open_before);
        list.serialize_element(&(since, point.bytes_per_second, limit, open, settled))?;
        at_before = point.at;
        settled_before = point.settled.cast_signed();
    }
    list.end()
}

/// The difference to the last known value, which becomes this one if it is known.
fn difference(value: Option<u32>, before: &mut i64) -> Option<i64> {
    let value = i64::from(value?);
    Some(value - std::mem::replace(before, value))
}

/// The points of one run.
#[derive(Debug, Default)]
pub(super) struct PointLevels {
    levels: [Level; SPANS.len()],
}

/// Complete points of one length, the oldest first, and the samples of the newest one.
#[derive(Debug, Default)]
struct Level {
    points: VecDeque<Point>,
    /// Start of the span of `samples`, in seconds since 1970.
    start: u64,
    samples: Samples,
}

/// Sums over samples, and the last values.
#[derive(Debug, Default, Clone, Copy)]
struct Samples {
    count: u64,
    bytes_per_second: u128,
    open: Option<u64>,
    limit: Option<u32>,
    settled: u64,
}

impl PointLevels {
    /// The points of earlier processes of the run: for each level, the oldest first.
    pub(super) fn restored(levels: [Vec<Point>; SPANS.len()]) -> Self {
        let level = |points: Vec<Point>| {
            let more = points.len().saturating_sub(POINTS);
            let points: VecDeque<Point> = points.into_iter().skip(more).collect();
            // A point that is complete is not begun again.
            let start = points.back().map_or(0, |last| last.at);
            Level {
                points,
                start,
                samples: Samples::default(),
            }
        };
        Self {
            levels: levels.map(level),
        }
    }

    /// Adds the figures of a second. Samples of the same second count as one; a sample that is
    /// older than the newest one (the clock was set back) counts as of the newest one's time.
    pub(super) fn add(&mut self, sample: Point) {
        for (level, span) in self.levels.iter_mut().zip(SPANS) {
            level.add(sample, span);
        }
    }

    /// All points, the oldest first: of each level those whose span ends before the next finer one
    /// begins. A span that reaches into it would begin before the run, or count its classes early.
    pub(super) fn points(&self) -> Vec<Point> {
        let mut points = Vec::with_capacity(POINTS * SPANS.len());
        for (place, level) in self.levels.iter().enumerate().rev() {
            let finer_from = place
                .checked_sub(1)
                .and_then(|finer| self.levels[finer].first());
            let end = |point: &Point| point.at + SPANS[place];
            let is_older = |point: &&Point| finer_from.is_none_or(|from| end(point) <= from);
            points.extend(level.points.iter().take_while(is_older));
        }
        points
    }
}

/// The points of the past that the ledger knows, by level. The finest level has none, because the
/// ledger's times are in spans of [`SPAN`] seconds.
pub(super) fn of_past(spans: &[PastSpan]) -> [Vec<Point>; SPANS.len()] {
    SPANS.map(|span| {
        let mut points: Vec<Point> = Vec::new();
        let mut settled = 0;
        let spans = if span < SPAN { &[] } else { spans };
        for past in spans {
            settled += past.classes;
            let at = past.at - past.at % span;
            let rate = past.bytes / span;
            match points.last_mut() {
                Some(last) if last.at == at => {
                    last.bytes_per_second = last.bytes_per_second.saturating_add(rate);
                    last.settled = settled;
                }
                _ => points.push(Point {
                    at,
                    bytes_per_second: rate,
                    limit: None,
                    open: None,
                    settled,
                }),
            }
        }
        points
    })
}

impl Level {
    fn add(&mut self, sample: Point, span: u64) {
        let start = sample.at - sample.at % span;
        if start > self.start {
            self.close(span);
            self.start = start;
        }
        let samples = &mut self.samples;
        samples.count += 1;
        samples.bytes_per_second += u128::from(sample.bytes_per_second);
        if let Some(open) = sample.open {
            *samples.open.get_or_insert(0) += u64::from(open);
        }
        samples.limit = sample.limit;
        samples.settled = sample.settled;
    }

    /// Makes a point of the samples. If the point of an earlier process covers a part of the span,
    /// the bytes are added to it.
    fn close(&mut self, span: u64) {
        let samples = std::mem::take(&mut self.samples);
        let count = samples.count;
        if count == 0 {
            return;
        }
        let open = samples.open.map(|open| open / count);
        let open = open.map(|open| u32::try_from(open).unwrap_or(u32::MAX));
        let whole = |rate: u128| u64::try_from(rate).unwrap_or(u64::MAX);
        if let Some(last) = self.points.back_mut().filter(|last| last.at >= self.start) {
            let more = whole(samples.bytes_per_second / u128::from(span));
            last.bytes_per_second = last.bytes_per_second.saturating_add(more);
            last.limit = samples.limit;
            last.open = open;
            last.settled = samples.settled;
            return;
        }
        if self.points.len() == POINTS {
            self.points.pop_front();
        }
        self.points.push_back(Point {
            at: self.start,
            bytes_per_second: whole(samples.bytes_per_second / u128::from(count)),
            limit: samples.limit,
            open,
            settled: samples.settled,
        });
    }

    /// Start of the oldest point.
    fn first(&self) -> Option<u64> {
        self.points.front().map(|point| point.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: u64) -> Point {
        Point {
            at,
            bytes_per_second: 1000,
            limit: Some(8),
            open: Some(4),
            settled: at,
        }
    }

    #[test]
    fn ten_days_of_seconds_are_a_bounded_number_of_points_in_order() {
        let mut history = PointLevels::default();
        for at in 0..10 * 24 * 3600 {
            history.add(sample(at));
        }
        let points = history.points();
        assert!(points.len() <= SPANS.len() * POINTS, "{}", points.len());
        assert!(points.is_sorted_by(|one, next| one.at < next.at));
        assert!(points.iter().all(|point| point.bytes_per_second == 1000));
        assert_eq!(points[0].at, 0);
        let last = points.last().unwrap().at;
        assert_eq!(
            last,
            10 * 24 * 3600 - 2,
            "the newest second is not complete"
        );
    }

    #[test]
    fn a_point_is_the_mean_of_its_samples_and_the_last_limit() {
        let mut history = PointLevels::default();
        for (at, bytes_per_second, limit) in [(100, 10, 8), (100, 30, 4), (101, 7, 2)] {
            history.add(Point {
                bytes_per_second,
                limit: Some(limit),
                ..sample(at)
            });
        }
        let expected = Point {
            bytes_per_second: 20,
            limit: Some(4),
            ..sample(100)
        };
        assert_eq!(history.points(), [expected]);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_older_point() {
        let mut history = PointLevels::default();
        for at in [100, 101, 50, 102] {
            history.add(sample(at));
        }
        let times: Vec<u64> = history.points().iter().map(|point| point.at).collect();
        assert_eq!(times, [100, 101]);
    }

    #[test]
    fn the_past_of_the_ledger_has_points_of_each_coarser_level() {
        let span = |at, bytes, classes| PastSpan { at, bytes, classes };
        let spans = [span(240, 2400, 2), span(255, 4800, 1), span(3990, 3600, 4)];
        let [seconds, fine, minutes, hours] = of_past(&spans);
        let short = |points: &[Point]| -> Vec<(u64, u64, u64)> {
            let points = points.iter();
            let point = |point: &Point| (point.at, point.bytes_per_second, point.settled);
            points.map(point).collect()
        };
        assert_eq!(seconds, []);
        assert_eq!(short(&fine), [(240, 160, 2), (255, 320, 3), (3990, 240, 7)]);
        assert_eq!(short(&minutes), [(240, 30, 3), (3840, 15, 7)]);
        assert_eq!(short(&hours), [(0, 1, 3), (3600, 1, 7)]);
        let history = PointLevels::restored([seconds, fine, minutes, hours]);
        assert!(history.points().is_sorted_by(|one, next| one.at < next.at));
    }

    /// After a restart the points of the ledger come first, each level behind the coarser one.
    #[test]
    fn restored_points_are_followed_by_new_ones() {
        let restored = |step: u64| {
            let count = if step == 1 { 0 } else { 300 };
            let last = 36_000 / step * step;
            let times = (0..count)
                .rev()
                .map(|back: u64| last.saturating_sub(back * step));
            times.filter(|at| *at > 0).map(sample).collect()
        };
        let mut history = PointLevels::restored(SPANS.map(restored));
        for at in 36_500..36_600 {
            history.add(sample(at));
        }
        let points = history.points();
        assert!(points.is_sorted_by(|one, next| one.at < next.at));
        assert!(points.len() <= SPANS.len() * POINTS, "{}", points.len());
        let seconds = points.iter().filter(|point| point.at >= 36_500).count();
        assert_eq!(seconds, 99);
        assert!(points.iter().any(|point| point.at == 36_000));
        assert_eq!(points[0].at, 240);
        for at in 36_600..39_601 {
            history.add(sample(at));
        }
        let hour = history.levels[3].points.back().unwrap();
        let added = 1000 + 3100 * 1000 / 3600;
        assert_eq!(
            (hour.at, hour.bytes_per_second, hour.settled),
            (36_000, added, 39_599)
        );
    }

    #[test]
    fn the_history_does_not_begin_before_the_run() {
        let begin = 36_000 + 3_011;
        let mut history = PointLevels::default();
        for at in begin..begin + 30 {
            history.add(sample(at));
        }
        assert_eq!(history.points()[0], sample(begin));
        let past = PastSpan {
            at: begin - begin % SPAN,
            bytes: 0,
            classes: 1,
        };
        let mut history = PointLevels::restored(of_past(&[past]));
        for at in begin + 30..begin + 60 {
            history.add(sample(at));
        }
        let times: Vec<u64> = history.points().iter().map(|point| point.at).collect();
        assert_eq!(times[..2], [past.at, begin + 30]);
    }

    #[test]
    fn points_of_a_snapshot_are_relative_to_the_one_before() {
        #[derive(Serialize)]
        struct Message<'a>(#[serde(serialize_with = "as_differences")] &'a [Point]);
        let later = Point {
            limit: None,
            open: None,
            settled: 90,
            ..sample(115)
        };
        let points = [sample(100), later];
        let text = serde_json::to_string(&Message(&points)).unwrap();
        assert_eq!(text, "[[100,1000,8,4,100],[15,1000,null,null,-10]]");
        let text = serde_json::to_string(&later).unwrap();
        assert_eq!(text, "[115,1000,null,null,90]");
    }
}
