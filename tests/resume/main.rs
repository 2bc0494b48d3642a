//! No byte is downloaded twice: an interrupted download resumes at its end, also in another process
//! or on another host.

mod field_replay;
mod killed;
