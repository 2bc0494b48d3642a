//! `deploy/observability/metrics.md` lists exactly the metrics that the programs serve, with their
//! types, labels and help texts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use tests::{answer::Answer, cluster::Job, http::Scrape, running::Signal, wait::wait_until};

use crate::{origin, start_with_tls, wnids};

const TIMEOUT: Duration = Duration::from_secs(30);
/// What the page says in the place of the values of a label that differ between builds.
const ANY_BUILD: &str = "one value for each build";

/// Labels with the values that each has; an empty set stands for the values of builds.
type Labels = BTreeMap<String, BTreeSet<String>>;

/// A metric on the page, or one that is served.
#[derive(Debug, Default, Clone, PartialEq)]
struct Metric {
    kind: String,
    labels: Labels,
    text: String,
}

/// The metrics by the name that queries use.
type Metrics = BTreeMap<String, Metric>;

/// The entries of a section of the page.
fn documented(section: &str) -> Metrics {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/observability/metrics.md");
    let page = fs::read_to_string(path).expect("the page is there");
    let (_, rest) = page
        .split_once(&format!("\n## {section}\n"))
        .unwrap_or_else(|| panic!("no section {section}"));
    let section = rest.split("\n## ").next().expect("a first part");
    let entries = section.split("\n- `").skip(1);
    entries.map(entry).collect()
}

/// An entry: name, then type, unit and labels in parentheses, a colon, and the text.
fn entry(text: &str) -> (String, Metric) {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let parsed = text.split_once("` (").and_then(|(name, rest)| {
        let (head, text) = rest.split_once("): ")?;
        let mut parts = head.split("; ");
        let kind = parts.next()?.to_owned();
        let unit = parts.next()?;
        assert!(!unit.is_empty() && !unit.contains('`'), "no unit: {text}");
        let labels = parts.map(label).collect::<Option<_>>()?;
        let text = text.to_owned();
        Some((name.to_owned(), Metric { kind, labels, text }))
    });
    parsed.unwrap_or_else(|| panic!("not an entry: {text}"))
}

/// A label: its name, a colon, and its values.
fn label(text: &str) -> Option<(String, BTreeSet<String>)> {
    let (name, values) = text.split_once(": ")?;
    let quoted = |word: &str| Some(word.strip_prefix('`')?.strip_suffix('`')?.to_owned());
    let values = if values == ANY_BUILD {
        BTreeSet::new()
    } else {
        values.split(", ").map(quoted).collect::<Option<_>>()?
    };
    Some((quoted(name)?, values))
}

/// The metrics of a scrape, with the values of labels that occur.
fn served(scrape: &Scrape) -> Metrics {
    let mut found = Metrics::new();
    let mut help = String::new();
    let mut name = String::new();
    for line in scrape.text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            rest.split_once(' ')
                .expect("a help text")
                .1
                .clone_into(&mut help);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (family, kind) = rest.split_once(' ').expect("a type");
            let suffix = if kind == "counter" { "_total" } else { "" };
            name = format!("{family}{suffix}");
            let metric = Metric {
                kind: kind.to_owned(),
                text: help.clone(),
                ..Metric::default()
            };
            found.insert(name.clone(), metric);
        } else if let Some((_, rest)) = line.split_once('{') {
            let (labels, _) = rest.rsplit_once("\"} ").expect("labels end");
            let metric = found.get_mut(&name).expect("its type was before");
            for label in labels.split("\",") {
                let (label, value) = label.split_once("=\"").expect("a label has a value");
                if label != "le" {
                    let values = metric.labels.entry(label.to_owned()).or_default();
                    values.insert(value.to_owned());
                }
            }
        }
    }
    found
}

/// What differs between the page and the served metrics: names, types, labels, help texts (with
/// which the text on the page begins), and values of labels that are not on the page.
fn differences(page: &Metrics, served: &Metrics) -> Vec<String> {
    let unserved = page
        .keys()
        .filter(|name| !served.contains_key(*name))
        .map(|name| format!("{name} is in metrics.md and not served"));
    let different = served.iter().filter_map(|(name, metric)| {
        let Some(on_the_page) = page.get(name) else {
            return Some(format!("{name} is served and not in metrics.md"));
        };
        let is_alike = metric.kind == on_the_page.kind
            && on_the_page.text.starts_with(&metric.text)
            && metric.labels.keys().eq(on_the_page.labels.keys())
            && metric.labels.iter().all(|(label, values)| {
                let known = &on_the_page.labels[label];
                known.is_empty() || values.is_subset(known)
            });
        (!is_alike).then(|| format!("{name} is {metric:?} and in metrics.md {on_the_page:?}"))
    });
    unserved.chain(different).collect()
}

#[test]
fn the_page_of_metrics_lists_what_the_programs_serve_and_nothing_else() {
    let wnids = wnids(2);
    let origin = origin(&wnids);
    let stalling = origin.script_of(&wnids[1]).expect("the class is served");
    stalling.script([Answer::stall_at(20_000)]);
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(["--delete-tar"]);
    let (job, coordinator, mut worker) = start_with_tls(job);
    let http = worker.wait_for_http();
    let is_done = |now: &Scrape| now.sum("imagenet_classes{state=\"success\"}") > 0.5;
    let of_coordinator = wait_until(TIMEOUT, || Scrape::of(coordinator.http).filter(is_done))
        .expect("a class is complete while the other one stalls");
    let of_worker = Scrape::of(http).expect("the worker answers");
    let both = documented("Both programs");
    for (section, scrape) in [("Coordinator", of_coordinator), ("Worker", of_worker)] {
        let mut page = documented(section);
        page.extend(both.clone());
        let found = differences(&page, &served(&scrape));
        assert!(found.is_empty(), "{found:#?}");
    }
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code, Some(143), "{}", job.log());
    coordinator.running.kill();
}

#[test]
fn each_kind_of_difference_is_found() {
    let page = documented("Worker");
    assert_eq!(differences(&page, &page), Vec::<String>::new());
    let name = "imagenet_worker_classes_total";
    let metric = &page[name];
    let mut without = page.clone();
    without.remove(name);
    let expected = [format!("{name} is in metrics.md and not served")];
    assert_eq!(differences(&page, &without), expected);
    let expected = [format!("{name} is served and not in metrics.md")];
    assert_eq!(differences(&without, &page), expected);
    let labels = |label: &str, value: &str| {
        let values = BTreeSet::from([value.to_owned()]);
        Labels::from([(label.to_owned(), values)])
    };
    let kind = "histogram".to_owned();
    let text = "Other.".to_owned();
    for other in [
        Metric {
            kind,
            ..metric.clone()
        },
        Metric {
            text,
            ..metric.clone()
        },
        Metric {
            labels: labels("class", "success"),
            ..metric.clone()
        },
        Metric {
            labels: labels("outcome", "n00000001"),
            ..metric.clone()
        },
    ] {
        let mut served = page.clone();
        served.insert(name.to_owned(), other);
        assert_eq!(differences(&page, &served).len(), 1, "{:?}", served[name]);
    }
}
