//! Parts: when no class is left to lease, free slots fetch parts of the largest transfers into
//! files.

mod assembly;
mod fetch_part;
mod plan;
mod spare;
mod speed;
mod split;

pub(crate) use assembly::{Assembly, EarlierAttempt};
pub(crate) use fetch_part::Tar;
pub(crate) use spare::{Demand, ExtraConnections, shares};
