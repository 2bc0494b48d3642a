//! `Wnid`: a valid WordNet id, checked once when it is parsed.

use std::{fmt, str::FromStr};

/// A WordNet 3.0 noun id: `n` and eight digits, e.g. `n02124075`.
///
/// Stored as the number, so a class takes four bytes in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wnid(u32);

/// The text is not `n` followed by eight digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a WordNet id (n and eight digits, like n02124075)")]
pub struct InvalidWnid;

impl Wnid {
    /// The number behind the `n`, below 100,000,000.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl FromStr for Wnid {
    type Err = InvalidWnid;

    fn from_str(text: &str) -> Result<Self, InvalidWnid> {
        match text.as_bytes() {
            [b'n', digits @ ..] if digits.len() == 8 && digits.iter().all(u8::is_ascii_digit) => {
                Ok(Self(digits.iter().fold(0, |number, digit| {
                    number * 10 + u32::from(digit - b'0')
                })))
            }
            _ => Err(InvalidWnid),
        }
    }
}

impl fmt::Display for Wnid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "n{:08}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_parsed_from_its_own_text() {
        for text in ["n02124075", "n00000000", "n99999999"] {
            assert_eq!(text.parse::<Wnid>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn any_other_text_is_no_id() {
        for text in [
            "",
            "n",
            "02124075",
            "N02124075",
            "n2124075",
            "n021240750",
            "n0212407x",
            "n0212407٣",
            " n02124075",
            "../n0212407",
        ] {
            assert_eq!(text.parse::<Wnid>(), Err(InvalidWnid), "{text:?}");
        }
    }
}
