//! Workers and their coordinator: how each handles unusual behaviour of the other or of the host.

mod answer_changes;
mod budget;
mod directives;
mod false_answers;
mod finished;
mod hostile;
mod internal_addresses;
mod inventory;
mod local_tars;
mod on_terminal;
mod reports;
mod scripted_coordinator;
mod separate_folders;
mod small_disks;
mod speculative_attempts;
mod stopped;
mod stops;
