//! Reads what Grafana would ask Prometheus for, with its variables replaced.

use std::path::Path;

use serde_json::Value;

/// The queries of a board.
pub(super) struct Board {
    /// Of panels and annotations.
    pub(super) expressions: Vec<String>,
    /// Selectors of the series whose labels are the values of variables.
    pub(super) variables: Vec<String>,
}

impl Board {
    pub(super) fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("read the board");
        let board: Value = serde_json::from_str(&text).expect("parse the board");
        let mut found = Self {
            expressions: Vec::new(),
            variables: Vec::new(),
        };
        found.panels(&board["panels"]);
        for variable in list(&board["templating"]["list"]) {
            if let Some(query) = variable["query"]["query"].as_str() {
                let selector = query
                    .strip_prefix("label_values(")
                    .and_then(|query| query.rsplit_once(','));
                let (selector, _label) = selector.expect("label_values(SELECTOR, LABEL)");
                found.variables.push(filled_in(selector));
            }
        }
        found
    }

    fn panels(&mut self, panels: &Value) {
        for panel in list(panels) {
            if panel["type"] == "row" {
                self.panels(&panel["panels"]);
                continue;
            }
            let targets = list(&panel["targets"]);
            assert!(!targets.is_empty(), "{} asks for nothing", panel["title"]);
            let expressions = targets
                .iter()
                .map(|target| target["expr"].as_str().expect("an expression"));
            self.expressions.extend(expressions.map(filled_in));
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

/// As Grafana sends it with all variables at "All".
fn filled_in(expression: &str) -> String {
    let mut expression = expression.replace("$__rate_interval", "10s");
    for variable in ["namespace", "pod", "service", "reason"] {
        expression = expression.replace(&format!("${variable}"), ".*");
    }
    assert!(!expression.contains('$'), "an unknown variable: {expression}");
    expression
}
