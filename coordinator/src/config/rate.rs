//! Parsing of rates in human units.

use bytesize::ByteSize;

/// Parses bytes per second: `10MiB`, `10MiB/s`, `500000`.
///
/// # Errors
/// If the text is not a rate; the message shows the format.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let bytes = text.strip_suffix("/s").unwrap_or(text).trim_end();
    match bytes.parse() {
        Ok(ByteSize(0)) => Err("it must be more than nothing, e.g. 10MiB/s".to_owned()),
        Ok(ByteSize(bytes)) => Ok(bytes),
        Err(_) => Err("it takes a number of bytes a second, like 10MiB/s or 500kB/s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_size_with_or_without_per_second() {
        for (text, bytes) in [
            ("10MiB", 10 << 20),
            ("10MiB/s", 10 << 20),
            ("10 MiB /s", 10 << 20),
            ("500kB/s", 500_000),
            ("1.5M/s", 1_500_000),
            ("1", 1),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "/s", "fast", "10MiB/h", "-1", "0", "0B/s", "0.5"] {
            parse(text).expect_err(text);
        }
    }
}
