//! Network namespaces, the links between them, and programs that run in them, for tests and benchmarks; and for fuzz targets,
//! their runner and the changes of inputs.
//!
//! Nothing outlives the process that made it, however that process ends: a namespace is an open descriptor without a
//! name, its devices go with it, and each program gets SIGKILL when the thread that started it ends.
//!
//! All calls return a [`TestbedError`]. Tests turn it into a panic with [`OrPanic::or_panic`]. Root is needed, and
//! iproute2.

pub mod addresses;
pub mod error;
pub mod fuzz;
pub mod mutation;
pub mod netns;
pub mod node;
pub mod packet_socket;
pub mod process;
pub mod router;
pub mod switch;
pub mod tun;
pub mod veth;

pub use error::{OrPanic, TestbedError};
pub use netns::Netns;
