//! What a user can get wrong: each mistake has one sentence, and the good part of the input is done all the same.

mod arguments;
mod class_lists;
mod full_disk;
mod targets;
