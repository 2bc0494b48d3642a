//! Why the limit of connections is what it is. No I/O, no clock.

/// The cause of a limit, which the controller gives with each change. Its text follows "at
/// most N connections: ".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitCause {
    /// A higher level was measured, and its gain was too small.
    #[error("{tried} were not faster")]
    NoGain {
        /// Connections of the higher level.
        tried: u32,
    },
    /// Two connections were not faster than one. Two are the minimum.
    #[error("a second one uses the pauses of the first")]
    SecondConnection,
    /// The workers do not want more connections.
    #[error("the workers want no more")]
    Demand,
    /// `--max-connections`.
    #[error("--max-connections allows no more")]
    Ceiling,
    /// The origin failed or refused at the next level, and this is remembered.
    #[error("more have failed or were refused before")]
    UpperBound,
    /// No connection received data.
    #[error("fewer received no data")]
    Stalled,
    /// The origin refused requests at a higher level.
    #[error("the origin refused more (429 or 503)")]
    Refused,
    /// Failures had lowered the limit and turned out not to depend on it.
    #[error("failures did not depend on their number")]
    Independent,
}
