mod descriptors;
mod failures;
mod fuzz;
mod peers;
mod rotation;
mod tokens;
mod wire;

use std::collections::HashMap;

use super::NetworkNamespace;
use crate::nsm::proto::connection::{Connection, Mechanism, Path, PathSegment};
use crate::nsm::proto::connectioncontext::{ConnectionContext, IpContext};
use crate::nsm::proto::networkservice::NetworkServiceRequest;

/// The first Request of a client.
fn request(namespace: &NetworkNamespace) -> NetworkServiceRequest {
    NetworkServiceRequest {
        connection: Some(Connection {
            id: "c1-0".to_owned(),
            network_service: "vl3-lb".to_owned(),
            context: Some(ConnectionContext {
                ip_context: Some(IpContext::default()),
                ..ConnectionContext::default()
            }),
            path: Some(Path {
                index: 0,
                path_segments: vec![PathSegment {
                    name: "c1".to_owned(),
                    id: "c1-0".to_owned(),
                    ..PathSegment::default()
                }],
            }),
            ..Connection::default()
        }),
        mechanism_preferences: vec![Mechanism {
            cls: "LOCAL".to_owned(),
            r#type: "KERNEL".to_owned(),
            parameters: HashMap::from([
                ("inodeURL".to_owned(), namespace.inode_url().to_owned()),
                ("name".to_owned(), "nsm-1".to_owned()),
            ]),
        }],
    }
}
