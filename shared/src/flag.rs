//! Parsing of flags that both programs have.

/// Parses the value of a flag's environment variable. Any other word is an error, so that it is not
/// mistaken for yes or no.
///
/// # Errors
/// One sentence, for a text that is neither yes nor no.
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
    fn a_variable_is_yes_or_no_or_an_error() {
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
