//! Pages of workers and of classes.

use super::{
    super::{ClassesQuery, PAGE, QueryError, WorkersQuery, ranking::summarized},
    fleets::worker,
    *,
};
use crate::fleet::{WorkerState, WorkerView};

fn workers(query: WorkersQuery, workers: &[WorkerView]) -> (usize, Vec<String>) {
    let page = query.parsed().unwrap().page(workers);
    let names = page.workers.into_iter().map(|worker| worker.name);
    (page.total, names.map(|name| name[..9].to_owned()).collect())
}

/// The value of a parameter.
fn text<T: From<String>>(value: &str) -> T {
    value.to_owned().into()
}

fn fleet() -> Vec<WorkerView> {
    use WorkerState::{Active, Draining, Lost, Quarantined, Silent};
    let states = [Active, Active, Draining, Silent, Lost, Quarantined, Active];
    let rates = [50, 10, 40, 0, 0, 30, 20];
    (0..)
        .zip(states)
        .zip(rates)
        .map(|((place, state), rate)| worker(place, state, rate))
        .collect()
}

#[test]
fn workers_in_trouble_come_first_and_then_the_slowest() {
    let fleet = fleet();
    let names = |places: [u32; 7]| places.map(|place| format!("node-{place:04}")).to_vec();
    let by = |sort: &str| WorkersQuery {
        sort: text(sort),
        ..WorkersQuery::default()
    };
    let trouble = names([4, 3, 5, 2, 1, 6, 0]);
    assert_eq!(
        workers(WorkersQuery::default(), &fleet),
        (7, trouble.clone())
    );
    assert_eq!(workers(by("trouble"), &fleet).1, trouble);
    assert_eq!(workers(by("name"), &fleet).1, names([0, 1, 2, 3, 4, 5, 6]));
    assert_eq!(workers(by("rate"), &fleet).1, names([3, 4, 1, 6, 5, 2, 0]));
    let first: Vec<String> = summarized(&fleet)
        .first
        .into_iter()
        .map(|one| one.name)
        .collect();
    assert!(
        first
            .iter()
            .zip(&trouble)
            .all(|(name, start)| name.starts_with(start)),
        "{first:?}"
    );
}

#[test]
fn workers_are_told_and_found_with_their_hosts() {
    let mut fleet = fleet();
    fleet[3].host = "Rack7-node3".to_owned();
    fleet[4].host = String::new();
    let query = WorkersQuery {
        q: text("rack7"),
        ..WorkersQuery::default()
    };
    assert_eq!(workers(query, &fleet), (1, vec!["node-0003".to_owned()]));
    let first = summarized(&fleet).first.into_iter();
    let hosts: Vec<Option<String>> = first.take(2).map(|worker| worker.host).collect();
    assert_eq!(hosts, [None, Some("Rack7-node3".to_owned())]);
}

#[test]
fn a_page_of_workers_has_the_filter_and_the_offset() {
    let fleet = fleet();
    let query = WorkersQuery {
        state: text("lost,active"),
        after: Some(1),
        limit: Some(2),
        ..WorkersQuery::default()
    };
    let expected = ["node-0001", "node-0006"].map(str::to_owned).to_vec();
    assert_eq!(workers(query, &fleet), (4, expected));
    let query = WorkersQuery {
        q: text("NODE-0003"),
        ..WorkersQuery::default()
    };
    assert_eq!(workers(query, &fleet), (1, vec!["node-0003".to_owned()]));
    let query = WorkersQuery {
        limit: Some(9999),
        ..WorkersQuery::default()
    };
    let many: Vec<WorkerView> = (0..300)
        .map(|at| worker(at, WorkerState::Active, at))
        .collect();
    assert_eq!(workers(query, &many).1.len(), PAGE);
    let bad = WorkersQuery {
        sort: text("age"),
        ..WorkersQuery::default()
    }
    .parsed()
    .unwrap_err();
    assert!(bad.is_bad_request());
    assert_eq!(
        bad.to_string(),
        "sort=age is unknown; use trouble, name or rate"
    );
}

#[test]
fn a_summary_has_the_states_the_worst_ten_and_the_quartiles() {
    let summary = summarized(&fleet());
    assert_eq!(summary.total, 7);
    let active = (WorkerState::Active, 3);
    assert_eq!(summary.states[0], active);
    assert_eq!(
        summary.states.iter().map(|(_, number)| number).sum::<u64>(),
        7
    );
    assert_eq!(summary.bytes_per_second, Some([10, 20, 20, 50, 50]));
    let many: Vec<WorkerView> = (0..101)
        .map(|at| worker(at, WorkerState::Active, at))
        .collect();
    let summary = summarized(&many);
    assert_eq!(summary.first.len(), 10);
    assert_eq!(summary.bytes_per_second, Some([0, 25, 50, 75, 100]));
    assert_eq!(summarized(&[]).bytes_per_second, None);
}

fn classes(query: ClassesQuery) -> Result<(), QueryError> {
    query.parsed().map(drop)
}

#[test]
fn a_wrong_parameter_of_a_list_of_classes_is_named() {
    let bad = ClassesQuery {
        state: text("fx"),
        ..ClassesQuery::default()
    };
    let expected = "state=x is unknown; use letters of w, d, r, s, k and f";
    assert_eq!(classes(bad).unwrap_err().to_string(), expected);
    let bad = ClassesQuery {
        after: text("12"),
        ..ClassesQuery::default()
    };
    let expected = "after=12 is unknown; use a class id like n02124075";
    assert_eq!(classes(bad).unwrap_err().to_string(), expected);
    assert_eq!(classes(ClassesQuery::default()), Ok(()));
}

#[tokio::test]
async fn classes_are_listed_by_state_worker_and_id() {
    let folder = tempfile::tempdir().unwrap();
    let job = Watched::start(folder.path(), 9, 4).await;
    let [done, failed, ..] = job.leases[..] else {
        panic!("four classes are leased");
    };
    job.report(done, success()).await;
    job.report(failed, missing(failed.wnid)).await;
    let list = async |query: ClassesQuery| {
        let page = job.dashboard.classes(query).await.unwrap();
        let wnids: Vec<String> = page
            .classes
            .iter()
            .map(|class| class.wnid.clone())
            .collect();
        (page, wnids)
    };
    let of_state = |state: &str| ClassesQuery {
        state: text(state),
        ..ClassesQuery::default()
    };
    let (all, wnids) = list(ClassesQuery::default()).await;
    assert_eq!((all.total, wnids.len()), (9, 9));
    assert!(wnids.is_sorted());
    let (page, wnids) = list(of_state("f,r")).await;
    assert_eq!(page.total, 3);
    let after = ClassesQuery {
        after: text(&wnids[0]),
        limit: Some(1),
        ..of_state("fr")
    };
    let (page, next) = list(after).await;
    assert_eq!((page.total, &next[..]), (3, &wnids[1..2]));
    let (page, wnids) = list(of_state("f")).await;
    assert_eq!(wnids, [failed.wnid.to_string()]);
    let class = &page.classes[0];
    let reason = &class.failure.as_ref().unwrap().reason;
    assert!(reason.starts_with("404 Client Error"), "{reason}");
    assert_eq!(class.worker.as_deref(), Some("host"));
    assert!(class.at_ms.unwrap() > 1_700_000_000_000);
    assert_eq!(class.attempts, Some(1));
    let of_worker = |worker: &str| ClassesQuery {
        worker: text(worker),
        ..of_state("rsf")
    };
    assert_eq!(list(of_worker("host")).await.1.len(), 4);
    assert_eq!(list(of_worker("other")).await.1.len(), 0);
    let part = ClassesQuery {
        q: text("0007"),
        ..ClassesQuery::default()
    };
    assert_eq!(list(part).await.1, ["n00000007"]);
    let class = job.dashboard.class(done.wnid).await.unwrap().unwrap();
    assert_eq!((class.state, class.bytes), ('s', Some(10_240)));
    let unknown = "n99999999".parse().unwrap();
    assert_eq!(job.dashboard.class(unknown).await, Ok(None));
    job.stop().await;
    let job = Watched::start(folder.path(), 9, 0).await;
    let class = job.dashboard.class(failed.wnid).await.unwrap().unwrap();
    assert_eq!(
        (class.state, class.attempts),
        ('f', None),
        "unknown after a restart"
    );
}
