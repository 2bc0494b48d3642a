//! Workers and their coordinator: how each handles unusual behaviour of the other or of the host.

mod budget;
mod copies;
mod finished;
mod hostile;
mod liar;
mod lies;
mod local_tars;
mod obeys;
mod scripted;
mod separate_folders;
mod small_disks;
mod stopped;
mod stops;
