//! Binds the names of workers to credentials. Within a run a name belongs to the credential that
//! used it first. Without credentials, or if all workers share one token, the owner of a name
//! cannot be determined, and only [`Session::allow_takeover`] protects it.
//!
//! [`Session::allow_takeover`]: super::sessions::Session::allow_takeover

use std::collections::HashMap;

use shared::ids::CredentialId;

use super::{WorkerInfo, recent::LruMap, sessions::MOST_SESSIONS};

/// A change of the bindings of names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renamed {
    /// This name is now bound to this credential.
    pub bound: Option<(String, CredentialId)>,
    /// A name that is free now: the least recently used one of a credential that has too many
    /// names.
    pub freed: Option<String>,
}

impl Renamed {
    /// Whether no binding has changed.
    pub fn is_nothing(&self) -> bool {
        self.bound.is_none() && self.freed.is_none()
    }
}

/// The names of a run and their credentials.
#[derive(Debug, Default)]
pub(super) struct Names {
    bound: HashMap<String, CredentialId>,
    /// The names of each credential. The limit applies to each credential separately, so no
    /// credential evicts the names of another one.
    by_credential: HashMap<CredentialId, LruMap<String, (), MOST_SESSIONS>>,
}

impl Names {
    /// Whether a process may register under its name. With a certificate it may, because the
    /// certificate contains the name. A credential that is not valid any more has no claim to its
    /// names.
    pub(super) fn allow(&self, worker_info: &WorkerInfo) -> bool {
        let (Some(owner), Some(credential)) =
            (self.bound.get(&worker_info.worker), worker_info.credential)
        else {
            return true;
        };
        *owner == credential
            || credential == CredentialId::CERTIFICATE
            || !worker_info.valid.contains(owner)
    }

    /// Binds a name to a credential. An existing binding to another credential is replaced.
    pub(super) fn bind(&mut self, name: &str, credential: CredentialId) -> Renamed {
        let name = name.to_owned();
        let owner = self.bound.insert(name.clone(), credential);
        if let Some(before) = owner.filter(|owner| *owner != credential)
            && let Some(names) = self.by_credential.get_mut(&before)
        {
            names.remove(&name);
            if names.is_empty() {
                self.by_credential.remove(&before);
            }
        }
        let names = self.by_credential.entry(credential).or_default();
        let freed = names.touch(&name);
        if let Some(freed) = &freed {
            self.bound.remove(freed);
        }
        Renamed {
            bound: (owner != Some(credential)).then_some((name, credential)),
            freed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: CredentialId = CredentialId(1);
    const OTHER: CredentialId = CredentialId(2);
    const GONE: CredentialId = CredentialId(3);

    fn worker_info(name: &str, credential: Option<CredentialId>) -> WorkerInfo {
        WorkerInfo {
            worker: name.to_owned(),
            credential,
            valid: vec![ONE, OTHER],
            ..WorkerInfo::default()
        }
    }

    #[test]
    fn a_name_belongs_to_the_credential_that_used_it_first() {
        let mut names = Names::default();
        let bound = |name: &str, credential| Renamed {
            bound: Some((name.to_owned(), credential)),
            freed: None,
        };
        assert_eq!(names.bind("host", ONE), bound("host", ONE));
        assert_eq!(names.bind("host", ONE), Renamed::default());
        names.bind("old", GONE);
        for (name, credential, allowed) in [
            ("host", Some(ONE), true),
            ("host", Some(OTHER), false),
            ("host", Some(GONE), false),
            ("host", Some(CredentialId::CERTIFICATE), true),
            ("host", None, true),
            ("other", Some(OTHER), true),
            ("old", Some(OTHER), true),
        ] {
            assert_eq!(
                names.allow(&worker_info(name, credential)),
                allowed,
                "{name} {credential:?}"
            );
        }
        assert_eq!(
            names.bind("host", OTHER),
            bound("host", OTHER),
            "a session may change its token"
        );
        assert!(!names.allow(&worker_info("host", Some(ONE))));
    }

    #[test]
    fn a_credential_with_too_many_names_loses_its_own_and_none_of_another() {
        let mut names = Names::default();
        names.bind("host", ONE);
        let freed =
            (0..=MOST_SESSIONS).filter_map(|number| names.bind(&number.to_string(), OTHER).freed);
        assert_eq!(freed.collect::<Vec<_>>(), ["0"]);
        assert!(
            !names.allow(&worker_info("host", Some(OTHER)))
                && !names.allow(&worker_info("1", Some(ONE)))
        );
        assert_eq!(
            (names.bound.len(), names.by_credential.len()),
            (MOST_SESSIONS + 1, 2)
        );
    }
}
