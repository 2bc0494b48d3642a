//! Which role may call which method. Methods that are not listed require the admin role; the
//! service answers `UNIMPLEMENTED`.

use std::fmt;

use shared::protocol::method;

/// The role of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Takes leases and reports results.
    Worker,
    /// Reads the state of the job.
    Viewer,
    /// Reads the state of the job and changes it.
    Admin,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Viewer => "viewer",
            Self::Admin => "admin",
        }
    }

    /// The role of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        let mut roles = [Self::Worker, Self::Viewer, Self::Admin].into_iter();
        roles.find(|role| role.name() == name)
    }

    /// The role that the method of this path (`/package.Service/Method`) requires.
    pub fn needed_for(path: &str) -> Self {
        match path.strip_prefix('/') {
            Some(
                method::REGISTER
                | method::RENEW
                | method::ACQUIRE
                | method::REPORT
                | method::LEAVE
                | method::PACE,
            ) => Self::Worker,
            Some(method::WATCH | method::GET_FLEET | method::LIST_CLASSES) => Self::Viewer,
            _ => Self::Admin,
        }
    }

    /// Whether this role may make a call that requires `needed`.
    pub fn includes(self, needed: Self) -> bool {
        self == needed || (self, needed) == (Self::Admin, Self::Viewer)
    }
}

/// Whether the method requires no credential. Health probes have none, and learn only that the
/// service is running.
pub(super) fn needs_no_credential(path: &str) -> bool {
    path.starts_with("/grpc.health.v1.Health/")
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_call_its_own_methods() {
        let table = [
            ("/imagenet.v1.Coordinator/Register", [true, false, false]),
            ("/imagenet.v1.Coordinator/Renew", [true, false, false]),
            ("/imagenet.v1.Coordinator/Acquire", [true, false, false]),
            ("/imagenet.v1.Coordinator/Report", [true, false, false]),
            ("/imagenet.v1.Coordinator/Leave", [true, false, false]),
            ("/imagenet.v1.Coordinator/Pace", [true, false, false]),
            ("/imagenet.v1.Coordinator/Watch", [false, true, true]),
            ("/imagenet.v1.Admin/GetFleet", [false, true, true]),
            ("/imagenet.v1.Admin/ListClasses", [false, true, true]),
            ("/imagenet.v1.Admin/RetryFailed", [false, false, true]),
            ("/imagenet.v1.Admin/DrainWorker", [false, false, true]),
            ("/imagenet.v1.Admin/Resume", [false, false, true]),
            ("/imagenet.v1.Admin/NotYet", [false, false, true]),
            ("/another.Service/Method", [false, false, true]),
        ];
        for (path, allowed) in table {
            assert_eq!(
                [Role::Worker, Role::Viewer, Role::Admin]
                    .map(|role| role.includes(Role::needed_for(path))),
                allowed,
                "{path}"
            );
        }
    }
}
