//! `coordinator retry`, `coordinator drain` and `coordinator resume`: requests to a running
//! coordinator.

use std::{collections::BTreeSet, io::Write, time::Duration};

use shared::{Wnid, exit_code::Exit};

use super::{CommandError, write_line};
use crate::{
    config::{CoordinatorArgs, DrainArgs, RetryArgs},
    dispatcher::Retried,
    rpc::admin::client::Client,
    wording::counted,
};

/// Makes failed classes pending again.
pub(super) async fn retry(
    arguments: &RetryArgs,
    out: &mut impl Write,
) -> Result<Exit, CommandError> {
    let client = Client::new(&arguments.coordinator)?;
    // Duplicates count once.
    let named: BTreeSet<Wnid> = arguments.wnids.iter().copied().collect();
    let named = Vec::from_iter(named);
    let retried = client.retry(&named).await?;
    // A job that is done cannot be reopened.
    if retried.classes == 0 && client.fleet().await?.fleet.job.is_done() {
        return Err(CommandError::JobDone);
    }
    write_line(out, &retried_in_words(retried, named.len()))?;
    Ok(Exit::Done)
}

fn retried_in_words(
    Retried {
        classes: retried,
        invalid_rows,
    }: Retried,
    named: usize,
) -> String {
    let said = match retried {
        0 => "no failed class to try again".to_owned(),
        _ => counted(
            retried,
            "failed class is tried again",
            "failed classes are tried again",
        ),
    };
    match (named as u64).saturating_sub(retried) {
        0 if named == 0 => said + &invalid_in_words(invalid_rows),
        0 => said,
        others => {
            let others = counted(
                others,
                "of those named has not failed",
                "of those named have not failed",
            );
            format!("{said}; {others}")
        }
    }
}

/// Rows of the list that count as failed and cannot be retried.
fn invalid_in_words(rows: u64) -> String {
    if rows == 0 {
        return String::new();
    }
    let rows = counted(
        rows,
        "row of the list holds no class id and stays",
        "rows of the list hold no class id and stay",
    );
    format!("; {rows} failed until the list is corrected")
}

/// Asks a worker to finish its leases and exit.
pub(super) async fn drain(
    arguments: &DrainArgs,
    out: &mut impl Write,
) -> Result<Exit, CommandError> {
    Client::new(&arguments.coordinator)?
        .drain(&arguments.name)
        .await?;
    let line = format!(
        "worker {} takes nothing new, finishes what it holds and ends",
        arguments.name
    );
    write_line(out, &line)?;
    Ok(Exit::Done)
}

/// Ends the waits that the origin has asked for.
pub(super) async fn resume(
    arguments: &CoordinatorArgs,
    out: &mut impl Write,
) -> Result<Exit, CommandError> {
    let left = Client::new(arguments)?.resume().await?;
    write_line(out, &resumed_in_words(left))?;
    Ok(Exit::Done)
}

fn resumed_in_words(left: Duration) -> String {
    if left.is_zero() {
        return "the origin has asked for no wait".to_owned();
    }
    let left = humantime::format_duration(Duration::from_secs(left.as_secs().max(1)));
    format!("the workers ask the origin again now; it had asked to wait for another {left}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_of_a_wait_is_worded() {
        for (left, said) in [
            (0, "the origin has asked for no wait"),
            (
                300,
                "the workers ask the origin again now; it had asked to wait for another 1s",
            ),
            (
                899_999,
                "the workers ask the origin again now; it had asked to wait for another 14m 59s",
            ),
        ] {
            assert_eq!(resumed_in_words(Duration::from_millis(left)), said);
        }
    }

    #[test]
    fn the_number_of_retried_classes_is_worded() {
        for (retried, named, said) in [
            (0, 0, "no failed class to try again"),
            (1, 0, "1 failed class is tried again"),
            (3, 0, "3 failed classes are tried again"),
            (
                2,
                3,
                "2 failed classes are tried again; 1 of those named has not failed",
            ),
            (
                0,
                2,
                "no failed class to try again; 2 of those named have not failed",
            ),
        ] {
            let retried = Retried {
                classes: retried,
                invalid_rows: 0,
            };
            assert_eq!(retried_in_words(retried, named), said);
        }
    }
}
