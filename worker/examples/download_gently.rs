//! Downloads the classes of a CSV with limits, prints the progress, and stops at Ctrl-C:
//! `cargo run -p worker --example download_gently -- data.csv ./images URL CONNECTIONS
//! BYTES_PER_SECOND`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example writes to the terminal"
)]

use std::{env, error::Error, process::ExitCode};

use worker::{
    BatchError, BatchProgress, Options, ProgressCallback, download_batch, load_part_ids_from_csv,
};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [csv, target, url, connections, rate] = &arguments[..] else {
        return Err("give: CSV TARGET URL CONNECTIONS BYTES_PER_SECOND".into());
    };
    let options = Options {
        url: url.clone(),
        delete_tar: true,
        max_connections: Some(connections.parse()?),
        max_rate: Some(rate.parse()?),
        on_progress: Some(ProgressCallback::new(print)),
        ..Options::default()
    };
    let cancellation = options.cancellation.clone();
    let part_ids = load_part_ids_from_csv(csv)?;
    let batch = download_batch(part_ids, target, &options);
    tokio::pin!(batch);
    let ended = tokio::select! {
        ended = &mut batch => ended,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            cancellation.cancel();
            batch.await
        }
    };
    match ended {
        Ok(stats) => println!("{} downloaded, {} failed", stats.success, stats.failed),
        Err(BatchError::Cancelled { stats }) => println!("stopped after {} classes", stats.total()),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn print(progress: &BatchProgress<'_>) {
    let BatchProgress {
        total,
        stats,
        received_bytes,
        classes,
    } = progress;
    println!(
        "{} of {total}, {} under way, {received_bytes} bytes",
        stats.total(),
        classes.len()
    );
}
