//! `coordinator demo-origin`: the demo's origin as a separate program.

use std::io::Write;

use shared::exit_code::Exit;

use super::{CommandError, write_line};
use crate::{config::DemoOriginArgs, demo::Demo};

/// Serves until it is dropped or an error occurs.
pub(super) async fn run(
    arguments: &DemoOriginArgs,
    out: &mut impl Write,
) -> Result<Exit, CommandError> {
    let demo = Demo::listen(arguments.listen, arguments.class_takes).await?;
    write_line(
        out,
        &format!(
            "serving {} classes, for --url {}",
            demo.wnids.len(),
            demo.url
        ),
    )?;
    demo.run_until_error().await?;
    Ok(Exit::CouldNotRun)
}
