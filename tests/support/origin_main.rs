//! The scripted origin as a program: serves a folder of tars from disk and prints its URL on the
//! first line. Its counters are at `/.figures`, its request log at `/.requests`.

use std::{
    collections::HashMap,
    convert::Infallible,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

use tests::{content::OnDisk, origin::Origin, script_file};

const USAGE: &str = "usage: origin --dir DIR_OF_TARS [--listen 127.0.0.1:0] [--rate \
                     BYTES_PER_SECOND_AND_CONNECTION] \
    [--total-rate BYTES_PER_SECOND] [--break-above TRANSFERS] [--silence SECONDS] [--script FILE]";

fn main() -> ExitCode {
    let Err(why) = run();
    drop(writeln!(io::stderr(), "origin: {why}"));
    ExitCode::from(2)
}

/// Serves until the process is killed.
fn run() -> Result<Infallible, String> {
    let mut options = options(std::env::args().skip(1))?;
    let folder = options.remove("--dir").ok_or(USAGE)?;
    let listen = options
        .remove("--listen")
        .unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let rate = number(&mut options, "--rate")?;
    let total_rate = number(&mut options, "--total-rate")?;
    let most_transfers = number(&mut options, "--break-above")?;
    let silence: Option<f64> = number(&mut options, "--silence")?;
    let script = options.remove("--script");
    if let Some(unknown) = options.keys().next() {
        return Err(format!("{unknown} is unknown; {USAGE}"));
    }
    let origin = Origin::listen(&listen).map_err(|error| format!("{listen}: {error}"))?;
    origin.limit_rate(rate.unwrap_or(0));
    origin.limit_total_rate(total_rate.unwrap_or(0));
    if let Some(most) = most_transfers {
        let silence = Duration::try_from_secs_f64(silence.unwrap_or(1.0)).map_err(|_| USAGE)?;
        origin.break_above(most, silence);
    }
    serve_folder(&origin, Path::new(&folder)).map_err(|error| format!("{folder}: {error}"))?;
    if let Some(script) = script {
        let text =
            std::fs::read_to_string(&script).map_err(|error| format!("{script}: {error}"))?;
        script_file::apply(&text, &origin).map_err(|why| format!("{script}, {why}"))?;
    }
    writeln!(io::stdout(), "{}", origin.url()).map_err(|error| error.to_string())?;
    loop {
        std::thread::park();
    }
}

fn options(mut words: impl Iterator<Item = String>) -> Result<HashMap<String, String>, String> {
    let mut options = HashMap::new();
    while let Some(name) = words.next() {
        let value = words
            .next()
            .ok_or_else(|| format!("{name} needs a value; {USAGE}"))?;
        options.insert(name, value);
    }
    Ok(options)
}

fn number<T: FromStr>(
    options: &mut HashMap<String, String>,
    name: &str,
) -> Result<Option<T>, String> {
    let value = options.remove(name).map(|value| value.parse());
    value
        .transpose()
        .map_err(|_| format!("{name} needs a number; {USAGE}"))
}

fn serve_folder(origin: &Origin, folder: &Path) -> io::Result<()> {
    for entry in folder.read_dir()? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tar")
            && let Some(wnid) = path.file_stem().and_then(|stem| stem.to_str())
        {
            origin.class(wnid, OnDisk::open(&path)?);
        }
    }
    Ok(())
}
