//! Limits the log lines of libraries that log each frame, buffer or connection, so that
//! `RUST_LOG=debug` covers only these programs. A library that `RUST_LOG` names, as in
//! `debug,h2=debug`, is not limited.

use tracing::{Level, level_filters::LevelFilter};

/// Beginnings of libraries' names, and the most detailed level that is logged. The HTTP/2 library
/// logs even warnings once for each frame that a peer sends: a client could fill the disk with
/// them.
const LEVELS: [(&str, LevelFilter); 8] = [
    ("h2", LevelFilter::ERROR),
    ("hyper", LevelFilter::INFO),
    ("mio", LevelFilter::INFO),
    ("opentelemetry", LevelFilter::INFO),
    ("reqwest", LevelFilter::INFO),
    ("rustls", LevelFilter::INFO),
    ("tonic", LevelFilter::INFO),
    ("tower", LevelFilter::INFO),
];

/// Whether a message of this target and level may be logged. `asked` is the text of `RUST_LOG`,
/// which can name a library as a whole or one of its modules.
pub(super) fn may_be_logged(asked: &str, target: &str, level: Level) -> bool {
    let is_of = |name: &str| !name.is_empty() && target.starts_with(name);
    let mut named = asked.split([',', '=', '[', ':']).map(str::trim);
    let is_limited = |(library, most): &(&str, LevelFilter)| is_of(library) && level > *most;
    !LEVELS.iter().any(is_limited) || named.any(is_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_covers_only_these_programs_and_named_libraries() {
        for (asked, target, level, expected) in [
            ("", "h2::codec", Level::WARN, false),
            ("", "h2::codec", Level::ERROR, true),
            ("", "hyper_util::client", Level::INFO, true),
            ("debug", "hyper_util::client", Level::INFO, true),
            ("debug", "hyper_util::client", Level::DEBUG, false),
            (
                "worker=info, debug",
                "opentelemetry-otlp",
                Level::DEBUG,
                false,
            ),
            ("trace", "worker::slots", Level::TRACE, true),
            ("debug,h2=debug", "h2::codec", Level::DEBUG, true),
            ("debug,h2=debug", "hyper::proto", Level::DEBUG, false),
            (
                "hyper_util::client=trace",
                "hyper_util::client",
                Level::TRACE,
                true,
            ),
            ("hyper_util[span]=trace", "hyper_util", Level::TRACE, true),
        ] {
            let is_logged = may_be_logged(asked, target, level);
            assert_eq!(is_logged, expected, "{asked}: {target} {level}");
        }
    }
}
