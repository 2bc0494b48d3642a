//! No byte twice: what broke or was killed goes on where it ended, whoever goes on with it.

mod field_replay;
mod killed;
