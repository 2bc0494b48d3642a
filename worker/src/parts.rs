//! Parts: when no class is left to lease, free slots fetch parts of the largest transfers into
//! files.

mod assembly;
mod extra_connections;
mod fetch_part;
mod plan;
mod speed;
mod split;

pub(crate) use assembly::Assembly;
pub(crate) use extra_connections::{Demand, ExtraConnections, shares};
pub(crate) use fetch_part::Tar;
pub(crate) use split::EarlierAttempt;
