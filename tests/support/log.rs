//! Lines of a log, or of what a program has written to standard error.

/// The lines that contain all of these parts.
pub fn lines_with<'text>(text: &'text str, parts: &[&str]) -> Vec<&'text str> {
    text.lines()
        .filter(|line| parts.iter().all(|part| line.contains(part)))
        .collect()
}

/// Whether a line contains all of these parts.
pub fn has_line(text: &str, parts: &[&str]) -> bool {
    !lines_with(text, parts).is_empty()
}

/// Panics unless this many lines contain all of these parts.
#[track_caller]
pub fn assert_lines(text: &str, count: usize, parts: &[&str]) {
    let found = lines_with(text, parts);
    assert_eq!(
        found.len(),
        count,
        "lines with {parts:?}: {found:#?}\n--- in\n{text}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str =
        "INFO registered worker=\"a\"\nWARN worker a stopped\nINFO registered worker=\"b\"\n";

    #[test]
    fn a_line_must_contain_all_parts() {
        assert_eq!(
            lines_with(LOG, &["INFO", "worker=\"b\""]),
            ["INFO registered worker=\"b\""]
        );
        assert!(has_line(LOG, &["WARN", "stopped"]) && !has_line(LOG, &["INFO", "stopped"]));
        assert_lines(LOG, 2, &["registered"]);
        assert_lines(LOG, 0, &["registered", "stopped"]);
    }

    #[test]
    #[should_panic = "lines with [\"registered\"]"]
    fn another_number_of_lines_is_an_error() {
        assert_lines(LOG, 1, &["registered"]);
    }
}
