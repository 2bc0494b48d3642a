//! The CSV, from unusual but valid forms to files that are not CSV at all (D1 to D6).

use std::{fs::File, io::Write};

use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    origin::Origin,
};

fn fixture(count: u64) -> (Origin, Vec<(String, Vec<u8>)>) {
    let origin = Origin::start();
    let tars: Vec<(String, Vec<u8>)> = (1..=count)
        .map(|n| {
            (
                format!("n{n:08}"),
                images(&format!("n{n:08}"), 2, 100..900, n),
            )
        })
        .collect();
    for (wnid, tar) in &tars {
        origin.class(wnid, tar.clone());
    }
    (origin, tars)
}

#[test]
fn unusual_but_valid_lists_are_read_in_full() {
    let (origin, tars) = fixture(3);
    for text in [
        "wnid\nn00000001\nn00000002\nn00000003\n",
        "wnid\nn00000001\nn00000002\nn00000003",
        "\u{feff}wnid,label\r\nn00000001,a\r\nn00000002,b\r\nn00000003,c\r\n",
        "label,wnid\n\"a, b\",n00000001\n\"a \"\"b\"\"\",\"n00000002\"\n'c',n00000003\n",
        "index , wnid , label\n1,  n00000001 ,a\n\n\n2,\tn00000002,b\n\n3,n00000003 ,\"a\nb\"\n\n",
        "wnid,label\nn00000001\nn00000002,b,too,many\nn00000003,c\n",
    ] {
        let job = Job::new()
            .csv_text(text)
            .origin(&origin)
            .args(["--delete-tar"]);
        job.assert_ended(&job.run(), 0, Table::of(3, 0, 0));
        for (wnid, tar) in &tars {
            assert_class_is(tar, &job.class_folder(wnid));
        }
    }
}

#[test]
fn a_repeated_id_is_one_class() {
    let (origin, _tars) = fixture(2);
    let job = Job::new()
        .classes(["n00000001", "n00000002", "n00000001", "n00000001"])
        .origin(&origin);
    job.assert_ended(&job.run(), 0, Table::of(2, 0, 0).with_duplicates(2));
    assert_eq!(origin.gets("n00000001").len(), 1);
    // Also if no class is left to download.
    let again = job.args(["--retry-failed"]);
    again.assert_ended(&again.run(), 0, Table::of(0, 2, 0).with_duplicates(2));
}

#[test]
fn rows_that_grep_made_of_words_are_left_out_with_one_warning() {
    let (origin, _tars) = fixture(2);
    let job = Job::new()
        .csv_text("wnid\nn00000001\nn\nn\nn00000001\nn\nn00000002\n")
        .origin(&origin);
    let finished = job.run();
    job.assert_ended(&finished, 0, Table::of(2, 0, 0).with_duplicates(1));
    assert_eq!(job.failures(), Vec::<String>::new());
    let warning = "the class list has 3 rows that hold only \"n\", left out";
    let log = std::fs::read_to_string(job.target_path().join("imagenet_downloader.log"));
    for text in [&finished.stderr, &log.unwrap()] {
        assert_eq!(text.matches(warning).count(), 1, "{text}");
    }
}

#[test]
fn failures_are_counted_by_cause_before_the_table_with_the_path_of_their_log() {
    let (origin, _tars) = fixture(1);
    origin.class("n00000004", vec![0; 1024]);
    origin
        .script_of("n00000004")
        .expect("the class is served")
        .forever(Answer::html());
    let listed = ["n00000001", "n00000002", "n00000003", "n00000004", "cat"];
    let job = Job::new().classes(listed).origin(&origin);
    let ended = job.run();
    job.assert_ended(&ended, 1, Table::of(1, 0, 4));
    let log = job.target_path().join("failed_downloads.log");
    let line = format!(
        "failed: 2 HTTPError: 404 Client Error: Not Found, 1 InvalidWnid, 1 NotATar; each is named \
         in {}",
        log.display()
    );
    assert!(
        ended.stderr.lines().any(|printed| printed == line),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_row_without_an_id_is_reported_with_its_line_and_the_others_are_done() {
    let (origin, _tars) = fixture(2);
    let long = "n".repeat(300);
    let junk = [
        "n123",
        "x00000001",
        "N00000001",
        "n000000011",
        "../../escaped",
        "/etc/passwd",
        "n00000001/../x",
        "-rf",
        "--help",
        "n0000000\u{0661}",
        "nüüüüüüüü",
        "n00000001\u{1b}[2J",
        "n0000\u{0}0001",
        &long,
    ];
    let rows: Vec<String> = junk
        .iter()
        .map(|value| format!("{value},label\n"))
        .collect();
    let text = format!(
        "wnid,label\nn00000001,good\n{}n00000002,good\n",
        rows.concat()
    );
    let job = Job::new()
        .csv_text(text)
        .origin(&origin)
        .args(["--delete-tar"]);
    let finished = job.run();
    job.assert_ended(&finished, 1, Table::of(2, 0, junk.len() as u64));
    let failures = job.failures();
    assert_eq!(failures.len(), junk.len(), "{failures:#?}");
    for (line, number) in failures.iter().zip(3..) {
        assert!(
            line.contains("InvalidWnid") && line.contains(&number.to_string()),
            "no line {number}: {line}"
        );
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    assert!(
        origin
            .all_requests()
            .iter()
            .all(|request| !junk.contains(&request.wnid.as_str()))
    );
    assert!(!tests::folders::holds(job.folder(), "escaped"));
}

#[test]
fn a_list_without_a_wnid_column_is_rejected() {
    let (origin, _tars) = fixture(1);
    for text in [
        "id,label\nn00000001,a\n",
        "n00000001\n",
        "wnids\nn00000001\n",
        "a;wnid\n1;n00000001\n",
    ] {
        let job = Job::new().csv_text(text).origin(&origin);
        job.assert_could_not_run(&job.run(), &["CSV file must contain 'wnid' column"]);
    }
    assert_eq!(origin.all_requests().len(), 0);
}

#[test]
fn a_list_without_any_id_is_an_error() {
    let (origin, _tars) = fixture(1);
    for text in [
        "",
        "\n\n",
        "wnid\n",
        "wnid,label\n\n\n",
        "wnid\njunk\nn123\n",
    ] {
        let job = Job::new().csv_text(text).origin(&origin);
        job.assert_could_not_run(&job.run(), &["data.csv"]);
    }
}

#[test]
fn a_list_that_is_not_a_text_file_is_reported_as_such() {
    let (origin, _tars) = fixture(1);
    let job = Job::new().origin(&origin);
    let folder = job.folder().to_path_buf();
    let missing = folder.join("missing.csv");
    let job = job.csv_at(&missing);
    job.assert_could_not_run(&job.run(), &["missing.csv"]);
    let job = job.csv_at(&folder);
    job.assert_could_not_run(&job.run(), &[]);
    let compressed = folder.join("data.csv.gz");
    std::fs::write(
        &compressed,
        b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xff\xfe\xfd\x80\x81\x82",
    )
    .unwrap();
    let job = job.csv_at(&compressed);
    job.assert_could_not_run(&job.run(), &["data.csv.gz"]);
    let fifo = folder.join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0)
        .expect("a fifo can be made");
    let job = job.csv_at(&fifo);
    job.assert_could_not_run(&job.run(), &["fifo"]);
}

#[test]
fn a_line_of_a_gigabyte_does_not_fill_the_memory() {
    let (origin, _tars) = fixture(1);
    let job = Job::new().origin(&origin);
    let path = job.folder().join("data.csv");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"wnid,label\n").unwrap();
    file.set_len(1 << 30).unwrap();
    let job = job.csv_at(path);
    let finished = job.run();
    job.assert_could_not_run(&finished, &[]);
    assert!(
        finished.peak_memory.is_none_or(|bytes| bytes < 150 << 20),
        "{:?}",
        finished.peak_memory
    );
}
