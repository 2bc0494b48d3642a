//! The states of the classes of a snapshot as a short text: each run of equal letters is its length
//! and the letter, and a run of one is the letter alone. So the text is never longer than the
//! letters, and most jobs go through the list in its order, which gives long runs.

use std::fmt::Write as _;

/// The runs of ASCII letters.
pub(super) fn runs(letters: &str) -> String {
    let mut text = String::new();
    for run in letters.as_bytes().chunk_by(|one, other| one == other) {
        if run.len() > 1 {
            write!(text, "{}", run.len()).expect("a text grows");
        }
        text.push(char::from(run[0]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_lengths_and_letters() {
        let letters = "s".repeat(120) + "ffs" + &"w".repeat(10);
        assert_eq!(runs(&letters), "120s2fs10w");
        assert_eq!(runs("srfw"), "srfw", "runs of one have no length");
        assert_eq!(runs(""), "");
    }
}
