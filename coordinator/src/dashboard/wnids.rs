//! The class ids of a snapshot as a short text: for each row the number behind `n` minus that of
//! the row before, modulo 2^27. The first row follows -1, so only a row without an id is 0.
//!
//! A number is written in pairs of base-64 digits (RFC 4648 §4), the higher digit of a pair first.
//! Like a digit of the Base64 VLQ of source maps (ECMA-426), a pair has bits of the number, here
//! eleven, those of the first pair the lowest, and one that says that another pair follows. There is
//! no sign, because most lists are sorted. The 21,843 ids of ImageNet take 44 KB, a fifth of what
//! they take in full.

use std::sync::Arc;

use shared::Wnid;

/// Numbers of class ids are below this. A power of two, so that differences can be masked.
const MODULUS: u32 = 1 << 27;
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Bits of a number in one pair of digits.
const BITS: u32 = 11;
/// Added to a pair that is not the last one of its number.
const MORE: u32 = 1 << BITS;

/// The ids in the order of the list, followed by `invalid` rows without an id.
pub(super) fn encoded(wnids: &[Wnid], invalid: u64) -> Arc<str> {
    let mut text = String::with_capacity(wnids.len() * 2);
    let mut before = MODULUS - 1;
    for wnid in wnids {
        let number = wnid.number();
        push(&mut text, (number + MODULUS - before) % MODULUS);
        before = number;
    }
    for _ in 0..invalid {
        push(&mut text, 0);
    }
    text.into()
}

fn push(text: &mut String, number: u32) {
    let mut rest = number;
    while rest >= MORE {
        push_pair(text, rest % MORE + MORE);
        rest >>= BITS;
    }
    push_pair(text, rest);
}

fn push_pair(text: &mut String, value: u32) {
    for place in [value / 64, value % 64] {
        let place = usize::try_from(place).expect("a digit is below 64");
        text.push(char::from(DIGITS[place]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ids with these numbers, as text.
    fn text(numbers: &[u32], invalid: u64) -> String {
        let wnid = |number: &u32| format!("n{number:08}").parse().unwrap();
        let wnids: Vec<Wnid> = numbers.iter().map(wnid).collect();
        encoded(&wnids, invalid).to_string()
    }

    #[test]
    fn ids_are_differences_in_pairs_of_digits() {
        assert_eq!(text(&[0, 31, 63, 2_111], 0), "ABAfAggAAB");
        assert_eq!(
            text(&[1_451_132, 1_452_869, 1_452_867], 2),
            "x9LEbJ/+//AfAAAA"
        );
        assert_eq!(text(&[99_999_999, 0], 0), "kA68AX8BlDAI");
        assert_eq!(
            (text(&[], 2), text(&[], 0)),
            ("AAAA".to_owned(), String::new())
        );
    }
}
