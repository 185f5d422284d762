//! Services of Kubernetes that the balancer serves, or not.

use std::sync::Arc;

use tokio::sync::watch;

use crate::discovery::{Accepted, Refused, StaleStatus};

/// All of them, as the discovery knows them now.
#[derive(Debug, Clone)]
pub struct KubeServices {
    pub accepted: watch::Receiver<Arc<Vec<Accepted>>>,
    pub refused: watch::Receiver<Arc<Vec<Refused>>>,
    /// Those that are not served, and have the balancers' addresses in their status still.
    pub left: watch::Receiver<Arc<Vec<StaleStatus>>>,
}

impl KubeServices {
    /// Where no Services are looked at.
    pub fn none() -> Self {
        Self {
            accepted: watch::Sender::default().subscribe(),
            refused: watch::Sender::default().subscribe(),
            left: watch::Sender::default().subscribe(),
        }
    }
}
