//! Services of Kubernetes that the balancer serves, or not, as the discovery tells them.

use std::sync::Arc;

use tokio::sync::watch;

/// A Service that is served, all of it or in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Whether it has the balancer's `spec.loadBalancerClass`, and its status is to say where it is.
    pub load_balancer: bool,
    /// The balancer's services that it became, one for each port.
    pub services: Vec<String>,
}

/// What is not done of what a Service asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// A word in CamelCase.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// All of them, as they are now.
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
