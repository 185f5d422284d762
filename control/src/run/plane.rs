//! Makes the data plane from the configuration, and stops it.

use std::sync::Arc;

use crate::config::{self, Config};
use tracing::error;
use vl3lb_dataplane::Plane;
use vl3lb_dataplane::config as dataplane;

/// A data plane that is not attached yet.
pub(super) fn new(config: &Config) -> Arc<Plane> {
    Arc::new(Plane::new(dataplane_config(config)))
}

/// Detaches, and waits for the workers.
pub(super) async fn stop(plane: Arc<Plane>) {
    match tokio::task::spawn_blocking(move || plane.stop()).await {
        Ok(0) => {}
        Ok(lost) => error!("{lost} frames were not returned at the end; please report this bug"),
        Err(error) => error!("stop the data plane: {error}"),
    }
}

fn dataplane_config(config: &Config) -> dataplane::Config {
    dataplane::Config {
        interface: config.interface.clone(),
        mode: match config.mode {
            config::Mode::Auto => dataplane::Mode::Auto,
            config::Mode::Native => dataplane::Mode::Native,
            config::Mode::Generic => dataplane::Mode::Generic,
            config::Mode::Companion => dataplane::Mode::Companion,
        },
        zero_copy: match config.zero_copy {
            config::ZeroCopy::Auto => dataplane::ZeroCopy::Auto,
            config::ZeroCopy::On => dataplane::ZeroCopy::On,
            config::ZeroCopy::Off => dataplane::ZeroCopy::Off,
        },
        cores: match &config.workers {
            config::Workers::Auto => None,
            config::Workers::Cores(cores) => Some(cores.clone()),
        },
        flows: config.flows,
        client_flows: config.client_flows,
        frames: config.frames,
        nat_ports: config.nat_ports,
        timeouts: dataplane::Timeouts {
            tcp_established: config.timeouts.tcp_established,
            tcp_opening: config.timeouts.tcp_opening,
            tcp_closing: config.timeouts.tcp_closing,
            udp: config.timeouts.udp,
        },
        fast_path: dataplane::FastPathConfig {
            enabled: config.fast_path.mode == config::FastPathMode::Auto,
            after: config.fast_path.after,
            flows: config.fast_path.flows,
        },
    }
}
