//! Configurations of the balancer.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use vl3lb_testbed::addresses::INTERFACE;

/// A configuration file under construction, in JSON, which is YAML too.
#[derive(Debug, Clone)]
pub struct Config {
    keys: Map<String, Value>,
}

impl Config {
    /// A configuration without services.
    pub fn new(mode: &str) -> Self {
        let mut keys = Map::new();
        keys.insert("interface".to_owned(), INTERFACE.into());
        keys.insert("mode".to_owned(), mode.into());
        // Enough for every test, and quick to allocate.
        keys.insert("flows".to_owned(), 20_000.into());
        keys.insert("services".to_owned(), json!([]));
        if let Some(fast_path) = fast_path() {
            keys.insert("fastPath".to_owned(), fast_path);
        }
        Self { keys }
    }

    /// The same with a top-level key set.
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.keys.insert(key.to_owned(), value);
        self
    }

    /// The same with one more service.
    pub fn service(mut self, service: Value) -> Self {
        self.keys["services"]
            .as_array_mut()
            .expect("services are a list")
            .push(service);
        self
    }

    /// The file's text.
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(&self.keys).expect("a JSON map serializes")
    }

    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.keys.insert(key.to_owned(), value);
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key)
    }
}

/// What `VL3LB_FASTPATH` makes of the in-kernel path: `off`, or the number of packets after which a flow enters it, so
/// that the whole suite runs without it and with every flow in it.
fn fast_path() -> Option<Value> {
    match std::env::var("VL3LB_FASTPATH").ok()?.as_str() {
        "off" => Some(json!({"mode": "off"})),
        after => {
            let after: u32 = after
                .parse()
                .unwrap_or_else(|error| panic!("VL3LB_FASTPATH is {after}, not off or a number: {error}"));
            Some(json!({"mode": "auto", "after": after}))
        }
    }
}

/// A service with these backends, all of weight 1.
pub fn service(name: &str, protocol: &str, port: u16, target_port: u16, backends: &[IpAddr]) -> Value {
    let backends: Vec<Value> = backends
        .iter()
        .map(|address| json!({"address": address.to_string(), "weight": 1}))
        .collect();
    json!({
        "name": name,
        "protocol": protocol,
        "port": port,
        "targetPort": target_port,
        "backends": backends,
    })
}
