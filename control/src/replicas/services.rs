//! Services of Kubernetes that the balancer serves, or not.

use std::sync::Arc;

use tokio::sync::watch;

use crate::discovery::{Accepted, Refused};

/// All of them, as the discovery knows them now.
#[derive(Debug, Clone)]
pub struct Services {
    pub accepted: watch::Receiver<Arc<Vec<Accepted>>>,
    pub refused: watch::Receiver<Arc<Vec<Refused>>>,
}

impl Services {
    /// Where no Services are looked at.
    pub fn none() -> Self {
        Self {
            accepted: watch::Sender::default().subscribe(),
            refused: watch::Sender::default().subscribe(),
        }
    }
}
