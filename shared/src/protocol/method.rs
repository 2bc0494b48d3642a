//! Full names of the methods, `package.Service/Method`. The path of a call is such a name after a
//! slash.

/// Opens a session.
pub const REGISTER: &str = "imagenet.v1.Coordinator/Register";
/// Renews the leases of a session.
pub const RENEW: &str = "imagenet.v1.Coordinator/Renew";
/// Asks for leases.
pub const ACQUIRE: &str = "imagenet.v1.Coordinator/Acquire";
/// Reports results.
pub const REPORT: &str = "imagenet.v1.Coordinator/Report";
/// Ends a session.
pub const LEAVE: &str = "imagenet.v1.Coordinator/Leave";
/// Reads the counts of the job.
pub const WATCH: &str = "imagenet.v1.Coordinator/Watch";
/// Exchanges observations of the origin for a budget.
pub const PACE: &str = "imagenet.v1.Coordinator/Pace";
/// Reads the state of the job and its workers.
pub const GET_FLEET: &str = "imagenet.v1.Admin/GetFleet";
/// Reads the state of each class.
pub const LIST_CLASSES: &str = "imagenet.v1.Admin/ListClasses";
/// Makes failed classes pending again.
pub const RETRY_FAILED: &str = "imagenet.v1.Admin/RetryFailed";
/// Tells a worker to end.
pub const DRAIN_WORKER: &str = "imagenet.v1.Admin/DrainWorker";
/// Ends a pause of the job.
pub const RESUME: &str = "imagenet.v1.Admin/Resume";

/// All methods of the protocol.
pub const ALL: [&str; 12] = [
    REGISTER,
    RENEW,
    ACQUIRE,
    REPORT,
    LEAVE,
    WATCH,
    PACE,
    GET_FLEET,
    LIST_CLASSES,
    RETRY_FAILED,
    DRAIN_WORKER,
    RESUME,
];

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
