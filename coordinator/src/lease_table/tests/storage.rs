//! Workers that share a storage: inventories, checkpoints and failures of the storage.

use super::*;

fn register_on_storage(
    table: &mut LeaseTable,
    storage: &str,
    worker: &str,
    now: Instant,
) -> Registered {
    let storage = storage.to_owned();
    let worker_info = WorkerInfo {
        worker: worker.to_owned(),
        instance: worker.into(),
        storage,
        slots: MANY,
        ..WorkerInfo::default()
    };
    table.register(&worker_info, &[], now).unwrap()
}

#[test]
fn the_inventory_of_each_storage_is_taken_once_and_nothing_is_leased_meanwhile() {
    let mut now = Instant::now();
    let mut table = table(5);
    let one = register_on_storage(&mut table, "shared", "one", now);
    let two = register_on_storage(&mut table, "shared", "two", now);
    let local = register_on_storage(&mut table, "local", "three", now);
    let unknown = register_on_storage(&mut table, "", "four", now);
    assert_eq!(
        [
            one.needs_inventory,
            two.needs_inventory,
            local.needs_inventory,
            unknown.needs_inventory
        ],
        [true, false, true, false]
    );
    assert!(
        register_on_storage(&mut table, "shared", "one", now).needs_inventory,
        "a repeated registration gets the same answer"
    );
    let there = Outcome::Skipped(Published::default());
    let unleased = Lease {
        wnid: wnids(1)[0],
        token: LeaseToken(0),
    };
    assert_eq!(
        table.report(one.session, unleased, &there, now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    assert_eq!(acquire(&mut table, two.session, 1, now).unwrap(), []);
    assert_eq!(
        acquire(&mut table, one.session, 1, now).unwrap(),
        [],
        "the other inventory is not finished"
    );
    let wake_ups = table.wake_ups();
    assert_eq!(
        numbers(&acquire(&mut table, local.session, 1, now).unwrap()),
        ["2"]
    );
    assert!(table.wake_ups() > wake_ups, "waiting workers are woken");
    assert_eq!(
        numbers(&acquire(&mut table, two.session, 1, now).unwrap()),
        ["3"]
    );
    now += Duration::from_secs(1);
    assert!(!register_on_storage(&mut table, "local", "five", now).needs_inventory);
    let newcomer = register_on_storage(&mut table, "new", "six", now);
    assert!(newcomer.needs_inventory);
    assert_eq!(
        numbers(&acquire(&mut table, two.session, 1, now).unwrap()),
        ["4"],
        "a fleet that has leases does not wait for it"
    );
}

#[test]
fn an_inventory_that_takes_long_or_whose_worker_is_gone_does_not_block_grants() {
    let mut now = Instant::now();
    let mut table = table(5);
    let slow = register_on_storage(&mut table, "slow", "slow", now).session;
    let other = register_on_storage(&mut table, "", "other", now).session;
    assert_eq!(acquire(&mut table, other, 1, now).unwrap(), []);
    let wake_ups = table.wake_ups();
    now += inventories::INVENTORY_TIMEOUT;
    table.tick(now);
    assert!(table.wake_ups() > wake_ups);
    assert_eq!(acquire(&mut table, other, 1, now).unwrap().len(), 1);
    table.leave(slow).unwrap();
    let dies = register_on_storage(&mut table, "dies", "dies", now);
    table.leave(dies.session).unwrap();
    assert!(
        register_on_storage(&mut table, "dies", "next", now).needs_inventory,
        "another worker takes the inventory"
    );
}

#[test]
fn a_partial_class_is_resumed_on_the_storage_of_its_checkpoint() {
    let now = Instant::now();
    let mut table = table(3);
    let [one, two, three] = [("a", "one"), ("b", "two"), ("b", "three")]
        .map(|(storage, worker)| register_on_storage(&mut table, storage, worker, now).session);
    for id in [one, two, three] {
        acquire(&mut table, id, 0, now).unwrap();
    }
    assert_eq!(numbers(&acquire(&mut table, one, 1, now).unwrap()), ["1"]);
    assert_eq!(numbers(&acquire(&mut table, two, 1, now).unwrap()), ["2"]);
    table.leave(one).unwrap();
    table.leave(two).unwrap();
    assert_eq!(
        numbers(&acquire(&mut table, three, 1, now).unwrap()),
        ["2"],
        "on the same storage"
    );
    assert_eq!(
        numbers(&acquire(&mut table, three, 9, now).unwrap()),
        ["1", "3"],
        "then all other classes"
    );
    check(&table);
}

#[test]
fn a_failure_of_a_storage_counts_for_all_workers_that_share_it() {
    let mut now = Instant::now();
    let mut table = table(1);
    let ids = [("a", "one"), ("a", "two"), ("b", "three")]
        .map(|(storage, worker)| register_on_storage(&mut table, storage, worker, now).session);
    for id in ids {
        acquire(&mut table, id, 0, now).unwrap();
    }
    let lease = acquire(&mut table, ids[0], 1, now).unwrap()[0];
    assert_eq!(
        table.report(
            ids[0],
            lease,
            &failure_caused_by(Suspect::WorkerHost),
            now,
            NO_DELAY
        ),
        ReportVerdict::Retried
    );
    now += Duration::from_secs(2);
    table.tick(now);
    assert_eq!(acquire(&mut table, ids[1], 1, now).unwrap(), []);
    table.leave(ids[2]).unwrap();
    let lease = acquire(&mut table, ids[1], 1, now).unwrap()[0];
    assert_eq!(
        table.report(
            ids[1],
            lease,
            &failure_caused_by(Suspect::WorkerHost),
            now,
            NO_DELAY
        ),
        ReportVerdict::Settled
    );
}
