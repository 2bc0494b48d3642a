//! What the flags of both programs have in common.

/// What a flag's variable says; a word that is neither must not be taken for one of the two.
///
/// # Errors
/// One sentence, for a text that is neither.
pub fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "t" | "true" | "on" | "1" => Ok(true),
        "" | "n" | "no" | "f" | "false" | "off" | "0" => Ok(false),
        _ => Err("it is neither yes nor no; give true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_says_yes_or_no_or_is_refused() {
        for yes in ["y", "Yes", "t", "TRUE", "on", "1"] {
            assert_eq!(yes_or_no(yes), Ok(true), "{yes}");
        }
        for no in ["", "n", "No", "f", "FALSE", "off", "0"] {
            assert_eq!(yes_or_no(no), Ok(false), "{no}");
        }
        for neither in ["vielleicht", "2", " ", "truefalse"] {
            yes_or_no(neither).expect_err(neither);
        }
    }
}
