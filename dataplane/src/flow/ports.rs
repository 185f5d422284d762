//! NAT ports: each endpoint has its own map of the worker's ports.
//!
//! Two flows to one endpoint never share a port, whatever their services and backend slots. So a port that is free in
//! the map makes a reply key that no flow has.

use vl3lb_common::PortSet;
use vl3lb_common::snapshot::WorkerPorts;

use super::endpoint::EndpointId;
use super::mapping::Region;

/// Free ports that a search rejects before it gives up.
const MAX_REFUSED: u32 = 512;

/// The ports in use, by endpoint.
pub(super) struct PortMaps {
    /// `words_per_endpoint` words for each endpoint, one bit for each port. Untouched maps cost no memory.
    maps: Region<u64>,
    /// Ports in use, by endpoint.
    in_use: Region<u32>,
    ports: WorkerPorts,
    /// One bit for each port that new flows may get.
    usable: Box<[u64]>,
    /// The numbers of these ports, ascending.
    numbers: Vec<u16>,
    /// The ports that flows may get, of all workers.
    flow_ports: PortSet,
}

impl PortMaps {
    /// Words of one endpoint's map.
    pub(super) const fn words_per_endpoint(ports: u16) -> usize {
        (ports as usize).div_ceil(64)
    }

    /// Ports of each endpoint that flows may get.
    #[expect(clippy::cast_possible_truncation, reason = "65,535 ports at most")]
    pub(super) fn usable(&self) -> u32 {
        self.numbers.len() as u32
    }

    /// Maps over zeroed memory: all ports are free.
    pub(super) fn new(maps: Region<u64>, in_use: Region<u32>, ports: WorkerPorts) -> Self {
        let mut maps = Self {
            maps,
            in_use,
            ports,
            usable: vec![0; Self::words_per_endpoint(ports.count)].into_boxed_slice(),
            numbers: Vec::with_capacity(ports.count.into()),
            flow_ports: PortSet::default(),
        };
        maps.use_only(&PortSet::from(0..=u16::MAX));
        maps
    }

    /// New flows get ports that `flow_ports` has; others keep theirs. O(ports) after a change.
    pub(super) fn use_only(&mut self, flow_ports: &PortSet) {
        if self.flow_ports == *flow_ports {
            return;
        }
        self.flow_ports.clone_from(flow_ports);
        self.usable.fill(0);
        self.numbers.clear();
        for number in 0..self.ports.count {
            if flow_ports.contains(self.ports.nth(number)) {
                self.usable[usize::from(number / 64)] |= 1 << (number % 64);
                self.numbers.push(number);
            }
        }
    }

    /// Ports towards the endpoint in use. O(1).
    pub(super) fn in_use(&self, endpoint: EndpointId) -> u32 {
        self.in_use.get(endpoint.index()).copied().unwrap_or(0)
    }

    /// A free port towards the endpoint that is `acceptable`: the first one from a random place on (RFC 6056 section
    /// 3.3.1). O(ports / 64), and `MAX_REFUSED` questions at most; O(1) if no port is free.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "offsets are below the number of ports"
    )]
    pub(super) fn find_free(
        &self,
        endpoint: EndpointId,
        random: u64,
        mut acceptable: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        if self.in_use(endpoint) >= self.usable() {
            return None;
        }
        let words = Self::words_per_endpoint(self.ports.count);
        let map = self.maps.get(endpoint.index() * words..)?.get(..words)?;
        // A usable port, so that none is chosen more often than others because it follows many that are not.
        let start = ((random >> 32) * u64::from(self.usable())) >> 32;
        let start = usize::from(*self.numbers.get(start as usize)?);
        let (start_word, before_start) = (start / 64, (1_u64 << (start % 64)) - 1);
        let mut refused = 0;
        // The first word is visited twice: first the bits behind the start, last those before it.
        for step in 0..=words {
            let at = (start_word + step) % words;
            let mut free = !map[at] & self.usable[at];
            if step == 0 {
                free &= !before_start;
            } else if step == words {
                free &= before_start;
            }
            while free != 0 {
                let offset = at * 64 + free.trailing_zeros() as usize;
                let port = self.ports.nth(offset as u16);
                if acceptable(port) {
                    return Some(port);
                }
                refused += 1;
                if refused == MAX_REFUSED {
                    return None;
                }
                free &= free - 1;
            }
        }
        None
    }

    /// Whether a port that [`find_free`](Self::find_free) found is still free.
    pub(super) fn is_free(&self, endpoint: EndpointId, port: u16) -> bool {
        let (word, bit) = self.place(endpoint, port);
        self.maps[word] & bit == 0
    }

    /// Marks a port as used that [`find_free`](Self::find_free) found or [`release`](Self::release) freed.
    pub(super) fn reserve(&mut self, endpoint: EndpointId, port: u16) {
        let (word, bit) = self.place(endpoint, port);
        debug_assert_eq!(self.maps[word] & bit, 0, "port {port} has one owner");
        self.maps[word] |= bit;
        self.in_use[endpoint.index()] += 1;
    }

    /// Frees a used port.
    pub(super) fn release(&mut self, endpoint: EndpointId, port: u16) {
        let (word, bit) = self.place(endpoint, port);
        debug_assert_ne!(self.maps[word] & bit, 0, "port {port} is in use");
        self.maps[word] &= !bit;
        self.in_use[endpoint.index()] -= 1;
    }

    /// Whether no port is in use.
    #[cfg(test)]
    pub(super) fn is_pristine(&self) -> bool {
        self.maps.iter().all(|&word| word == 0) && self.in_use.iter().all(|&count| count == 0)
    }

    fn place(&self, endpoint: EndpointId, port: u16) -> (usize, u64) {
        let offset = usize::from(self.ports.number(port));
        let word = endpoint.index() * Self::words_per_endpoint(self.ports.count) + offset / 64;
        (word, 1 << (offset % 64))
    }
}
