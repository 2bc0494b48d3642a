//! The version of this build.

/// The version and, as far as it is known, the commit.
pub const VERSION: &str = env!("IMAGENET_VERSION");
