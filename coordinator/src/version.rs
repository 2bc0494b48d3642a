//! The version of this build.

/// The version, with the commit if it is known.
pub const VERSION: &str = env!("IMAGENET_VERSION");
