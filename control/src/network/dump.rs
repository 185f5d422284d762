//! Reads the kernel's tables of one interface, by netlink.

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{Handle, IpVersion};
use tracing::debug;

use super::message;
use super::routing::Rule;
use super::tables::Dump;

/// All tables, as far as they concern `interface`. Without the interface they are empty.
pub(super) async fn dump(handle: &Handle, interface: &str) -> Result<Dump, rtnetlink::Error> {
    let mut dump = Dump::default();
    // By walking all links: asking for one that is not there would be an error like any other.
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await? {
        if message::link_name(&link) == Some(interface) {
            dump.link = Some(message::link_attributes(&link));
        }
    }
    let Some(link) = dump.link else {
        return Ok(dump);
    };
    let mut addresses = handle.address().get().execute();
    while let Some(address) = addresses.try_next().await? {
        dump.addresses
            .extend(message::usable_address(&address, link.index));
    }
    for (family, version) in [
        (AddressFamily::Inet, IpVersion::V4),
        (AddressFamily::Inet6, IpVersion::V6),
    ] {
        dump.routing.rules.extend(rules(handle, version).await);
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let mut routes = handle.route().get(request).execute();
        while let Some(route) = routes.try_next().await? {
            dump.routing.routes.extend(message::route(&route, link.index));
            dump.broadcasts.extend(message::broadcast(&route, link.index));
        }
    }
    let mut neighbors = handle.neighbours().get().execute();
    while let Some(neighbor) = neighbors.try_next().await? {
        dump.neighbors.extend(message::neighbor(&neighbor, link.index));
    }
    Ok(dump)
}

/// The rules of a family. A kernel without rules, or without the family, refuses the dump, and routes by its own tables.
async fn rules(handle: &Handle, version: IpVersion) -> Vec<Rule> {
    let is_v6 = version == IpVersion::V6;
    let dump = handle.rule().get(version).execute();
    match dump.try_collect::<Vec<_>>().await {
        Ok(rules) => rules.iter().filter_map(message::rule).collect(),
        Err(error) => {
            debug!("dump routing rules: {error}; taking the default ones");
            Rule::defaults(is_v6).into()
        }
    }
}
