//! The decisions of discovery about Services of Kubernetes.

use std::sync::Arc;

use tokio::sync::watch;

use crate::discovery::{Accepted, Refused, StaleStatus};

/// The current decisions.
#[derive(Debug, Clone)]
pub struct KubeServices {
    pub accepted: watch::Receiver<Arc<Vec<Accepted>>>,
    pub refused: watch::Receiver<Arc<Vec<Refused>>>,
    /// Services that are not served, but have balancers' addresses in their status.
    pub stale: watch::Receiver<Arc<Vec<StaleStatus>>>,
}

impl KubeServices {
    /// For a balancer that serves no Services of Kubernetes.
    pub fn none() -> Self {
        Self {
            accepted: watch::Sender::default().subscribe(),
            refused: watch::Sender::default().subscribe(),
            stale: watch::Sender::default().subscribe(),
        }
    }
}
