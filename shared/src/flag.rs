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
