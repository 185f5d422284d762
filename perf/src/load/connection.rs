//! Requests over real TCP connections: connect, send a request, receive the response, and close.
//!
//! One thread serves its connections by epoll. Requests have due times as packets have; a request that finds no idle
//! connection waits for the next one, and keeps its due time.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, send, socket_with,
    sockopt,
};

use super::check::Checker;
use super::clock::{Clock, Monotonic};
use super::engine::socket::{raise_descriptor_limit, source};
use super::error::LoadError;
use super::interval::Window;
use super::pacing::Schedule;
use super::payload::filler;
use super::plan::{Close, Plan};
use super::probe::LIMIT;
use super::run::{Outcome, flows_of, nanos, share_of_count};
use crate::failure::Failure;

/// Events taken at once.
const EVENTS: usize = 256;
/// Connections that are opened at the same time before the start.
const OPENING: usize = 256;
/// The longest wait, so that a signal is noticed, in nanoseconds.
const LONGEST_WAIT: u64 = 20_000_000;

/// The connections of one thread.
#[derive(Debug)]
pub(super) struct Driver {
    plan: Plan,
    schedule: Schedule,
    checker: Checker,
    count: u64,
    epoll: OwnedFd,
    slots: Vec<Slot>,
    /// Slots that wait for a request, the one that has waited longest first.
    idle: VecDeque<u32>,
    /// Deadlines of the requests under way, in their order: (time, slot, number of the request).
    deadlines: VecDeque<(u64, u32, u64)>,
}

/// The place of a connection.
#[derive(Debug)]
struct Slot {
    socket: Option<OwnedFd>,
    phase: Phase,
    /// Number of this slot's socket, to ignore late events of an earlier one.
    generation: u32,
    /// Requests over this socket.
    requests: u32,
    /// The request, then its response.
    buffer: Box<[u8]>,
    /// Number of the request under way.
    request: u64,
    /// The stamp of the request was written.
    stamped: bool,
    intended: u64,
    sent: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    /// With a request to send behind it, or just to be open.
    Connecting {
        request: bool,
    },
    Sending {
        done: usize,
    },
    Receiving {
        done: usize,
    },
}

/// The cause of a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Connect,
    Reset,
    Timeout,
}

/// Opens the connections of all threads.
///
/// # Errors
///
/// The target does not accept connections, or descriptors are missing.
pub(super) fn open(plan: &Plan, run: u16, stop: &AtomicBool) -> Result<Vec<Driver>, Failure> {
    raise_descriptor_limit(plan.flows().into())?;
    reach(plan)?;
    (0..plan.threads)
        .map(|thread| {
            let mut driver = Driver::new(plan, run, thread)?;
            if plan.requests_per_connection().is_none() {
                driver.open_all(stop)?;
            }
            Ok(driver)
        })
        .collect()
}

/// One blocking connection, to distinguish an unreachable target from one that is overloaded later.
fn reach(plan: &Plan) -> Result<(), LoadError> {
    let target = plan.target;
    std::net::TcpStream::connect_timeout(&target, LIMIT)
        .map(drop)
        .map_err(|cause| LoadError::Connect { target, cause })
}

impl Driver {
    fn new(plan: &Plan, run: u16, thread: u32) -> Result<Self, Failure> {
        let flows = flows_of(plan, thread);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(Failure::system("create an epoll instance"))?;
        let part = f64::from(flows) / f64::from(plan.flows());
        let buffer = filler(plan.size()).into_boxed_slice();
        Ok(Self {
            schedule: Schedule::new(plan.rate.share(part), plan.warm_up + plan.duration),
            checker: Checker::new(run, thread, plan.threads, flows, nanos(plan.warm_up)),
            count: share_of_count(plan, thread),
            epoll,
            slots: (0..flows)
                .map(|_| Slot {
                    socket: None,
                    phase: Phase::Idle,
                    generation: 0,
                    requests: 0,
                    buffer: buffer.clone(),
                    request: 0,
                    stamped: false,
                    intended: 0,
                    sent: 0,
                })
                .collect(),
            idle: (0..flows).collect(),
            deadlines: VecDeque::new(),
            plan: plan.clone(),
        })
    }

    /// Opens every connection before the start.
    fn open_all(&mut self, stop: &AtomicBool) -> Result<(), Failure> {
        let start = Instant::now();
        let clock = Monotonic::from(start);
        let mut outcome = Outcome::new();
        let mut window = Window::unseen();
        let mut unopened: VecDeque<u32> = std::mem::take(&mut self.idle);
        let total = unopened.len();
        let limit = LIMIT + self.plan.timeout;
        let mut progress = Instant::now();
        while self.idle.len() < total && !stop.load(Ordering::Relaxed) {
            let opening = total - self.idle.len() - unopened.len();
            for _ in opening..OPENING {
                let Some(slot) = unopened.pop_front() else { break };
                if self.connect(slot, false).is_err() {
                    outcome.tally.errors.connect += 1;
                }
            }
            let before = self.idle.len();
            self.handle_events(LONGEST_WAIT, &clock, &mut outcome, &mut window);
            if self.idle.len() > before {
                progress = Instant::now();
            }
            if outcome.tally.errors.connect > 0 || progress.elapsed() > limit {
                return Err(LoadError::NotAccepted {
                    target: self.plan.target,
                    connections: total,
                    open: self.idle.len(),
                }
                .into());
            }
        }
        Ok(())
    }

    /// Sends requests when they are due until the end, or until `stop`.
    ///
    /// # Errors
    ///
    /// The kernel refuses to open sockets.
    pub(super) fn drive(
        &mut self,
        clock: &Monotonic,
        window: &mut Window,
        stop: &AtomicBool,
    ) -> Result<Outcome, Failure> {
        let mut outcome = Outcome::new();
        let end = nanos(self.plan.warm_up + self.plan.duration);
        let mut made = 0;
        let mut now = clock.now();
        while now < end && made < self.count && !stop.load(Ordering::Relaxed) {
            let due = self.schedule.due(now).min(self.count).saturating_sub(made);
            let mut started = 0;
            while started < due
                && let Some(slot) = self.idle.pop_front()
            {
                let intended = self.schedule.intended(made).unwrap_or(now);
                self.start(slot, made, intended, now, clock, &mut outcome, window);
                made += 1;
                started += 1;
            }
            let next = self.schedule.intended(made).filter(|_| !self.idle.is_empty());
            let wait = next
                .unwrap_or(u64::MAX)
                .min(end)
                .min(window.next())
                .saturating_sub(clock.now())
                .min(LONGEST_WAIT);
            let before_wait = clock.now();
            let handled = self.handle_events(wait, clock, &mut outcome, window);
            let after = clock.now();
            outcome.busy += before_wait.saturating_sub(now);
            if handled.events > 0 {
                outcome.busy += after.saturating_sub(handled.woken);
            }
            self.expire(after, &mut outcome);
            now = after;
            window.look(now, &outcome);
        }
        outcome.ended = now.min(end);
        outcome.due = self.schedule.due(outcome.ended).min(self.count);
        outcome.made = made;
        let deadline = now.saturating_add(nanos(self.plan.timeout));
        while now < deadline && self.under_way() && !stop.load(Ordering::Relaxed) {
            self.handle_events((deadline - now).min(LONGEST_WAIT), clock, &mut outcome, window);
            now = clock.now();
            self.expire(now, &mut outcome);
        }
        window.close(&outcome);
        Ok(outcome)
    }

    fn under_way(&self) -> bool {
        self.idle.len() < self.slots.len()
    }

    /// Begins a request over `slot`, on its open connection or on a new one.
    #[expect(
        clippy::too_many_arguments,
        reason = "one request with its times and its places to count"
    )]
    fn start(
        &mut self,
        slot: u32,
        request: u64,
        intended: u64,
        now: u64,
        clock: &Monotonic,
        outcome: &mut Outcome,
        window: &mut Window,
    ) {
        let stamp = self.checker.stamp(slot, intended, now);
        self.checker.sent(&stamp, self.plan.size(), &mut outcome.tally);
        let state = &mut self.slots[slot as usize];
        stamp.write(&mut state.buffer);
        (state.request, state.intended, state.sent, state.stamped) = (request, intended, now, true);
        let deadline = now.saturating_add(nanos(self.plan.timeout));
        self.deadlines.push_back((deadline, slot, request));
        if state.socket.is_some() {
            state.phase = Phase::Sending { done: 0 };
            self.advance(slot, clock, outcome, window);
        } else if self.connect(slot, true).is_err() {
            self.fail(slot, Fault::Connect, outcome);
        }
    }

    /// Opens the socket of `slot` and begins to connect it.
    fn connect(&mut self, slot: u32, request: bool) -> Result<(), Errno> {
        let target = self.plan.target;
        let family = if target.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let socket = socket_with(
            family,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        if self.plan.close == Close::Reset {
            sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        }
        if let Some(source) = source(&self.plan.sources, slot) {
            bind(&socket, &SocketAddr::new(source, 0))?;
        }
        match connect(&socket, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let state = &mut self.slots[slot as usize];
        state.generation = state.generation.wrapping_add(1);
        let data = u64::from(state.generation) << 32 | u64::from(slot);
        epoll::add(
            &self.epoll,
            &socket,
            epoll::EventData::new_u64(data),
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET,
        )?;
        state.socket = Some(socket);
        state.requests = 0;
        state.phase = Phase::Connecting { request };
        Ok(())
    }

    fn handle_events(
        &mut self,
        wait: u64,
        clock: &Monotonic,
        outcome: &mut Outcome,
        window: &mut Window,
    ) -> Handled {
        let mut events = [MaybeUninit::uninit(); EVENTS];
        let limit = Timespec::try_from(Duration::from_nanos(wait)).unwrap_or_default();
        // A signal ends the wait early, without an event.
        let found = epoll::wait(&self.epoll, &mut events[..], Some(&limit));
        let events = found.map_or(&[][..], |(events, _)| events);
        let woken = clock.now();
        for event in events {
            let data = event.data.u64();
            #[expect(
                clippy::cast_possible_truncation,
                reason = "two halves, put together in `connect`"
            )]
            let (slot, generation) = (data as u32, (data >> 32) as u32);
            if self.slots[slot as usize].generation == generation {
                self.advance(slot, clock, outcome, window);
            }
        }
        Handled {
            events: events.len(),
            woken,
        }
    }

    /// Advances `slot` until the kernel would block.
    fn advance(&mut self, slot: u32, clock: &Monotonic, outcome: &mut Outcome, window: &mut Window) {
        let state = &mut self.slots[slot as usize];
        let Some(socket) = &state.socket else { return };
        loop {
            match state.phase {
                Phase::Idle => {
                    // No response is expected: the other side closes the connection, or violates the protocol.
                    match recv(socket, &mut [0_u8; 1][..], RecvFlags::DONTWAIT) {
                        Err(Errno::AGAIN | Errno::INTR) => {}
                        _ => state.socket = None,
                    }
                    return;
                }
                Phase::Connecting { request } => match connected(socket) {
                    Ok(true) => {
                        let counts = clock.now() >= nanos(self.plan.warm_up);
                        outcome.tally.connected += u64::from(counts);
                        if request {
                            state.phase = Phase::Sending { done: 0 };
                        } else {
                            state.phase = Phase::Idle;
                            self.idle.push_back(slot);
                            return;
                        }
                    }
                    Ok(false) => return,
                    Err(_) => return self.fail(slot, Fault::Connect, outcome),
                },
                Phase::Sending { done } => {
                    match send(
                        socket,
                        &state.buffer[done..],
                        SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
                    ) {
                        Ok(len) if done + len == state.buffer.len() => {
                            state.phase = Phase::Receiving { done: 0 };
                        }
                        Ok(len) => state.phase = Phase::Sending { done: done + len },
                        Err(Errno::AGAIN) => return,
                        Err(Errno::INTR) => {}
                        Err(_) => return self.fail(slot, Fault::Reset, outcome),
                    }
                }
                Phase::Receiving { done } => {
                    match recv(socket, &mut state.buffer[done..], RecvFlags::DONTWAIT) {
                        Ok((0, _)) => return self.fail(slot, Fault::Reset, outcome),
                        Ok((len, _)) if done + len == state.buffer.len() => {
                            return self.complete(slot, clock.now(), outcome, window);
                        }
                        Ok((len, _)) => state.phase = Phase::Receiving { done: done + len },
                        Err(Errno::AGAIN) => return,
                        Err(Errno::INTR) => {}
                        Err(_) => return self.fail(slot, Fault::Reset, outcome),
                    }
                }
            }
        }
    }

    /// The response to `slot`'s request has arrived.
    fn complete(&mut self, slot: u32, now: u64, outcome: &mut Outcome, window: &mut Window) {
        let state = &mut self.slots[slot as usize];
        if let Some(stamp) = self
            .checker
            .received(slot, &state.buffer, self.plan.size(), &mut outcome.tally)
        {
            outcome.latency.record(stamp.intended, stamp.sent, now);
            window.record(stamp.intended, now);
        }
        state.phase = Phase::Idle;
        state.stamped = false;
        state.requests += 1;
        let most = self.plan.requests_per_connection();
        if most.is_some_and(|most| state.requests >= most) {
            state.socket = None;
        }
        self.idle.push_back(slot);
    }

    fn fail(&mut self, slot: u32, fault: Fault, outcome: &mut Outcome) {
        let state = &mut self.slots[slot as usize];
        let counts = !state.stamped || state.intended >= nanos(self.plan.warm_up);
        if counts {
            let errors = &mut outcome.tally.errors;
            match fault {
                Fault::Connect => errors.connect += 1,
                Fault::Reset => errors.reset += 1,
                Fault::Timeout => errors.timeout += 1,
            }
        }
        state.socket = None;
        state.phase = Phase::Idle;
        state.stamped = false;
        self.idle.push_back(slot);
    }

    /// Fails the requests whose deadline has passed.
    fn expire(&mut self, now: u64, outcome: &mut Outcome) {
        while let Some(&(deadline, slot, request)) = self.deadlines.front()
            && deadline <= now
        {
            self.deadlines.pop_front();
            let state = &self.slots[slot as usize];
            if state.stamped && state.request == request {
                self.fail(slot, Fault::Timeout, outcome);
            }
        }
    }
}

struct Handled {
    events: usize,
    /// When the wait was over.
    woken: u64,
}

/// Whether the connection is established; `false` while it is under way.
fn connected(socket: &OwnedFd) -> Result<bool, Errno> {
    sockopt::socket_error(socket)??;
    match rustix::net::getpeername(socket) {
        Ok(_) => Ok(true),
        Err(Errno::NOTCONN) => Ok(false),
        Err(error) => Err(error),
    }
}
