//! Limits the log lines of libraries that log each frame, buffer or connection, so that
//! `RUST_LOG=debug` covers only these programs. A library that `RUST_LOG` names, as in
//! `debug,h2=debug`, is not limited.

use tracing::level_filters::LevelFilter;

/// Libraries, and the most detailed level that is logged. The HTTP/2 library logs even warnings
/// once for each frame that a peer sends: a client could fill the disk with them.
const LEVELS: [(&str, LevelFilter); 10] = [
    ("h2", LevelFilter::ERROR),
    ("hyper", LevelFilter::INFO),
    ("hyper_util", LevelFilter::INFO),
    ("mio", LevelFilter::INFO),
    ("opentelemetry", LevelFilter::INFO),
    ("opentelemetry_sdk", LevelFilter::INFO),
    ("reqwest", LevelFilter::INFO),
    ("rustls", LevelFilter::INFO),
    ("tonic", LevelFilter::INFO),
    ("tower", LevelFilter::INFO),
];

/// Directives to add to those of `RUST_LOG`. None of them increases the output. Without `RUST_LOG`
/// the level is `info`.
pub(super) fn quiet(asked: &str) -> impl Iterator<Item = String> {
    let asked: Vec<&str> = asked
        .split(',')
        .map(str::trim)
        .filter(|directive| !directive.is_empty())
        .collect();
    let unnamed = if asked.is_empty() {
        LevelFilter::INFO
    } else {
        LevelFilter::OFF
    };
    let level = asked
        .iter()
        .rev()
        .find_map(|directive| directive.parse().ok())
        .unwrap_or(unnamed);
    let targets: Vec<&str> = asked
        .iter()
        .filter_map(|directive| directive.split(['=', '[', ':']).next())
        .collect();
    let silenced = LEVELS
        .iter()
        .filter(|(library, kept)| *kept < level && !targets.contains(library));
    silenced
        .map(|(library, kept)| format!("{library}={kept}"))
        .collect::<Vec<_>>()
        .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silenced(asked: &str) -> Vec<String> {
        quiet(asked).collect()
    }

    #[test]
    fn debug_covers_only_these_programs_and_named_libraries() {
        assert_eq!(silenced(""), ["h2=error"]);
        assert_eq!(silenced("info"), ["h2=error"]);
        for asked in ["debug", "trace", "worker=info, debug"] {
            let directives = silenced(asked);
            assert_eq!(directives.len(), LEVELS.len(), "{asked}");
            assert!(
                directives.contains(&"hyper_util=info".to_owned()),
                "{directives:?}"
            );
        }
        let named = silenced("debug,h2=debug,hyper_util::client=trace");
        assert!(
            !named
                .iter()
                .any(|directive| directive.starts_with("h2=")
                    || directive.starts_with("hyper_util="))
        );
    }

    #[test]
    fn no_directive_increases_the_output() {
        for asked in [
            "error",
            "off",
            "coordinator=debug",
            "worker=trace,shared=debug",
        ] {
            assert_eq!(silenced(asked), Vec::<String>::new(), "{asked}");
        }
    }
}
