//! Joins a coordinator: opens the target, registers, and opens what the job needs. If that fails,
//! the target is left unchanged.

use std::{sync::Arc, time::Duration};

use shared::{connect::Connector, shutdown::Shutdown};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    config::WorkerConfig,
    fetch::context::JobContext,
    lease_clock::LeaseClock,
    observe::progress::Progress,
    origin::{allowed_addresses::PrivateOrigin, limiter::OriginLimiter},
    session::{
        calls::{Calls, Kind},
        coordinator_client::{Answer, CoordinatorClient, Identity, Registration},
        error::WorkerError,
        heartbeat::{self, Renewals},
        stop_reason::for_the_coordinator,
    },
    slots::Slots,
    storage::target::Target,
};

/// The first lookup of the origin's name delays the work by at most this time, and by at most a
/// third of the leases' lifetime.
const LONGEST_LOOKUP: Duration = Duration::from_secs(5);

/// The state of a worker after its registration.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) calls: Calls,
    pub(crate) registration: Registration,
    pub(crate) renewals: Renewals,
    pub(crate) slots: Slots,
    /// Admits no request before the first budget of the coordinator.
    pub(crate) limiter: Arc<OriginLimiter>,
    /// The threads of the committer and of the slots, which end with the slots.
    pub(crate) threads: JoinSet<()>,
}

/// Joins a coordinator, waiting for as long as it takes; `None` if a shutdown is requested before.
///
/// # Errors
/// The target cannot be used, the coordinator refuses, or the job cannot be done here. The
/// coordinator is informed of the latter.
pub(crate) async fn join(
    connector: &Connector,
    identity: &Identity,
    config: &WorkerConfig,
    progress: &Progress,
    shutdown: &Shutdown,
) -> Result<Option<Joined>, WorkerError> {
    let target = Arc::new(Target::open(&config.target, config.staging.as_deref())?);
    let clock = Arc::new(LeaseClock::of_this_host());
    let mut calls = Calls::new(CoordinatorClient::new(connector, Arc::clone(&clock)));
    let Some(registration) = register(&mut calls, identity, &target, shutdown).await? else {
        return Ok(None);
    };
    let mut threads = JoinSet::new();
    let limiter = OriginLimiter::new(identity.slots, Arc::clone(&progress.counters));
    let opened = async {
        let private = if config.allow_private_origin {
            PrivateOrigin::Allowed
        } else {
            PrivateOrigin::Refused
        };
        let context = Arc::new(JobContext::open(
            registration.job.clone(),
            private,
            Arc::clone(&limiter),
            target,
            Arc::clone(&clock),
            identity.slots,
            &mut threads,
        )?);
        // Started before the slots, whose number is reduced if the system has too few threads.
        let renewals = heartbeat::start(&mut threads, connector.clone(), clock, progress.clone())?;
        let slots = Slots::open(
            Arc::clone(&context),
            progress.clone(),
            identity.slots,
            &mut threads,
        )?;
        check_origin(&context, registration.session.ttl).await?;
        Ok((renewals, slots))
    };
    match opened.await {
        Ok((renewals, slots)) => Ok(Some(Joined {
            calls,
            registration,
            renewals,
            slots,
            limiter,
            threads,
        })),
        Err(error) => {
            let reason = for_the_coordinator(&error);
            calls.leave(registration.session.id, &reason).await;
            Err(error)
        }
    }
}

/// Returns an error if this worker must not connect to the origin's address. A name that is not
/// resolved in time is checked at each connection.
async fn check_origin(context: &JobContext, ttl: Duration) -> Result<(), WorkerError> {
    let checked = timeout(LONGEST_LOOKUP.min(ttl / 3), context.check_origin()).await;
    Ok(checked.unwrap_or(Ok(()))?)
}

async fn register(
    calls: &mut Calls,
    identity: &Identity,
    target: &Target,
    shutdown: &Shutdown,
) -> Result<Option<Registration>, WorkerError> {
    loop {
        calls.begin(Kind::Register, Duration::ZERO, |mut client| {
            let identity = identity.clone();
            let storage_id = target.storage_id();
            async move { client.register(&identity, storage_id, &[], false).await }
        });
        match shutdown.drain.run_until_cancelled(calls.next()).await {
            None => return Ok(None),
            Some(Some(Ok(Answer::Registered(registration)))) => return Ok(Some(*registration)),
            Some(Some(Err(why))) => return Err(WorkerError::Refused(why)),
            Some(_) => {}
        }
    }
}
