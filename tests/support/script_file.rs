//! The origin's faults as a text file, one per line, for example `n00000001 status 503`, `n00000002
//! cut 5000` or `request 17 status 429 5`.

use std::time::Duration;

use crate::{answer::Answer, origin::Origin};

/// Syntax of a line; shown with syntax errors.
pub const SYNTAX: &str = "<wnid> [forever] | request NUMBER, then \
    status CODE [RETRY_AFTER_SECONDS] | cut BYTES | reset BYTES | stall BYTES | drip BYTES \
    MILLISECONDS | \
    stated BYTES | no-length | chunked | ignore-range | html | redirect URL | hang-up | silence";

/// Sets the origin's scripts from a text; `#` begins a comment line. An error names the line.
pub fn apply(text: &str, origin: &Origin) -> Result<(), String> {
    for (number, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let unreadable = || format!("line {}: {line:?} is none of: {SYNTAX}", number + 1);
        match words.as_slice() {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            ["request", number, rest @ ..] => {
                let (number, answer) = number
                    .parse()
                    .ok()
                    .zip(answer(rest))
                    .ok_or_else(unreadable)?;
                origin.answer_request(number, answer);
            }
            [wnid, rest @ ..] => {
                let forever = rest.first() == Some(&"forever");
                let answer = answer(&rest[usize::from(forever)..]).ok_or_else(unreadable)?;
                let class = origin
                    .script_of(wnid)
                    .ok_or_else(|| format!("line {}: no tar of {wnid}", number + 1))?;
                if forever {
                    class.forever(answer)
                } else {
                    class.script([answer])
                };
            }
        }
    }
    Ok(())
}

fn answer(words: &[&str]) -> Option<Answer> {
    Some(match words {
        ["status", code] => Answer::status(code.parse().ok()?),
        ["status", code, seconds] => {
            Answer::status(code.parse().ok()?).header("Retry-After", seconds)
        }
        ["cut", bytes] => Answer::cut_at(bytes.parse().ok()?),
        ["reset", bytes] => Answer::reset_at(bytes.parse().ok()?),
        ["stall", bytes] => Answer::stall_at(bytes.parse().ok()?),
        ["drip", bytes, millis] => Answer::drip(
            bytes.parse().ok()?,
            Duration::from_millis(millis.parse().ok()?),
        ),
        ["stated", bytes] => Answer::plain().stating_length(bytes.parse().ok()?),
        ["no-length"] => Answer::plain().without_length(),
        ["chunked"] => Answer::plain().chunked(),
        ["ignore-range"] => Answer::plain().ignoring_range(),
        ["html"] => Answer::html(),
        ["redirect", url] => Answer::redirect(url),
        ["hang-up"] => Answer::plain().hanging_up(),
        ["silence"] => Answer::silence(),
        _ => return None,
    })
}
