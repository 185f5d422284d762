//! The gRPC messages and clients of Network Service Mesh and of the SPIFFE Workload API.
//!
//! `generated/` is made from `definitions/` and checked in, which keeps the protobuf compiler out of the build; the
//! test of this module compares them. Types that hold secrets have a `Debug` of their own, in `redacted.rs`.

mod redacted;
#[cfg(test)]
mod tests;

macro_rules! generated {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        #[allow(
            unreachable_pub,
            unused_qualifications,
            missing_debug_implementations,
            clippy::all,
            reason = "generated"
        )]
        pub mod $name {
            include!(concat!("generated/", $file));
        }
    };
}

generated!(
    /// `Request` and `Close`.
    networkservice,
    "networkservice.rs"
);
generated!(
    /// `Connection`, and `MonitorConnections`.
    connection,
    "connection.rs"
);
generated!(
    /// What a connection carries: addresses, routes, DNS, MTU.
    connectioncontext,
    "connectioncontext.rs"
);
generated!(
    /// Network services and their endpoints.
    registry,
    "registry.rs"
);
generated!(
    /// The X.509 part of the SPIFFE Workload API.
    workload,
    "workload.rs"
);
