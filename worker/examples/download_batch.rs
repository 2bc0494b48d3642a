//! Downloads the classes of a CSV from a program: `cargo run -p worker --example download_batch --
//! data.csv ./images URL`.
#![expect(clippy::print_stdout, reason = "an example writes to the terminal")]

use std::env;

use worker::{DEFAULT_URL, Options, download_batch, load_part_ids_from_csv};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args().skip(1);
    let csv = arguments.next().unwrap_or_else(|| "data.csv".to_owned());
    let target = arguments.next().unwrap_or_else(|| "./imagenet".to_owned());
    let url = arguments.next().unwrap_or_else(|| DEFAULT_URL.to_owned());

    let part_ids = load_part_ids_from_csv(&csv)?;
    let options = Options {
        url,
        workers: 5,
        delete_tar: true,
        ..Options::default()
    };
    let stats = download_batch(part_ids, &target, &options).await?;

    println!(
        "{} downloaded, {} there before, {} failed",
        stats.success, stats.skipped, stats.failed
    );
    for failed in &stats.failures {
        println!("{} - {}", failed.part_id, failed.failure);
    }
    Ok(())
}
