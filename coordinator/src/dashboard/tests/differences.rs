//! A snapshot and the updates after it give the next snapshot, as JSON, as a viewer applies them.

use proptest::prelude::*;
use serde_json::Value;

use super::{
    super::snapshot::{Snapshot, Update},
    fleets::BusyFleet,
};

/// A viewer: what it knows, as JSON with absolute points.
struct Viewer(Value);

impl Viewer {
    fn of(snapshot: &Snapshot) -> Self {
        let mut value = serde_json::to_value(snapshot).unwrap();
        let mut at = 0;
        let mut settled = 0;
        let mut limit = 0;
        let mut open = 0;
        for point in value["history"]["points"].as_array_mut().unwrap() {
            at += point[0].as_i64().unwrap();
            settled += point[4].as_i64().unwrap();
            point[0] = at.into();
            point[4] = settled.into();
            for (place, known) in [(2, &mut limit), (3, &mut open)] {
                if let Some(more) = point[place].as_i64() {
                    *known += more;
                    point[place] = (*known).into();
                }
            }
        }
        let states = letters(value["classes"]["states"].as_str().unwrap());
        value["classes"]["states"] = states.into();
        Self(value)
    }

    fn apply(&mut self, update: &Update) {
        let Value::Object(update) = serde_json::to_value(update).unwrap() else {
            panic!("an update is an object");
        };
        for (key, value) in update {
            match key.as_str() {
                "classes" => self.change_classes(&value["changes"]),
                "history" => {
                    for name in ["points", "marks"] {
                        let known = self.0["history"][name].as_array_mut().unwrap();
                        known.extend(value[name].as_array().unwrap().iter().cloned());
                    }
                }
                _ => self.0[key] = value,
            }
        }
    }

    fn change_classes(&mut self, changes: &Value) {
        let mut states = self.0["classes"]["states"].as_str().unwrap().to_owned();
        for change in changes.as_array().unwrap() {
            let row = usize::try_from(change[0].as_u64().unwrap()).unwrap();
            states.replace_range(row..=row, change[1].as_str().unwrap());
        }
        self.0["classes"]["states"] = states.into();
    }
}

/// The letters of runs.
fn letters(runs: &str) -> String {
    let mut letters = String::new();
    let mut length = String::new();
    for place in runs.chars() {
        if place.is_ascii_digit() {
            length.push(place);
        } else {
            let times = length.parse().unwrap_or(1);
            letters.extend(std::iter::repeat_n(place, times));
            length.clear();
        }
    }
    letters
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_snapshot_and_its_updates_give_the_next_snapshot(
        classes in 1_usize..300,
        workers in 0_u64..30,
        invalid in 0_u64..3,
        steps in proptest::collection::vec(0_usize..50, 1..8),
    ) {
        let mut fleet = BusyFleet::new(classes, workers, invalid);
        let mut before = fleet.snapshot();
        let mut viewer = Viewer::of(&before);
        for changes in steps {
            fleet.step(changes);
            let after = fleet.snapshot();
            viewer.apply(&Update::between(&before, &after));
            prop_assert_eq!(&viewer.0, &Viewer::of(&after).0);
            prop_assert_eq!(viewer.0["classes"]["states"].as_str(), Some(&*after.classes.states));
            before = after;
        }
    }
}

#[test]
fn an_update_has_only_what_has_changed() {
    let mut fleet = BusyFleet::new(10, 2, 1);
    let before = fleet.snapshot();
    let mut after = before.clone();
    after.seq += 1;
    after.at_ms += 1000;
    let update = Update::between(&before, &after);
    assert!(update.is_empty());
    let text = serde_json::to_string(&update).unwrap();
    let expected = format!(
        r#"{{"epoch":7,"seq":{},"at_ms":{}}}"#,
        after.seq, after.at_ms
    );
    assert_eq!(text, expected);
    after.classes.states.replace_range(3..4, "s");
    after.job.success += 1;
    let update = Update::between(&before, &after);
    assert!(!update.is_empty());
    let text = serde_json::to_value(&update).unwrap();
    assert_eq!(text["classes"].to_string(), r#"{"changes":[[3,"s"]]}"#);
    let keys: Vec<_> = text.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["at_ms", "classes", "epoch", "job", "seq"]);
    assert!(
        before.classes.states.ends_with('i'),
        "the row without an id"
    );
}
