//! Tests of the whole controller. The tests of its parts are in their files.

use super::*;

mod simulation;
