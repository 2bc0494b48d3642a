//! What a viewer knows from a snapshot and the updates after it. Pure.

use serde_json::Value;

use super::event_stream::Event;
use crate::worker::LoadError;

/// The state of each class, by row, as a letter of the API.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    letters: Vec<u8>,
    job: Value,
}

impl Replay {
    /// Applies an event.
    ///
    /// # Errors
    /// The event does not have the form that the API documents.
    pub(crate) fn apply(&mut self, event: &Event) -> Result<(), LoadError> {
        let violation = |what: &str| LoadError::Misbehaved(format!("the event has {what}"));
        let message: Value = serde_json::from_str(&event.data)
            .map_err(|error| violation(&format!("no JSON: {error}")))?;
        if let Some(job) = message.get("job") {
            self.job = job.clone();
        }
        let classes = message.get("classes");
        if event.name == "snapshot" {
            let states = classes.and_then(|classes| classes.get("states")?.as_str());
            let states = states.ok_or_else(|| violation("no states"))?;
            self.letters = letters(states).ok_or_else(|| violation("states of another form"))?;
            return Ok(());
        }
        let changes = classes.and_then(|classes| classes.get("changes")?.as_array());
        for change in changes.into_iter().flatten() {
            let row = change.get(0).and_then(Value::as_u64);
            let row = row.and_then(|row| self.letters.get_mut(usize::try_from(row).ok()?));
            let letter = change.get(1).and_then(Value::as_str);
            match (row, letter.map(str::as_bytes)) {
                (Some(row), Some(&[letter])) => *row = letter,
                _ => return Err(violation(&format!("the change {change}"))),
            }
        }
        Ok(())
    }

    /// The numbers of pending, leased and settled classes: by the letters, and by the job's figures.
    pub(crate) fn counts(&self) -> [(u64, u64, u64); 2] {
        let count = |letters: &[u8]| {
            let all = self.letters.iter();
            all.filter(|letter| letters.contains(letter)).count() as u64
        };
        let figure = |name: &str| self.job.get(name).and_then(Value::as_u64).unwrap_or(0);
        let settled = figure("success") + figure("skipped") + figure("failed");
        [
            (count(b"wd"), count(b"r"), count(b"skfi")),
            (figure("pending"), figure("leased"), settled),
        ]
    }
}

/// The letters of runs: `3sf` is `sssf`. `None` if a number is not a length or has no letter.
fn letters(mut runs: &str) -> Option<Vec<u8>> {
    let mut letters = Vec::new();
    while !runs.is_empty() {
        let end = runs.find(|character: char| character.is_ascii_lowercase())?;
        let count = match &runs[..end] {
            "" => 1,
            length => length.parse().ok()?,
        };
        letters.resize(letters.len() + count, runs.as_bytes()[end]);
        runs = &runs[end + 1..];
    }
    Some(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> Event {
        Event {
            name: name.to_owned(),
            data: data.to_owned(),
            bytes: 0,
        }
    }

    #[test]
    fn updates_change_rows_and_keep_what_they_leave_out() {
        let mut replay = Replay::default();
        let snapshot = r#"{"job":{"pending":2,"leased":2,"success":1,"failed":1},
            "classes":{"states":"wd2rsf"}}"#;
        replay
            .apply(&event("snapshot", snapshot))
            .expect("a snapshot");
        assert_eq!(replay.counts(), [(2, 2, 2); 2]);
        let update = r#"{"classes":{"changes":[[2,"s"],[0,"r"]]}}"#;
        replay.apply(&event("update", update)).expect("an update");
        assert_eq!(replay.counts(), [(1, 2, 3), (2, 2, 2)]);
    }

    #[test]
    fn states_are_runs_of_letters() {
        assert_eq!(letters("12sf2w").as_deref(), Some(&b"ssssssssssssfww"[..]));
        assert_eq!(letters(""), Some(Vec::new()));
        for wrong in ["12", "S", "-1s"] {
            assert_eq!(letters(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_row_that_is_not_there_is_an_error() {
        let mut replay = Replay::default();
        replay
            .apply(&event("snapshot", r#"{"classes":{"states":"w"}}"#))
            .expect("a snapshot");
        for change in [r#"[1,"s"]"#, r#"[0,"sk"]"#, r#"["0","s"]"#, "7"] {
            let update = format!(r#"{{"classes":{{"changes":[{change}]}}}}"#);
            replay
                .apply(&event("update", &update))
                .expect_err("no change of a row");
        }
    }
}
