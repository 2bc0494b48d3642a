//! Messages in the words of Python: they name the flags of the programs, or the fields of
//! `worker::Options`, where the caller knows parameters.

/// What messages name, and what `download_batch` has for it. A flag that Python has no parameter
/// for, such as `--staging`, stays: `imagenet-downloader` has it.
const NAMES: [(&str, &str); 13] = [
    ("--existing replace", "existing=\"replace\""),
    ("--existing trust", "existing=\"trust\""),
    ("--existing", "existing"),
    ("--durability", "durability"),
    ("--header-file", "header_file"),
    ("--cacert", "cacert"),
    ("--url", "url"),
    ("--target", "target_path"),
    ("--workers", "num_workers"),
    ("--max-connections", "max_connections"),
    ("--timeout", "timeout"),
    ("Options::url", "url"),
    ("Options::headers", "header_file"),
];

/// The message with the names of the parameters.
pub(crate) fn in_python(message: &str) -> String {
    let mut text = message.to_owned();
    for (name, parameter) in NAMES {
        if text.contains(name) {
            text = text.replace(name, parameter);
        }
    }
    text
}
