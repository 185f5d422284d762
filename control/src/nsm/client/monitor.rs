//! The manager's stream of events about this client's connection.

use std::sync::Arc;

use tokio::sync::mpsc;
use vl3lb_common::Duration;

use crate::nsm::proto::connection::{ConnectionEvent, ConnectionEventType, State};

use super::call::{CallError, Caller, within};
use super::message::Terms;
use super::stepper::Signal;

/// Events that wait for the client.
const WAITING: usize = 16;

/// One item of the stream. The first event of a stream is the list of all connections.
#[derive(Debug)]
pub(super) enum Item {
    Opened(ConnectionEvent),
    Changed(ConnectionEvent),
    /// `None`: the manager ended the stream without an error.
    Ended(Option<CallError>),
}

/// A stream that is opening or open. It closes when dropped.
#[derive(Debug)]
pub(super) struct Monitor {
    items: mpsc::Receiver<Item>,
    task: tokio::task::AbortHandle,
}

impl Monitor {
    /// Opens the stream, whose first event must come within `limit`.
    pub(super) fn open(caller: Caller, terms: Arc<Terms>, limit: Duration) -> Self {
        let (sender, items) = mpsc::channel(WAITING);
        let task = tokio::spawn(async move {
            let end = follow(caller, terms, limit, &sender).await;
            sender.send(Item::Ended(end)).await.ok();
        });
        let task = task.abort_handle();
        Self { items, task }
    }

    /// The next item. Cancel-safe.
    pub(super) async fn next(&mut self) -> Item {
        self.items.recv().await.unwrap_or(Item::Ended(None))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sends all events until the stream ends. Returns why it ended.
async fn follow(
    caller: Caller,
    terms: Arc<Terms>,
    limit: Duration,
    items: &mpsc::Sender<Item>,
) -> Option<CallError> {
    let opened = within(limit, async |_| caller.monitor(&terms).await).await;
    let (mut stream, first) = match opened {
        Ok(opened) => opened,
        Err(error) => return Some(error),
    };
    let mut item = Item::Opened(first);
    loop {
        items.send(item).await.ok()?;
        item = match stream.message().await {
            Ok(event) => Item::Changed(event?),
            Err(status) => return Some(status.into()),
        };
    }
}

/// What an event says about the connection that the manager calls `manager_id`; `None` if it is about others.
pub(super) fn signal(terms: &Terms, event: &ConnectionEvent, manager_id: Option<&str>) -> Option<Signal> {
    let is_current = |id: &str| manager_id.is_none_or(|current| current == id);
    let own = terms.own(event).find(|connection| is_current(&connection.id));
    match (event.r#type(), own) {
        // A list without it.
        (ConnectionEventType::InitialStateTransfer, None) => Some(Signal::Missing),
        (_, None) => None,
        (ConnectionEventType::Delete, Some(_)) => Some(Signal::Closed),
        (_, Some(connection)) => Some(match connection.state() {
            State::Down => Signal::Down,
            State::RefreshRequested => Signal::RefreshRequested,
            // It stays in this state until the next refresh.
            State::Up | State::ReselectRequested => Signal::Up,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::NetworkService;
    use crate::nsm::proto::connection::{Connection, Path, PathSegment};

    fn terms() -> Terms {
        let service = NetworkService {
            name: "vl3-lb".to_owned(),
            interface: "nsm-1".to_owned(),
            labels: BTreeMap::new(),
        };
        Terms::new("c1", service, String::new())
    }

    fn connection(client: &str, manager_id: &str, state: State) -> Connection {
        let segment = |name: &str, id: &str| PathSegment {
            name: name.to_owned(),
            id: id.to_owned(),
            ..PathSegment::default()
        };
        Connection {
            id: manager_id.to_owned(),
            path: Some(Path {
                index: 1,
                path_segments: vec![
                    segment(client, &format!("{client}-0")),
                    segment("nsmgr-0", manager_id),
                ],
            }),
            state: state.into(),
            ..Connection::default()
        }
    }

    #[test]
    fn events_about_the_present_connection_are_signals() {
        use ConnectionEventType::{Delete, InitialStateTransfer as Initial, Update};
        let up = || connection("c1", "m-1", State::Up);
        let old = || connection("c1", "m-0", State::Up);
        let other = || connection("c2", "m-2", State::Up);
        let mut deeper = up();
        deeper.path.as_mut().unwrap().index = 2;
        for (kind, connection, want) in [
            (Initial, Some(up()), Some(Signal::Up)),
            (Initial, None, Some(Signal::Missing)),
            (Initial, Some(other()), Some(Signal::Missing)),
            (Initial, Some(deeper), Some(Signal::Missing)),
            (
                Initial,
                Some(connection("c1", "m-1", State::Down)),
                Some(Signal::Down),
            ),
            (
                Initial,
                Some(connection("c1", "m-1", State::ReselectRequested)),
                Some(Signal::Up),
            ),
            (
                Update,
                Some(connection("c1", "m-1", State::Down)),
                Some(Signal::Down),
            ),
            (
                Update,
                Some(connection("c1", "m-1", State::RefreshRequested)),
                Some(Signal::RefreshRequested),
            ),
            (Update, Some(connection("c2", "m-2", State::Down)), None),
            (Update, None, None),
            (Delete, Some(up()), Some(Signal::Closed)),
            // One that was replaced times out.
            (Delete, Some(old()), None),
            (Delete, Some(other()), None),
        ] {
            let event = ConnectionEvent {
                r#type: kind.into(),
                connections: connection
                    .into_iter()
                    .map(|connection| (connection.id.clone(), connection))
                    .collect(),
            };
            assert_eq!(signal(&terms(), &event, Some("m-1")), want, "{event:?}");
        }
    }
}
