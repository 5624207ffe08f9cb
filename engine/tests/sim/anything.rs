//! An application that answers in every way, peers that ask it for all of them, and what each of them should get.
//! Must not know: which thread does what, the engine's inside.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use bjoern_engine::http1::ResponseHead;
use bjoern_engine::io::Millis;
use bjoern_engine::{App, AppCall, Body, Outcome, Reply, ReplySlot, Request, Server};

use super::{Act, Shared, SimNet, SimSocket, World, yield_now};

/// Bytes of the blocks a request may ask for: within a copy, and beyond.
const BLOCKS: [usize; 4] = [1, 100, 5_000, 20_000];

/// No head is shorter.
const HEAD_BYTES: usize = 60;

/// How the application answers; each request names one.
const WAYS: [&str; 9] = ["whole", "list", "stream", "length", "lazy", "write", "fail", "break", "short"];

/// The ways after which the connection ends, whatever the peer wants.
const LAST: [&str; 3] = ["fail", "break", "short"];

type Replied = Reply<SimSocket, Vec<u8>>;

/// How long the application takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// No time.
    Quick,
    /// A few looks of the watch, now and then, which it plays itself; so things may be held.
    Looks,
    /// It sleeps now and then, while other threads do something else, and one of them is the watch.
    Sleeps,
}

/// How long it sleeps: less than between two acts of a peer, as long as a request takes to come, past a deadline.
const SLEEPS: [Millis; 4] = [1, 50, 3_000, 80_000];

pub struct Anything {
    world: Shared,
    pub server: OnceLock<Weak<Server<SimNet, Anything>>>,
    pace: Pace,
    /// Streams begun and not ended.
    pub streams: AtomicI64,
    pub calls: AtomicU64,
    /// How often the watch has given up.
    pub given_up: AtomicU64,
    /// Starts one more thread of the server, where that can be done.
    pub spawn: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// `/wire/number/way/blocks/len`
fn part(request: &Request<'_>, index: usize) -> String {
    let path = String::from_utf8(request.path().to_vec()).unwrap();
    path.split('/').nth(index + 1).unwrap().to_owned()
}

fn head(id: &str, length: Option<usize>) -> ResponseHead {
    let mut head = ResponseHead::default();
    head.begin(b"200 OK").unwrap();
    head.field(b"Id", id.as_bytes()).unwrap();
    if let Some(length) = length {
        head.field(b"Content-Length", length.to_string().as_bytes()).unwrap();
    }
    head
}

impl Anything {
    pub fn new(world: Shared, pace: Pace) -> Anything {
        Anything {
            world,
            server: OnceLock::new(),
            pace,
            streams: AtomicI64::new(0),
            calls: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            spawn: OnceLock::new(),
        }
    }

    /// Application code runs from here to [`Anything::leave`].
    fn enter(&self) {
        let threads = &mut self.world.lock().threads;
        threads.inside += 1;
        let (inside, permits) = (threads.inside, threads.permits);
        assert!(inside <= permits || permits == 0, "{inside} threads run application code, of {permits} that may");
    }

    fn leave(&self) {
        self.world.lock().threads.inside -= 1;
    }

    /// What a stream does between two blocks. Whether it makes another.
    fn pass_boundary(&self, reply: &mut Replied) -> bool {
        self.leave();
        let goes_on = reply.pass_boundary();
        self.enter();
        goes_on
    }

    /// The application takes its time, now and then; whether long enough for everything held to be sent.
    fn work(&self, wire: usize, reply: Replied) -> (Replied, bool) {
        let slot = Arc::new(ReplySlot::default());
        slot.lend(reply, AppCall::Next);
        let all_sent = match self.pace {
            Pace::Quick => true,
            Pace::Looks => {
                let looks = if self.world.lock().random(4) == 0 { self.world.lock().random(4) } else { 0 };
                for _ in 0..looks {
                    self.server.get().unwrap().upgrade().unwrap().tick();
                }
                looks >= 2
            }
            Pace::Sleeps => {
                let before = self.world.lock().looks;
                self.take_a_moment(wire);
                // The first of them may have begun before, and the last is not over.
                self.world.lock().looks - before > 3
            }
        };
        (slot.take_back().unwrap(), all_sent)
    }

    fn give(&self, wire: usize, bytes: usize) {
        self.world.lock().wires[wire].given += bytes;
    }

    fn take_a_moment(&self, wire: usize) {
        let mut world = self.world.lock();
        match world.random(10) {
            0 | 1 => {
                let length = SLEEPS[world.random(SLEEPS.len())];
                let until = world.now + length;
                drop(world);
                self.world.sleep(wire, until, |_| false);
            }
            2 => {
                let yields = world.random(30);
                drop(world);
                (0..yields).for_each(|_| yield_now());
            }
            _ => {}
        }
    }
}

impl App<SimSocket> for Anything {
    type Block = Vec<u8>;
    type PerThread = ();

    fn per_thread(&self, thread: Option<usize>) {
        self.world.lock().threads.at_work += usize::from(thread.is_some());
    }

    fn add_thread(&self) -> bool {
        self.spawn.get().inspect(|spawn| spawn()).is_some()
    }

    fn left(&self) {
        self.world.lock().threads.at_work -= 1;
    }

    fn gives_up(&self, _signal: Option<u8>) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }

    fn call(&self, (): &mut (), request: &Request<'_>, reply: Replied) -> (Replied, Outcome) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.enter();
        let (reply, outcome) = self.answer(request, reply);
        self.leave();
        (reply, outcome)
    }

    fn blocking<T: Send>(&self, wait: impl FnOnce() -> T + Send) -> T {
        self.world.lock().threads.idle += 1;
        let value = wait();
        self.world.lock().threads.idle -= 1;
        value
    }
}

impl Anything {
    fn answer(&self, request: &Request<'_>, reply: Replied) -> (Replied, Outcome) {
        let wire = part(request, 0).parse().unwrap();
        let (mut reply, _) = self.work(wire, reply);
        if let Body::Memory(body) = request.body {
            assert!(body.iter().all(|byte| *byte == b'b'), "a body is what was sent as one");
        }
        let id = part(request, 1);
        let way = part(request, 2);
        let count: usize = part(request, 3).parse().unwrap();
        let block = vec![b'x'; part(request, 4).parse().unwrap()];
        let total = count * block.len();
        match way.as_str() {
            "fail" => return (reply, Outcome::Failed),
            "whole" => {
                reply.start(&head(&id, None), Some(total as u64));
                let body = block.repeat(count);
                reply.block(&body, || body.clone());
                self.give(wire, HEAD_BYTES + total);
                return (reply, Outcome::Done);
            }
            "list" => {
                reply.start(&head(&id, None), None);
                (0..count).for_each(|_| reply.block(&block, || block.clone()));
                self.give(wire, HEAD_BYTES + total);
                return (reply, Outcome::Done);
            }
            "write" => {
                reply.start(&head(&id, None), None);
                for _ in 0..count {
                    reply.block(&block, || block.clone());
                    loop {
                        match reply.hand_over() {
                            Ok(true) => break,
                            Ok(false) => {}
                            Err(_) => return (reply, Outcome::Failed),
                        }
                    }
                }
                self.give(wire, HEAD_BYTES + total);
                return (reply, Outcome::Done);
            }
            "short" => reply.start(&head(&id, Some(total + 1)), None),
            "length" => reply.start(&head(&id, Some(total)), None),
            "lazy" => {} // the head comes with the first block
            _ => reply.start(&head(&id, None), None),
        }
        self.streams.fetch_add(1, Ordering::Relaxed);
        self.give(wire, if way == "lazy" { 0 } else { HEAD_BYTES });
        let (reply, outcome) = self.stream(wire, &way, &block, count, reply);
        if self.pace == Pace::Sleeps && outcome == Outcome::Failed {
            self.take_a_moment(wire);
        }
        self.streams.fetch_sub(1, Ordering::Relaxed);
        (reply, outcome)
    }

    fn stream(&self, wire: usize, way: &str, block: &[u8], count: usize, reply: Replied) -> (Replied, Outcome) {
        let mut reply = reply;
        for number in 0..=count {
            let before = self.world.lock().wires[wire].sent;
            let all_sent;
            (reply, all_sent) = self.work(wire, reply);
            // All that was given has gone, or the peer has no room for it; where the watch has had its looks.
            let holds = number > 0 && all_sent && self.pace != Pace::Quick && !reply.is_broken();
            let (blocked, sent, given) = {
                let seen = &self.world.lock().wires[wire];
                (seen.blocked, seen.sent, seen.given)
            };
            assert!(
                !holds || blocked || sent >= given,
                "wire {wire} waits for what was held: {sent} of {given}, from {before}, block {number} of {way}"
            );
            if way == "lazy" && !reply.is_started() {
                reply.start(&head("lazy", None), None);
                self.give(wire, HEAD_BYTES);
            }
            if number == count {
                break;
            }
            reply.block(block, || block.to_vec());
            self.give(wire, block.len());
            if !self.pass_boundary(&mut reply) {
                return (reply, Outcome::Failed);
            }
        }
        (reply, if way == "break" { Outcome::Failed } else { Outcome::Done })
    }
}

/// What a peer will have asked for.
#[derive(Clone)]
pub struct Asked {
    ways: Vec<(&'static str, usize)>,
    /// It says all it has to say in time, and takes all it is sent.
    behaves: bool,
    /// The server has had to end early, or may have had too much to do.
    pub may_be_cut: bool,
}

pub fn script(world: &mut World, wire: usize) -> (usize, Vec<Act>, Asked) {
    let window = [10, 1_000, 100_000][world.random(3)];
    let behaves = world.random(3) > 0;
    let mut acts = vec![Act::Sleep(world.random(50) as u64), Act::Connect];
    if behaves {
        acts.push(Act::TakeAll);
    }
    let mut wire_bytes = Vec::new();
    let mut ways = Vec::new();
    for number in 0..world.random(6) {
        let way = WAYS[world.random(WAYS.len())];
        let (count, len) = (world.random(5), BLOCKS[world.random(BLOCKS.len())]);
        let line = format!("/{wire}/{number}/{way}/{count}/{len} HTTP/1.1\r\nHost: h\r\n");
        let body = vec![b'b'; [0, 10, 3_000][world.random(3)]];
        let request = match world.random(3) {
            0 => format!("GET {line}\r\n").into_bytes(),
            1 => [format!("POST {line}Content-Length: {}\r\n\r\n", body.len()).into_bytes(), body].concat(),
            _ if body.is_empty() => format!("POST {line}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n").into_bytes(),
            _ => {
                let head = format!("POST {line}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len());
                [head.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat()
            }
        };
        wire_bytes.extend(request);
        ways.push((way, count * len));
        if LAST.contains(&way) {
            break;
        }
    }
    // The bytes arrive in pieces that know nothing of requests, with pauses short and long.
    let end = if behaves { wire_bytes.len() } else { world.random(wire_bytes.len() + 1) };
    let mut rest = &wire_bytes[..end];
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at((1 + world.random(4_000)).min(rest.len()));
        acts.push(Act::Send(piece.to_vec()));
        rest = behind;
        match world.random(10) {
            0..=4 => acts.push(Act::Sleep(world.random(100) as u64)),
            5 if !behaves => acts.push(Act::Sleep(world.random(100_000) as u64)),
            6 | 7 if !behaves => acts.push(Act::Take(world.random(5_000))),
            _ => {}
        }
    }
    match world.random(4) {
        0 => acts.push(Act::Finish),
        1 if !behaves => acts.push(Act::Reset),
        2 if !behaves => acts.push(Act::TakeAll),
        _ => {}
    }
    (window, acts, Asked { ways, behaves, may_be_cut: false })
}

/// Reads one answer; the rest, its `Id`, the length of its body, whether it is whole, and whether it is the last.
struct Answer<'a> {
    rest: &'a [u8],
    status: u16,
    len: usize,
    whole: bool,
}

fn read_answer(taken: &[u8]) -> Option<Answer<'_>> {
    let end = taken.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&taken[..end]).unwrap();
    let status = head[9..12].parse().unwrap();
    let mut rest = &taken[end + 4..];
    if status == 100 {
        return read_answer(rest);
    }
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
    if let Some(length) = field("Content-Length: ") {
        let length: usize = length.parse().unwrap();
        let len = length.min(rest.len());
        let body = &rest[..len];
        match status {
            200 => assert!(body.iter().all(|byte| *byte == b'x')),
            _ => assert!(format!("{}\n", &head[9..head.find('\r').unwrap()]).as_bytes().starts_with(body), "{head}"),
        }
        return Some(Answer { rest: &rest[len..], status, len, whole: len == length });
    }
    assert_eq!(field("Transfer-Encoding: "), Some("chunked"), "{head}");
    let mut len = 0;
    loop {
        let partial = Answer { rest: &[], status, len, whole: false };
        let Some(line_end) = rest.windows(2).position(|two| two == b"\r\n") else { return Some(partial) };
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line_end]).unwrap(), 16).unwrap();
        let Some(data) = rest.get(line_end + 2..line_end + 2 + size + 2) else { return Some(partial) };
        assert!(data.ends_with(b"\r\n"));
        assert!(data[..size].iter().all(|byte| *byte == b'x'));
        len += size;
        rest = &rest[line_end + 2 + size + 2..];
        if size == 0 {
            return Some(Answer { rest, status, len, whole: true });
        }
    }
}

/// Answers come in the order of the requests, each whole but for the last of a connection that ended early.
pub fn check(taken: &[u8], asked: &Asked) {
    let mut rest = taken;
    let mut answered = 0;
    let behaves = asked.behaves && !asked.may_be_cut;
    for (way, total) in &asked.ways {
        let Some(answer) = read_answer(rest) else { break };
        rest = answer.rest;
        // Too late, or, where there is a limit to what may wait for a thread, too much.
        if answer.status == 408 || (answer.status == 503 && asked.may_be_cut) {
            break;
        }
        answered += 1;
        assert_eq!(answer.status, if *way == "fail" { 500 } else { 200 }, "{way}");
        if *way == "fail" {
            assert!(answer.whole || !behaves);
        } else if answer.whole {
            assert_eq!(answer.len, *total, "{way}");
            assert!(*way != "short" && *way != "break");
        } else {
            assert!(*way == "short" || *way == "break" || !behaves, "{way} is whole");
            break;
        }
    }
    if behaves {
        let seen = String::from_utf8_lossy(&taken[..taken.len().min(300)]);
        assert_eq!(answered, asked.ways.len(), "a peer that behaves gets every answer: {:?}, not {seen:?}", asked.ways);
        assert!(rest.is_empty(), "and nothing else: {:?}", String::from_utf8_lossy(&rest[..rest.len().min(200)]));
    }
}
