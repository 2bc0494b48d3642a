//! What this was built from.

/// The version and the commit, as far as that is known.
pub const VERSION: &str = env!("IMAGENET_VERSION");
