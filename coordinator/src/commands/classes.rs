//! `coordinator status --classes`: lists leased and failed classes. It writes them page by page, so
//! memory does not grow with the list.

use std::io::Write;

use serde::Serialize;
use shared::job::JobStatus;

use super::{CommandError, json, write_line};
use crate::{
    fleet::{ClassView, ListedState},
    rpc::admin::client::Client,
    wording::{bytes, counted},
};

/// The JSON output of a class. The help documents the names of the fields, so they are stable.
#[derive(Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum ClassJson<'class> {
    Leased {
        wnid: String,
        worker: Option<&'class str>,
        bytes: u64,
        length: Option<u64>,
    },
    Failed {
        wnid: String,
        worker: Option<&'class str>,
        kind: String,
        message: &'class str,
    },
}

/// Writes both lists.
pub(super) async fn list(
    client: &Client,
    job: &JobStatus,
    as_json: bool,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    for (state, heading) in [
        (ListedState::Leased, "classes with workers:"),
        (ListedState::Failed, "failed classes:"),
    ] {
        let mut after = None;
        let mut listed: u64 = 0;
        loop {
            let page = client.classes(state, after).await?;
            if listed == 0 && !page.classes.is_empty() && !as_json {
                write_line(out, heading)?;
            }
            for class in &page.classes {
                let line = if as_json {
                    json(&ClassJson::from(class))
                } else {
                    in_words(class)
                };
                write_line(out, &line)?;
            }
            listed += page.classes.len() as u64;
            after = page.classes.last().map(|class| class.wnid);
            if !page.more || after.is_none() {
                break;
            }
        }
        let rows = job.failed.saturating_sub(listed);
        if state == ListedState::Failed && rows > 0 && !as_json {
            let rows = counted(rows, "row of the list holds", "rows of the list hold");
            let more = format!("{rows} no class id and failed: the failure log names them");
            write_line(out, &more)?;
        }
    }
    Ok(())
}

fn in_words(class: &ClassView) -> String {
    let ClassView {
        wnid,
        worker,
        bytes: received,
        length,
        failure,
    } = class;
    let worker = if worker.is_empty() { "-" } else { worker };
    match failure {
        Some(failure) => format!("  {wnid}  {worker}  {failure}"),
        None if *length == 0 => format!("  {wnid}  {worker}  {}", bytes(*received)),
        None => format!(
            "  {wnid}  {worker}  {} of {}",
            bytes(*received),
            bytes(*length)
        ),
    }
}

impl<'class> From<&'class ClassView> for ClassJson<'class> {
    fn from(class: &'class ClassView) -> Self {
        let wnid = class.wnid.to_string();
        let worker = (!class.worker.is_empty()).then_some(class.worker.as_str());
        match &class.failure {
            Some(failure) => Self::Failed {
                wnid,
                worker,
                kind: failure.kind.to_string(),
                message: &failure.message,
            },
            None => Self::Leased {
                wnid,
                worker,
                bytes: class.bytes,
                length: Some(class.length).filter(|it| *it > 0),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::outcome::{Failure, FailureKind};

    use super::*;

    fn class(length: u64, failure: Option<Failure>) -> ClassView {
        let wnid = "n00000001".parse().unwrap();
        ClassView {
            wnid,
            worker: "w1".to_owned(),
            bytes: 12_300_000,
            length,
            failure,
        }
    }

    #[test]
    fn each_class_is_one_line_in_both_formats() {
        let failure = Failure::new(FailureKind::HttpError, "404 Client Error: Not Found");
        let failed = class(0, Some(failure));
        let unknown = ClassView {
            worker: String::new(),
            ..class(0, None)
        };
        assert_eq!(
            in_words(&class(45_200_000, None)),
            "  n00000001  w1  12.3MB of 45.2MB"
        );
        assert_eq!(in_words(&unknown), "  n00000001  -  12.3MB");
        assert_eq!(
            in_words(&failed),
            "  n00000001  w1  HTTPError: 404 Client Error: Not Found"
        );
        assert_eq!(
            json(&ClassJson::from(&unknown)),
            r#"{"state":"leased","wnid":"n00000001","worker":null,"bytes":12300000,"length":null}"#
        );
        assert_eq!(
            json(&ClassJson::from(&failed)),
            r#"{"state":"failed","wnid":"n00000001","worker":"w1","kind":"HTTPError","message":"404 Client Error: Not Found"}"#
        );
    }
}
