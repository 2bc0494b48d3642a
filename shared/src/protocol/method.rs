//! Full names of the methods, `package.Service/Method`. The path of a call is such a name after a
//! slash.

/// Defines the names, and the list of all.
macro_rules! methods {
    ($(#[doc = $doc:literal] $name:ident = $method:literal;)+) => {
        $(#[doc = $doc] pub const $name: &str = concat!("imagenet.v1.", $method);)+

        /// All methods of the protocol.
        pub const ALL: [&str; [$($name),+].len()] = [$($name),+];
    };
}

methods! {
    /// Opens a session.
    REGISTER = "Coordinator/Register";
    /// Renews the leases of a session.
    RENEW = "Coordinator/Renew";
    /// Asks for leases.
    ACQUIRE = "Coordinator/Acquire";
    /// Reports results.
    REPORT = "Coordinator/Report";
    /// Ends a session.
    LEAVE = "Coordinator/Leave";
    /// Reads the counts of the job.
    WATCH = "Coordinator/Watch";
    /// Exchanges observations of the origin for a budget.
    PACE = "Coordinator/Pace";
    /// Reads the state of the job and its workers.
    GET_FLEET = "Admin/GetFleet";
    /// Reads the state of each class.
    LIST_CLASSES = "Admin/ListClasses";
    /// Makes failed classes pending again.
    RETRY_FAILED = "Admin/RetryFailed";
    /// Tells a worker to end.
    DRAIN_WORKER = "Admin/DrainWorker";
    /// Ends a pause of the job.
    RESUME = "Admin/Resume";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_methods_are_those_of_the_protocol_file() {
        let mut service = "";
        let mut defined = BTreeSet::new();
        for line in include_str!("../../../proto/coordinator.proto").lines() {
            if let Some(rest) = line.strip_prefix("service ") {
                service = rest.trim_end_matches(" {");
            } else if let Some(rest) = line.trim_start().strip_prefix("rpc ") {
                let (method, _) = rest.split_once('(').unwrap();
                defined.insert(format!("imagenet.v1.{service}/{method}"));
            }
        }
        assert_eq!(BTreeSet::from(ALL.map(str::to_owned)), defined);
    }
}
