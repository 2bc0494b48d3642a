//! The names of workers, and the name of this host.

/// Parses a worker's name, which becomes part of a file name.
///
/// # Errors
/// A sentence that says what a name is.
pub fn parse_name(text: &str) -> Result<String, String> {
    let fits =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-');
    if text.is_empty() || text.len() > 64 || text.starts_with(['.', '-']) || !text.chars().all(fits)
    {
        return Err(
            "a name has 1 to 64 letters, digits, '.', '_' and '-', and begins with a letter or \
             digit"
                .to_owned(),
        );
    }
    Ok(text.to_owned())
}

/// Name of the host, or `worker` if it cannot be part of a file name.
pub fn host_name() -> String {
    parse_name(&node_name()).unwrap_or_else(|_| "worker".to_owned())
}

/// Name of the host as the system tells it, for display; empty if it has none.
pub fn node_name() -> String {
    let node = rustix::system::uname();
    let name = node.nodename().to_string_lossy();
    // Linux says `(none)` where no name was set.
    if name == "(none)" {
        return String::new();
    }
    name.into_owned()
}
