//! A simulated worker.

use super::*;

impl SimulatedWorker {
    pub(super) fn new(number: u64, now: Instant) -> Self {
        let budget = Budget {
            version: 0,
            connections: 0,
            bytes_per_second: None,
            pause: Duration::ZERO,
            observe_every: Duration::from_millis(100),
            resumed: 0,
        };
        Self {
            id: SessionId(number),
            transfers: VecDeque::new(),
            budget,
            pause_until: now,
            counted: Observation::default(),
            reported_at: now,
            is_urgent: true,
        }
    }

    pub(super) fn open(&self) -> u32 {
        self.count(|state| !matches!(state, TransferState::Waiting(_)))
    }

    pub(super) fn flowing(&self) -> u32 {
        self.count(|state| state == TransferState::Flowing)
    }

    fn count(&self, is: impl Fn(TransferState) -> bool) -> u32 {
        u32::try_from(
            self.transfers
                .iter()
                .filter(|transfer| is(transfer.state))
                .count(),
        )
        .unwrap()
    }

    pub(super) fn send_requests(&mut self, now: Instant, latency: Duration) -> u64 {
        let mut free = self.budget.connections.saturating_sub(self.open());
        let mut sent = 0;
        for transfer in &mut self.transfers {
            if free > 0
                && now >= self.pause_until
                && matches!(transfer.state, TransferState::Waiting(at) if now >= at)
            {
                transfer.state = TransferState::Opening(now + latency);
                (free, sent) = (free - 1, sent + 1);
            }
        }
        self.counted.requests += sent;
        sent
    }

    pub(super) fn fail_all(&mut self, now: Instant) {
        let mut broken = 0;
        for transfer in self
            .transfers
            .iter_mut()
            .filter(|transfer| !matches!(transfer.state, TransferState::Waiting(_)))
        {
            transfer.state = TransferState::Waiting(now + Duration::from_millis(250));
            broken += 1;
        }
        self.counted.cuts += broken;
        self.is_urgent |= broken > 0;
    }

    pub(super) fn fail_requests(&mut self, now: Instant) {
        for transfer in &mut self.transfers {
            if matches!(transfer.state, TransferState::Opening(at) if now >= at) {
                let pause = 500 << (transfer.tries % 6);
                transfer.tries += 1;
                transfer.state = TransferState::Waiting(now + Duration::from_millis(pause / 2));
                self.counted.cuts += 1;
                self.is_urgent = true;
            }
        }
    }

    pub(super) fn receive_responses(
        &mut self,
        now: Instant,
        unresponsive_until: Instant,
        capacity: &mut u32,
        origin: &SimulatedOrigin,
        answers: &mut u64,
    ) -> bool {
        let mut refused = false;
        for transfer in &mut self.transfers {
            match transfer.state {
                TransferState::Opening(at) if now >= at && now >= unresponsive_until => {
                    *answers += 1;
                    if *capacity == 0 || origin.refuses(transfer, *answers) {
                        transfer.refused += 1;
                        transfer.state = TransferState::Waiting(now + RETRY_AFTER);
                        self.counted.refusals += 1;
                        refused = true;
                    } else {
                        *capacity -= 1;
                        transfer.state = TransferState::Flowing;
                        transfer.flows_since = now;
                    }
                }
                _ => {}
            }
        }
        if refused {
            self.pause_until = self.pause_until.max(now + RETRY_AFTER);
            self.is_urgent = true;
        }
        refused
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "some bytes of a step"
    )]
    pub(super) fn receive(
        &mut self,
        bytes: f64,
        cuts_every: f64,
        rtt: Option<Duration>,
        now: Instant,
    ) -> usize {
        let before = self.transfers.len();
        for transfer in self
            .transfers
            .iter_mut()
            .filter(|transfer| transfer.state == TransferState::Flowing)
        {
            let bytes = rtt.map_or(bytes, |rtt| {
                let trips = (now - transfer.flows_since).as_secs_f64() / rtt.as_secs_f64();
                (14_600.0 * trips.min(30.0).exp2() / rtt.as_secs_f64() * STEP.as_secs_f64())
                    .min(bytes)
            });
            transfer.left -= bytes;
            transfer.until_cut -= bytes;
            self.counted.received += bytes as u64;
            if transfer.until_cut <= 0.0 && transfer.left > 0.0 {
                (transfer.state, transfer.until_cut) = (
                    TransferState::Waiting(now + Duration::from_millis(250)),
                    cuts_every,
                );
                self.counted.cuts += 1;
                self.is_urgent = true;
            }
        }
        self.transfers.retain(|transfer| transfer.left > 0.0);
        before - self.transfers.len()
    }

    pub(super) fn observation(&self, now: Instant) -> Observation {
        Observation {
            seen: self.budget.version,
            open: self.open(),
            flowing: self.flowing(),
            wanted: u32::try_from(self.transfers.len()).unwrap(),
            retry_after: (self.pause_until > now && self.counted.refusals > 0)
                .then(|| self.pause_until - now),
            ..self.counted
        }
    }

    pub(super) fn apply(&mut self, budget: Budget, now: Instant) {
        if budget.version != self.budget.version {
            self.pause_until = self.pause_until.max(now + budget.pause);
            self.is_urgent |= budget.connections < self.budget.connections;
            self.budget = budget;
        }
    }
}
