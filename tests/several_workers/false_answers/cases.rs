//! The false answers that are tried, each with the expected behaviour of the worker.

use Expected::{Continues, Ends};

use crate::{
    answer_changes::{AnswerChanges, CONTROL_CHARACTERS},
    scripted_coordinator::{BudgetStream, WNID, lease},
};

/// A false answer of a coordinator.
pub(super) struct FalseAnswer {
    /// Its name in messages.
    pub(super) what: &'static str,
    pub(super) changes: AnswerChanges,
    pub(super) budget_stream: BudgetStream,
    pub(super) expected: Expected,
}

/// The expected behaviour of a worker after a false answer of its coordinator.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected {
    /// The worker continues, within the limits.
    Continues,
    /// The worker ends with exit code 2 and one error message that contains this text.
    Ends(&'static str),
}

impl FalseAnswer {
    fn new(what: &'static str, changes: AnswerChanges, expected: Expected) -> Self {
        Self {
            what,
            changes,
            budget_stream: BudgetStream::Unknown,
            expected,
        }
    }
}

fn headers(count: usize, bytes: usize) -> AnswerChanges {
    let header = move |number| proto::Header {
        name: format!("A{number}"),
        value: vec![b'b'; bytes],
    };
    AnswerChanges::in_the_job(move |job| job.headers = (0..count).map(header).collect())
}

fn status() -> proto::JobStatus {
    let most = u64::MAX;
    proto::JobStatus {
        total: most,
        success: most,
        skipped: most,
        failed: most,
        leased: most,
        pending: most,
        workers: u32::MAX,
        received_bytes: most,
        done: false,
        time_left_ms: Some(most),
    }
}

fn held(count: u64) -> Vec<proto::Held> {
    (0..count)
        .map(|token| proto::Held {
            token,
            ..proto::Held::default()
        })
        .collect()
}

fn wnids(count: u32) -> Vec<String> {
    (1..=count).map(|number| format!("n{number:08}")).collect()
}

/// False durations, epochs and sessions.
pub(super) fn session_data() -> Vec<FalseAnswer> {
    type Change = fn(&mut proto::RegisterReply);
    let new = |what, change: Change, expected| {
        FalseAnswer::new(what, AnswerChanges::in_registrations(change), expected)
    };
    let continues = |what, change: Change| new(what, change, Continues);
    let ends = |what, change: Change, message| new(what, change, Ends(message));
    let rejection = |what, text: &str, message| {
        FalseAnswer::new(what, AnswerChanges::refusal(text), Ends(message))
    };
    vec![
        continues("the longest renewal interval", |reply| {
            reply.renew_ms = u64::MAX;
        }),
        continues("a renewal interval of 0 ms", |reply| reply.renew_ms = 0),
        continues("a renewal interval of 1 ms", |reply| reply.renew_ms = 1),
        continues("the longest lease", |reply| reply.ttl_ms = u64::MAX),
        continues("the longest lease and interval", |reply| {
            reply.ttl_ms = u64::MAX;
            reply.renew_ms = u64::MAX;
        }),
        ends(
            "leases of 0 ms",
            |reply| reply.ttl_ms = 0,
            "its leases live for 0 ms",
        ),
        ends(
            "leases and interval of 0 ms",
            |reply| (reply.ttl_ms, reply.renew_ms) = (0, 0),
            "live for 0 ms",
        ),
        ends(
            "leases of 1 ms",
            |reply| reply.ttl_ms = 1,
            "its leases live for 1 ms",
        ),
        continues("epoch 0", |reply| reply.epoch = 0),
        continues("the last epoch", |reply| reply.epoch = u32::MAX),
        continues("session 0", |reply| reply.session_id = 0),
        continues("the last session", |reply| reply.session_id = u64::MAX),
        ends("no job", |reply| reply.job = None, "sent no job"),
        continues("counts that overflow", |reply| {
            reply.status = Some(status());
        }),
        continues("drop leases that are not held", |reply| {
            reply.drop_leases = held(80_000);
        }),
        rejection(
            "a rejection with control characters",
            CONTROL_CHARACTERS,
            "\\u{1b}[2J",
        ),
        rejection("a long rejection", &"\u{9b}".repeat(2000), "\\u{9b}\\u{9b}"),
    ]
}

/// False job options.
pub(super) fn job_options() -> Vec<FalseAnswer> {
    type Change = fn(&mut proto::JobOptions);
    let new = |what, change: Change, expected| {
        FalseAnswer::new(what, AnswerChanges::in_the_job(change), expected)
    };
    let continues = |what, change: Change| new(what, change, Continues);
    let ends = |what, change: Change, message| new(what, change, Ends(message));
    let with_headers =
        |what, count, bytes, message| FalseAnswer::new(what, headers(count, bytes), Ends(message));
    vec![
        continues("no timeout", |job| job.timeout_ms = 0),
        continues("the longest timeout", |job| job.timeout_ms = u64::MAX),
        continues("the most retries", |job| job.retries = u32::MAX),
        with_headers("300 headers", 300, 1, "its request headers are 300"),
        with_headers("40,000 headers", 40_000, 1, "its request headers are 40000"),
        with_headers(
            "long headers",
            10,
            90_000,
            "its bytes of request headers are",
        ),
        ends(
            "a header with control characters",
            |job| {
                job.headers = vec![proto::Header {
                    name: CONTROL_CHARACTERS.to_owned(),
                    value: Vec::new(),
                }];
            },
            "use the request header \"\\u{1b}[2J",
        ),
        ends(
            "900 kB of certificates",
            |job| job.ca_pem = vec![b'-'; 900_000],
            "its bytes of certificates",
        ),
        continues("an answer that is too long", |job| {
            job.ca_pem = vec![b'-'; 3_000_000];
        }),
        ends("no URL", |job| job.url_template.clear(), "it is no URL"),
        ends(
            "a file URL",
            |job| "file:///etc/passwd".clone_into(&mut job.url_template),
            "its scheme is file:",
        ),
        ends(
            "a long URL",
            |job| job.url_template = format!("http://h/{}", "x".repeat(500_000)),
            "bytes of URL",
        ),
        ends(
            "a URL with control characters",
            |job| job.url_template = format!("http://{CONTROL_CHARACTERS}/"),
            "it is no URL",
        ),
        ends(
            "a run id with control characters",
            |job| CONTROL_CHARACTERS.clone_into(&mut job.run_id),
            "the id of its run",
        ),
        ends(
            "a long run id",
            |job| job.run_id = "a".repeat(100_000),
            "the id of its run",
        ),
    ]
}

/// False answers to renewals, `Acquire` calls and reports.
pub(super) fn replies() -> Vec<FalseAnswer> {
    let renewal = |what, change: fn(&mut proto::RenewReply)| {
        FalseAnswer::new(what, AnswerChanges::in_renewals(change), Continues)
    };
    let grant = |what, change: fn(&mut proto::AcquireReply)| {
        FalseAnswer::new(what, AnswerChanges::in_grants(change), Continues)
    };
    let receipt = |what, change: fn(&mut proto::ReportReply)| {
        FalseAnswer::new(what, AnswerChanges::in_receipts(change), Continues)
    };
    vec![
        renewal("drop 80,000 leases", |reply| {
            reply.drop_leases = held(80_000);
        }),
        renewal("always register again", |reply| {
            reply.directive = proto::Directive::Reregister.into();
        }),
        grant("register again after each grant", |reply| {
            reply.directive = proto::Directive::Reregister.into();
        }),
        renewal("an unknown directive", |reply| reply.directive = 99),
        grant("the same lease again", |reply| {
            reply.leases = vec![lease(WNID, 5); 3];
        }),
        grant("leases of invalid classes", |reply| {
            reply.leases = ["", "n1", CONTROL_CHARACTERS, "n99999999999999"]
                .map(|wnid| lease(wnid, 1))
                .into();
        }),
        grant("50,000 leases of invalid classes", |reply| {
            reply.leases = vec![lease("", 1); 50_000];
        }),
        grant("a trace with control characters", |reply| {
            reply.leases = vec![proto::Lease {
                traceparent: CONTROL_CHARACTERS.repeat(1000),
                ..lease(WNID, u64::MAX)
            }];
        }),
        grant("counts of grants", |reply| reply.status = Some(status())),
        receipt("settled 60,000 times", |reply| reply.acked = wnids(60_000)),
        receipt("counts of receipts", |reply| reply.status = Some(status())),
    ]
}

/// Budgets with extreme limits of connections, rates and pauses.
pub(super) fn budgets() -> Vec<FalseAnswer> {
    let most = u64::MAX;
    let all = |number: u64, connections| proto::Budget {
        version: number,
        connections,
        bytes_per_second: number,
        pause_ms: number,
        observe_ms: number,
        resumed: 0,
    };
    let budgets = [
        all(0, 0),
        all(1, 1),
        all(most, u32::MAX),
        proto::Budget {
            connections: 1,
            observe_ms: 0,
            bytes_per_second: 1,
            ..proto::Budget::default()
        },
        proto::Budget {
            connections: u32::MAX,
            bytes_per_second: most,
            ..proto::Budget::default()
        },
    ];
    let answer = |budget| FalseAnswer {
        budget_stream: BudgetStream::Budget(budget),
        ..FalseAnswer::new("a budget", AnswerChanges::default(), Continues)
    };
    budgets.into_iter().map(answer).collect()
}
