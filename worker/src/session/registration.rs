//! Joining a coordinator: the target is opened, the session too, and then what the job needs. If nothing comes of it, the
//! target is left as it was found.

use std::{sync::Arc, time::Duration};

use shared::{connect::Connector, shutdown::Shutdown};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    config::WorkerConfig,
    fetch::context::{JobContext, JobContextError},
    lease_clock::LeaseClock,
    observe::progress::Progress,
    origin::{Origin, allowed_addresses::PrivateOrigin, limiter::OriginLimiter},
    session::{
        calls::{Answer, Calls, Refused},
        coordinator_client::{CoordinatorClient, Identity, Registration},
        error::WorkerError,
        heartbeat::{self, Renewals},
        stop_reason::for_the_coordinator,
    },
    slots::Slots,
    storage::target::Target,
};

/// The first lookup of the origin delays the work by at most this, and by at most a third of a
/// lease's time to live.
const LONGEST_LOOKUP: Duration = Duration::from_secs(5);

/// What a worker has once a coordinator has let it in.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) calls: Calls,
    pub(crate) registration: Registration,
    pub(crate) renewals: Renewals,
    pub(crate) slots: Slots,
    /// Shut, until the coordinator says how far it may be opened.
    pub(crate) gate: Arc<OriginLimiter>,
    /// Those that publish and those of the slots, which end with the slots.
    pub(crate) threads: JoinSet<()>,
}

/// Joins, however long it takes; `None` when told to stop before.
///
/// # Errors
/// When the target cannot be used, the coordinator refuses, or the job cannot be done here, which it is told.
pub(crate) async fn join(
    connector: &Connector,
    who: &Identity,
    config: &WorkerConfig,
    progress: &Progress,
    shutdown: &Shutdown,
) -> Result<Option<Joined>, WorkerError> {
    let target = Arc::new(Target::open(&config.target, config.staging.as_deref())?);
    let clock = Arc::new(LeaseClock::of_this_host());
    let mut calls = Calls::new(CoordinatorClient::new(connector, Arc::clone(&clock)));
    let Some(registration) = register(&mut calls, who, &target, shutdown).await? else { return Ok(None) };
    let mut threads = JoinSet::new();
    let counters = Arc::clone(progress.counters());
    let gate = OriginLimiter::shut(who.slots, Arc::clone(&counters));
    let open = || {
        let job = registration.job.clone();
        let retries = counters.retries.clone();
        let private = if config.allow_private_origin { PrivateOrigin::Allowed } else { PrivateOrigin::Refused };
        let origin = Origin::new(&job, private, Arc::clone(&gate), retries);
        let origin = origin.map_err(JobContextError::from)?;
        let context = JobContext::open(job, origin, target, Arc::clone(&clock), who.slots, counters, &mut threads)?;
        // Before the slots, which can be fewer where the system has not enough threads.
        let renewals = heartbeat::start(&mut threads, connector.clone(), clock, progress.clone())?;
        let slots = Slots::open(Arc::new(context), progress.clone(), who.slots, &mut threads)?;
        Ok::<_, WorkerError>((renewals, slots))
    };
    let opened = match open() {
        Ok((renewals, slots)) => check_origin(slots.context(), registration.ttl).await.map(|()| (renewals, slots)),
        Err(error) => Err(error),
    };
    match opened {
        Ok((renewals, slots)) => Ok(Some(Joined { calls, registration, renewals, slots, gate, threads })),
        Err(error) => {
            calls.leave(registration.session, &for_the_coordinator(&error)).await;
            Err(error)
        }
    }
}

/// Refuses an origin that this worker must not ask. A name that is not looked up in time is checked
/// at each connection.
async fn check_origin(context: &JobContext, ttl: Duration) -> Result<(), WorkerError> {
    match timeout(LONGEST_LOOKUP.min(ttl / 3), context.check_origin()).await {
        Ok(checked) => Ok(checked?),
        Err(_) => Ok(()),
    }
}

async fn register(
    calls: &mut Calls,
    who: &Identity,
    target: &Target,
    shutdown: &Shutdown,
) -> Result<Option<Registration>, WorkerError> {
    loop {
        calls.register(who, target.storage_id(), Vec::new(), false, Duration::ZERO);
        match shutdown.drain.run_until_cancelled(calls.next()).await {
            None => return Ok(None),
            Some(Some(Ok(Answer::Registered(registration)))) => return Ok(Some(*registration)),
            Some(Some(Err(Refused(why)))) => return Err(WorkerError::Refused(why)),
            Some(_) => {}
        }
    }
}
