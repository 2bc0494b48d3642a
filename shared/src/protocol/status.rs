//! Names of the gRPC status codes, as in the protocol's specification.

use tonic::Code;

/// Names of the gRPC status codes by their number.
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The name of a code, e.g. `UNAVAILABLE`.
pub fn status_name(code: Code) -> &'static str {
    let number = usize::try_from(i32::from(code)).unwrap_or_default();
    NAMES[number.min(NAMES.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_belong_to_their_codes() {
        for (code, name) in [
            (Code::Ok, "OK"),
            (Code::Unavailable, "UNAVAILABLE"),
            (Code::Unauthenticated, "UNAUTHENTICATED"),
        ] {
            assert_eq!(status_name(code), name);
        }
    }
}
