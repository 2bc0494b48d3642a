//! Workers and their coordinator: what each does when the other, or the host, does something out of the ordinary.

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
