//! The machine of a measurement.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::net::INTERFACE;

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Environment {
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The processor's name.
    pub(crate) cpu: String,
    /// Cores that this process may use.
    pub(crate) cores: usize,
    /// The frequency governor; `None` in most virtual machines.
    pub(crate) governor: Option<String>,
    /// `xdp` or `socket`.
    pub(crate) engine: Option<String>,
    /// Why this engine.
    pub(crate) engine_reason: Option<String>,
    /// The interface that was attached to.
    pub(crate) interface: Option<String>,
    /// How it was attached to, and `copy` or `zero-copy`.
    pub(crate) mode: Option<String>,
    /// Offloads of the links, if known.
    pub(crate) offloads: Option<String>,
}

impl Environment {
    /// This machine.
    pub(crate) fn here() -> Self {
        let read = |path: &str| {
            let text = fs::read_to_string(path).ok()?;
            Some(text.trim().to_owned())
        };
        let cpu = read("/proc/cpuinfo").and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
        Self {
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned()),
            cpu: cpu.unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            engine: None,
            engine_reason: None,
            interface: None,
            mode: None,
            offloads: None,
        }
    }

    /// This machine, with a network of namespaces.
    pub(crate) fn of_namespaces() -> Self {
        Self {
            interface: Some(INTERFACE.to_owned()),
            offloads: Some("kernel defaults".to_owned()),
            ..Self::here()
        }
    }

    /// A machine for tests.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            kernel: "6.18.0".to_owned(),
            cpu: "Example".to_owned(),
            cores: 2,
            governor: None,
            engine: None,
            engine_reason: None,
            interface: None,
            mode: None,
            offloads: None,
        }
    }

    /// One line, for texts and titles.
    pub(crate) fn line(&self) -> String {
        let mut line = format!("{}, {} cores, Linux {}", self.cpu, self.cores, self.kernel);
        for part in [&self.governor, &self.engine, &self.interface, &self.mode]
            .into_iter()
            .flatten()
        {
            line.push_str(", ");
            line.push_str(part);
        }
        line
    }
}
