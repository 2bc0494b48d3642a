//! The tail: with nothing left to lease, free slots fetch parts of the largest transfers into files beside them, of other
//! workers on the same storage too.

mod assembly;
mod board;
mod fetch_part;
mod hands;
mod lending;
mod lent;
mod part_file;
mod plan;
mod spare;
mod speed;
mod split;

pub(crate) use assembly::{Assembly, Left};
pub(crate) use fetch_part::Tar;
pub(crate) use hands::Hands;
pub(crate) use lending::Lending;
pub(crate) use part_file::{Found, adopt};
#[cfg(test)]
pub(crate) use part_file::{PartWriter, Version, name};
pub(crate) use spare::{Appetite, Spare, shares};
