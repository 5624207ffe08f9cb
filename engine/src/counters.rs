//! What happened so far and what goes on, in numbers: a row of 64-bit words, which may lie in memory that processes share.
//! Added to without locks, read at any time, by anybody. Must not know: who reads, how the memory came to be shared.
//! Invariant: counts only grow; gauges begin at zero; a row fills cache lines of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::http1::Reject;
use crate::io::Millis;

macro_rules! cells {
    ($($(#[$meaning:meta])* $name:ident = $label:literal;)*) => {
        /// A number of a server.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Cell { $($(#[$meaning])* $name,)* }

        const LABELS: &[&str] = &[$($label),*];
    };
}

cells! {
    /// Connections accepted.
    Connections = "connections";
    /// Connections open now.
    Open = "open";
    /// Requests given to the application.
    Requests = "requests";
    /// Answers 500: the application failed before anything was sent.
    Failed = "failed";
    /// Responses cut short: the application failed, or gave less than it announced, after something was sent.
    Cut = "cut";
    /// Failures to accept: the process or the system ran out of something.
    AcceptErrors = "accept_errors";
    /// Calls of the application that took longer than `timeout`.
    TimedOut = "timed_out";
    /// Requests that were whole and waited for a thread when their client went away.
    Gone = "gone";
    /// Streams cut because more than `max_parked` waited for their clients, and this one had waited longest.
    ParkedCut = "parked_cut";
    /// Responses cut because their clients took fewer than `min_send_rate` bytes a second.
    SendTooSlow = "send_too_slow";
    /// Idle connections closed because others came and `max_connections` were open.
    GaveWay = "gave_way";
    /// Lines of the access log that could not be written.
    LogLost = "log_lost";
}

/// The cells of the table above, and behind them one for each [`Reject`].
const COUNTED: usize = LABELS.len() + Reject::ALL.len();

macro_rules! gauges {
    ($($(#[$meaning:meta])* $name:ident = $label:literal;)*) => {
        /// What only a shared row tells.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Gauge { $($(#[$meaning])* $name,)* }

        const GAUGE_LABELS: &[&str] = &[$($label),*];
    };
}

gauges! {
    /// It accepts connections: 1, else 0.
    Alive = "alive";
    /// Threads in the application now.
    Busy = "busy";
    /// Requests that are whole and wait for a thread now, as far as the server knows of them.
    Queued = "queued";
    /// Threads that wait for the client of a stream now.
    Parked = "parked";
    /// Since when no thread has led, in milliseconds of the system's monotonic clock; 0 where one does.
    OutSince = "out_since";
    /// Bytes handed to the system for peers.
    BytesSent = "bytes_sent";
    /// Bytes received from peers.
    BytesReceived = "bytes_received";
    /// The time of all calls that have ended, in microseconds: the sum behind the histogram.
    CallMicros = "call_us";
}

/// Bounds of the histogram: below 64 us, below 128 us, … below 67 s, and the rest.
const LATENCIES: usize = 22;

/// A call of so many microseconds is not in the first place of the histogram any more, as a power of two.
const FIRST_BOUND_BITS: u32 = 6;

const USED: usize = COUNTED + GAUGE_LABELS.len() + LATENCIES;

/// Words of a row: whole cache lines, so that processes do not wait for each other's.
pub const ROW_CELLS: usize = USED.next_multiple_of(8);

/// The numbers of one server process.
pub type Row = [AtomicU64; ROW_CELLS];

/// The open connections of another may be so many fewer, and a sixteenth, before one leaves accepting to it.
const SLACK: u64 = 1;

/// Who has been out for so long is not expected to accept: its threads are in the application.
const ABSENCE: Millis = 20;

#[derive(Debug)]
enum Place {
    Own(Box<Row>),
    Shared(&'static Row),
}

/// The numbers of servers that count together.
#[derive(Debug)]
pub struct Counters {
    place: Place,
    /// Those of all processes, this one's among them; none where it is alone.
    rows: &'static [Row],
    number: usize,
    /// Loops that are led, and, shifted by [`LED_BITS`], since when none has been: what `out_since` is made of.
    led: AtomicU64,
}

const LED_BITS: u32 = 16;
const LED_MASK: u64 = (1 << LED_BITS) - 1;

impl Counters {
    /// Over row `number` of a board; nothing where there is none. Its gauges are set to zero: who had it before may have been
    /// killed. Counts go on from what is there.
    pub fn on_board(rows: &'static [Row], number: usize) -> Option<Counters> {
        let row = rows.get(number)?;
        let counters = Counters { place: Place::Shared(row), rows, number, led: AtomicU64::new(0) };
        counters.at(Cell::Open as usize).store(0, Ordering::Relaxed);
        for gauge in [Gauge::Alive, Gauge::Busy, Gauge::Queued, Gauge::Parked, Gauge::OutSince] {
            counters.gauge(gauge).store(0, Ordering::Relaxed);
        }
        Some(counters)
    }

    /// What each word of a row is.
    pub fn names() -> Vec<String> {
        let rejects = Reject::ALL.iter().map(|reject| reject.label());
        let named = LABELS.iter().copied().chain(rejects).chain(GAUGE_LABELS.iter().copied());
        named.map(str::to_owned).chain((0..LATENCIES).map(|place| format!("latency_{place}"))).collect()
    }

    /// Whether others read along, so that what only they need is worth its price.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.place, Place::Shared(_))
    }

    fn row(&self) -> &Row {
        match &self.place {
            Place::Own(row) => row,
            Place::Shared(row) => row,
        }
    }

    fn at(&self, index: usize) -> &AtomicU64 {
        &self.row()[index]
    }

    fn gauge(&self, gauge: Gauge) -> &AtomicU64 {
        self.at(COUNTED + gauge as usize)
    }

    /// One more; how many there were before.
    pub(crate) fn count(&self, cell: Cell) -> u64 {
        self.add(cell, 1)
    }

    /// So many more; how many there were before.
    pub(crate) fn add(&self, cell: Cell, more: u64) -> u64 {
        self.at(cell as usize).fetch_add(more, Ordering::Relaxed)
    }

    /// So many fewer are open.
    pub(crate) fn closed(&self, connections: usize) {
        self.at(Cell::Open as usize).fetch_sub(connections as u64, Ordering::Relaxed);
    }

    pub(crate) fn reject(&self, reject: Reject) {
        self.at(LABELS.len() + reject as usize).fetch_add(1, Ordering::Relaxed);
    }

    /// The number in a cell.
    pub fn get(&self, cell: Cell) -> u64 {
        self.at(cell as usize).load(Ordering::Relaxed)
    }

    /// Every count by its name; refusals by [`Reject::label`].
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let labels = LABELS.iter().copied().chain(Reject::ALL.iter().map(|reject| reject.label()));
        labels.zip(self.row()).map(|(label, cell)| (label, cell.load(Ordering::Relaxed)))
    }

    // --- what only others read ---

    /// A thread goes to the application.
    pub(crate) fn begin_call(&self) {
        self.gauge(Gauge::Busy).fetch_add(1, Ordering::Relaxed);
    }

    /// It is back.
    pub(crate) fn end_call(&self) {
        self.gauge(Gauge::Busy).fetch_sub(1, Ordering::Relaxed);
    }

    /// A thread begins, or ends, to wait for the client of its stream.
    pub(crate) fn park(&self, begins: bool) {
        let parked = self.gauge(Gauge::Parked);
        let _ = if begins { parked.fetch_add(1, Ordering::Relaxed) } else { parked.fetch_sub(1, Ordering::Relaxed) };
    }

    /// The application has given a block of a stream: where no thread leads, it is not since before that.
    pub(crate) fn progress(&self, now: Millis) {
        let renew = |led: u64| (led & LED_MASK == 0).then_some(now << LED_BITS);
        if self.led.fetch_update(Ordering::SeqCst, Ordering::SeqCst, renew).is_ok() {
            self.publish_out_since();
        }
    }

    /// A request has been answered, or given up; it took so long.
    pub(crate) fn took(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.gauge(Gauge::CallMicros).fetch_add(micros, Ordering::Relaxed);
        self.at(COUNTED + GAUGE_LABELS.len() + latency_place(micros)).fetch_add(1, Ordering::Relaxed);
    }

    /// One more request waits for a thread, or one fewer.
    pub(crate) fn queue(&self, comes: bool) {
        let queued = self.gauge(Gauge::Queued);
        if comes {
            queued.fetch_add(1, Ordering::Relaxed)
        } else {
            queued.fetch_sub(1, Ordering::Relaxed)
        };
    }

    /// So many bytes came and went.
    pub(crate) fn traffic(&self, received: u64, sent: u64) {
        self.gauge(Gauge::BytesReceived).fetch_add(received, Ordering::Relaxed);
        self.gauge(Gauge::BytesSent).fetch_add(sent, Ordering::Relaxed);
    }

    /// Whether it accepts connections. `SeqCst`: of two who stop at once, one at least sees the other.
    pub(crate) fn is_alive(&self, alive: bool) {
        self.gauge(Gauge::Alive).store(alive.into(), Ordering::SeqCst);
    }

    /// A loop is led from now on, or not any more. Who calls has the lead: before it lets go of it, or once it has taken it.
    pub(crate) fn lead(&self, leads: bool, now: Millis) {
        let change = |led: u64| {
            let loops = led & LED_MASK;
            Some(match (leads, loops) {
                (true, _) => loops + 1,
                (false, 0 | 1) => now << LED_BITS,
                (false, _) => loops - 1,
            })
        };
        let _ = self.led.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change);
        self.publish_out_since();
    }

    fn publish_out_since(&self) {
        // Where several loops change hands at once, the last to look tells what holds.
        let mut led = self.led.load(Ordering::SeqCst);
        loop {
            let since = if led & LED_MASK == 0 { led >> LED_BITS } else { 0 };
            self.gauge(Gauge::OutSince).store(since, Ordering::SeqCst);
            match self.led.load(Ordering::SeqCst) {
                same if same == led => return,
                other => led = other,
            }
        }
    }

    // --- the others ---

    fn others(&self) -> impl Iterator<Item = &'static Row> {
        let number = self.number;
        self.rows
            .iter()
            .enumerate()
            .filter(move |(other, row)| *other != number && is(row, Gauge::Alive) != 0)
            .map(|(_, row)| row)
    }

    /// Whether another process accepts from the same queue.
    pub(crate) fn has_company(&self) -> bool {
        self.others().next().is_some()
    }

    /// Whether another who could accept has clearly fewer open connections.
    pub(crate) fn has_more_than_its_share(&self, now: Millis) -> bool {
        let open = self.get(Cell::Open);
        let can_accept = |row: &&Row| {
            let out_since = is(row, Gauge::OutSince);
            out_since == 0 || now.saturating_sub(out_since) < ABSENCE
        };
        let least = self.others().filter(can_accept).map(|row| row[Cell::Open as usize].load(Ordering::Relaxed)).min();
        least.is_some_and(|least| open > least + SLACK + least / 16)
    }
}

fn is(row: &Row, gauge: Gauge) -> u64 {
    row[COUNTED + gauge as usize].load(Ordering::SeqCst)
}

/// The place of a call's time in the histogram.
fn latency_place(micros: u64) -> usize {
    let bits = u64::BITS - (micros >> FIRST_BOUND_BITS).leading_zeros();
    (bits as usize).min(LATENCIES - 1)
}

impl Default for Counters {
    fn default() -> Counters {
        let row = Box::new(std::array::from_fn(|_| AtomicU64::new(0)));
        Counters { place: Place::Own(row), rows: &[], number: 0, led: AtomicU64::new(0) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn board(rows: usize) -> &'static [Row] {
        Vec::leak((0..rows).map(|_| std::array::from_fn(|_| AtomicU64::new(0))).collect())
    }

    fn named(row: &Row, name: &str) -> u64 {
        row[Counters::names().iter().position(|other| other == name).unwrap()].load(Ordering::Relaxed)
    }

    #[test]
    fn every_word_has_a_name_of_its_own() {
        let mut names = Counters::names();
        assert_eq!(names.len(), USED);
        assert!(USED <= ROW_CELLS && ROW_CELLS.is_multiple_of(8));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), USED);
    }

    #[test]
    fn what_is_counted_lies_where_its_name_says() {
        let rows = board(2);
        let counters = Counters::on_board(rows, 1).unwrap();
        counters.count(Cell::Requests);
        counters.reject(Reject::BadHost);
        counters.begin_call();
        counters.traffic(3, 4);
        counters.took(Duration::from_micros(70));
        let told =
            ["requests", "bad_host", "busy", "bytes_received", "bytes_sent", "call_us", "latency_0", "latency_1"];
        assert_eq!(told.map(|name| named(&rows[1], name)), [1, 1, 1, 3, 4, 70, 0, 1]);
        assert!(rows[0].iter().all(|cell| cell.load(Ordering::Relaxed) == 0));
        assert!(Counters::on_board(rows, 2).is_none());
    }

    #[test]
    fn counts_outlive_a_process_and_gauges_do_not() {
        let rows = board(1);
        let killed = Counters::on_board(rows, 0).unwrap();
        killed.count(Cell::Connections);
        killed.count(Cell::Open);
        killed.begin_call();
        killed.is_alive(true);
        drop(killed);
        Counters::on_board(rows, 0).unwrap();
        assert_eq!(["connections", "open", "busy", "alive"].map(|name| named(&rows[0], name)), [1, 0, 0, 0]);
    }

    #[test]
    fn latencies_are_powers_of_two() {
        let places = [(0, 0), (63, 0), (64, 1), (127, 1), (128, 2), (67_108_863, 20), (67_108_864, 21), (u64::MAX, 21)];
        for (micros, place) in places {
            assert_eq!(latency_place(micros), place, "{micros} us");
        }
    }

    #[test]
    fn out_since_tells_when_the_last_loop_was_left() {
        let rows = board(1);
        let counters = Counters::on_board(rows, 0).unwrap();
        // Whether a loop is led from then on, when, and what the board says.
        let rows_of = [(true, 5, 0), (true, 6, 0), (false, 7, 0), (false, 8, 8), (true, 9, 0), (false, 10, 10)];
        for (leads, now, out_since) in rows_of {
            counters.lead(leads, now);
            assert_eq!(named(&rows[0], "out_since"), out_since, "at {now}");
        }
    }

    #[test]
    fn a_share_is_held_against_those_who_could_accept() {
        // Own open connections; of each other: alive, out since, open. The time is 100.
        type Other = (bool, Millis, u64);
        let table: &[(u64, &[Other], bool)] = &[
            (50, &[], false),
            (1, &[(true, 0, 0)], false),
            (2, &[(true, 0, 0)], true),
            (2, &[(false, 0, 0)], false),
            (2, &[(true, 80, 0)], false),
            (2, &[(true, 90, 0)], true),
            (86, &[(true, 0, 80)], false),
            (87, &[(true, 0, 80)], true),
            (87, &[(true, 0, 80), (true, 0, 100)], true),
            (87, &[(true, 0, 81), (false, 0, 0)], false),
        ];
        for (open, others, more) in table {
            let rows = board(others.len() + 1);
            let counters = Counters::on_board(rows, 0).unwrap();
            counters.add(Cell::Open, *open);
            for (row, (alive, out_since, open)) in rows[1..].iter().zip(*others) {
                row[COUNTED + Gauge::Alive as usize].store((*alive).into(), Ordering::Relaxed);
                row[COUNTED + Gauge::OutSince as usize].store(*out_since, Ordering::Relaxed);
                row[Cell::Open as usize].store(*open, Ordering::Relaxed);
            }
            assert_eq!(counters.has_more_than_its_share(100), *more, "{open} beside {others:?}");
        }
        assert!(!Counters::default().has_more_than_its_share(100));
    }
}
