//! Starts and stops the data plane.

use std::sync::Arc;

use tracing::{error, info, warn};
use vl3lb_common::dataplane::{Attachment, Dataplane};
use vl3lb_control::cli::Failure;
use vl3lb_control::config::{self, Config};
use vl3lb_dataplane::config as dataplane;
use vl3lb_dataplane::plane::Plane;

use super::{failed, refused};

pub(super) async fn start(config: &Config) -> Result<Arc<Plane>, Failure> {
    let dataplane = dataplane_config(config);
    let plane = Arc::new(Plane::new(dataplane));
    let attaching = Arc::clone(&plane);
    let attachment = tokio::task::spawn_blocking(move || attaching.attach())
        .await
        .map_err(failed)?
        .map_err(refused)?;
    let Attachment {
        interface,
        driver,
        mode,
        zero_copy,
        reason,
        refuses,
        cores,
        ..
    } = &*attachment;
    let copy = if *zero_copy { "zero-copy" } else { "copy" };
    let why = if reason.is_empty() { "" } else { ": " };
    info!(
        "mode: {} XDP, {copy}, on {interface} (driver {driver}){why}{reason}; workers on cores {cores:?}",
        mode.name(),
    );
    if !refuses.is_empty() {
        warn!("mode {}: {refuses}", mode.name());
    }
    Ok(plane)
}

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
        frames: config.frames,
        nat_ports: config.nat_ports,
        timeouts: dataplane::Timeouts {
            tcp_established: config.timeouts.tcp_established,
            tcp_transitory: config.timeouts.tcp_transitory,
            udp: config.timeouts.udp,
        },
    }
}
