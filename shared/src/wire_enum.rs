//! Conversion between an enum of these programs and the enum of the same name on the wire.

/// Implements `From` in both directions. The values have the same names; a value that is
/// unspecified, or of a newer protocol, becomes the first one. The caller depends on `proto`.
#[macro_export]
macro_rules! wire_enum {
    ($name:ident: $first:ident, $($other:ident),+) => {
        impl From<$name> for proto::$name {
            fn from(value: $name) -> Self {
                match value {
                    $name::$first => Self::$first,
                    $($name::$other => Self::$other,)+
                }
            }
        }

        impl From<proto::$name> for $name {
            fn from(wire: proto::$name) -> Self {
                match wire {
                    proto::$name::Unspecified | proto::$name::$first => Self::$first,
                    $(proto::$name::$other => Self::$other,)+
                }
            }
        }
    };
}
