//! What is held is not kept waiting: an answer or a block waits for those that follow at once, and the watch sends it where
//! the application takes its time. Here is how it works: 1. an application ticks, as the watch would, while it "works";
//! 2. before and after each tick it notes how much each peer has been sent; 3. the book tells who had to wait for what.
#![allow(clippy::unwrap_used)]

mod sim;

use std::sync::{Arc, Mutex, OnceLock, Weak};

use bjoern_engine::http1::ResponseHead;
use bjoern_engine::{App, AppCall, Config, Outcome, Reply, ReplySlot, Request, Server};
use sim::{Act, Shared, SimNet, SimSocket};

type Simulated = Server<SimNet, Slow>;
type Replied = Reply<SimSocket, Vec<u8>>;

/// `/n` works for n ticks before it answers; `/stream/n` gives three blocks, and works for n ticks before the third;
/// those of `/large/n` are 5,000 bytes each.
struct Slow {
    world: Shared,
    server: OnceLock<Weak<Simulated>>,
    /// For each tick: bytes that each peer had been sent after it. The first line of a piece of work is before it.
    book: Mutex<Vec<Vec<usize>>>,
    calls: Mutex<Vec<String>>,
}

impl Slow {
    fn sent(&self) -> Vec<usize> {
        self.world.lock().wires.iter().map(|wire| wire.sent).collect()
    }

    fn work(&self, ticks: usize) {
        if ticks == 0 {
            return;
        }
        let server = self.server.get().unwrap().upgrade().unwrap();
        self.book.lock().unwrap().push(self.sent());
        for _ in 0..ticks {
            server.tick();
            self.book.lock().unwrap().push(self.sent());
            self.world.lock().wires[0].take(1_000);
        }
    }
}

impl App<SimSocket> for Slow {
    type Block = Vec<u8>;
    type PerThread = ();

    fn per_thread(&self, _thread: Option<usize>) {}

    fn call(&self, (): &mut (), request: &Request<'_>, mut reply: Replied) -> (Replied, Outcome) {
        let path = String::from_utf8(request.path().to_vec()).unwrap();
        self.calls.lock().unwrap().push(path.clone());
        let slot = Arc::new(ReplySlot::default());
        let ticks = path.rsplit('/').next().unwrap().parse().unwrap();
        let mut head = ResponseHead::default();
        head.begin(b"200 OK").unwrap();
        let block = vec![b'x'; if path.starts_with("/large") { 5_000 } else { 5 }];
        if path.starts_with("/stream") || path.starts_with("/large") {
            reply.start(&head, None);
            for given in 0..3 {
                slot.lend(reply, AppCall::Next);
                if given == 2 {
                    self.work(ticks);
                }
                reply = slot.take_back().unwrap();
                reply.block(&block, || block.clone());
                assert!(reply.pass_boundary());
            }
            return (reply, Outcome::Done);
        }
        slot.lend(reply, AppCall::Call);
        self.work(ticks);
        let mut reply = slot.take_back().unwrap();
        reply.start(&head, Some(1));
        reply.block(b"x", || b"x".to_vec());
        (reply, Outcome::Done)
    }
}

/// What the application saw when peers asked for `paths` at the same moment, each peer for all of its paths at once.
fn serve(kept: bool, paths: &[&[&str]]) -> (Vec<Vec<usize>>, Vec<String>, Vec<usize>) {
    serve_within(1 << 20, kept, paths)
}

/// The same with peers that have room for so many bytes.
fn serve_within(window: usize, kept: bool, paths: &[&[&str]]) -> (Vec<Vec<usize>>, Vec<String>, Vec<usize>) {
    let ask = |path: &&str| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    let peers = paths.iter().map(|paths| {
        let wire: String = paths.iter().map(ask).collect();
        let takes = if window < 1 << 20 { Act::Sleep(1) } else { Act::TakeAll };
        (window, vec![Act::Connect, takes, Act::Send(wire.into_bytes()), Act::Sleep(1), Act::TakeAll])
    });
    let world = Shared::new(1, peers.collect());
    let (net, end) = SimNet::new(world.clone());
    let app = Slow { world: world.clone(), server: OnceLock::new(), book: Mutex::default(), calls: Mutex::default() };
    let server = Arc::new(Server::new(net, app, Config::default()));
    end.set(server.stopper()).ok();
    server.app().server.set(Arc::downgrade(&server)).ok();
    if kept {
        server.begin_ticks();
    }
    server.work().unwrap();
    let book = std::mem::take(&mut *server.app().book.lock().unwrap());
    let calls = std::mem::take(&mut *server.app().calls.lock().unwrap());
    let sent = world.lock().wires.iter().map(|wire| wire.sent).collect();
    (book, calls, sent)
}

#[test]
fn an_answer_waits_for_the_turns_end_or_for_the_second_tick() {
    let (book, calls, sent) = serve(true, &[&["/0"], &["/3"], &["/0"]]);
    assert_eq!(calls, ["/0", "/3", "/0"]);
    assert_eq!(book[0], [0, 0, 0], "held while the second is worked on");
    assert_eq!(book[2], [sent[0], 0, 0], "sent by the second tick");
    assert!(sent.iter().all(|sent| *sent > 0));
}

#[test]
fn without_a_watch_nothing_is_held() {
    let (book, _, sent) = serve(false, &[&["/0"], &["/3"], &["/stream/3"]]);
    assert_eq!(book[0], [sent[0], 0, 0]);
    assert_eq!(book[4][0..2], sent[0..2]);
    let (head, two_blocks) = (book[4][2] - 2 * 10, 2 * 10);
    assert_eq!(sent[2], head + two_blocks + 10 + 5, "both blocks were on the wire when the third was asked for");
}

#[test]
fn a_block_waits_for_the_next_or_for_the_second_tick() {
    let (book, _, sent) = serve(true, &[&["/stream/3"]]);
    let head = sent[0] - 3 * 10 - 5;
    assert_eq!(book[0], [head + 10], "a first block goes alone, the second waits for the third");
    assert_eq!(book[2], [head + 20], "and is sent by the second tick");
}

#[test]
fn pipelined_answers_wait_for_the_next_or_for_the_second_tick() {
    let (book, _, sent) = serve(true, &[&["/0", "/3"]]);
    assert_eq!(book[0], [0]);
    assert_eq!(book[2], [sent[0] / 2]);
}

#[test]
fn behind_a_slow_call_nothing_is_held_for_a_while() {
    let fast = ["/0"; 100];
    let (book, _, sent) = serve(true, &[&["/3"], &fast[..1], &["/1"], &fast[..1]]);
    assert_eq!(book[4][0], sent[0], "the slow one's own answer is not held");
    assert_eq!(book[4][1], sent[1], "nor the next, while another works for one tick");
    let (book, _, sent) = serve(true, &[&["/3"], &fast, &["/0"], &["/1"], &["/0"]]);
    assert_eq!(book[4][2], 0, "but after enough quick ones");
    assert_eq!(book.len(), 6);
    assert!(sent[2] > 0);
}

#[test]
fn what_a_peer_has_no_room_for_is_tried_again_at_each_tick() {
    let (book, _, sent) = serve_within(6_000, true, &[&["/large/5"]]);
    let each: Vec<usize> = book.iter().map(|sent| sent[0]).collect();
    assert!(each[0] < 6_000, "the second block is held: {each:?}");
    assert_eq!(each[2..], [7_000, 8_000, 9_000, 10_000], "the peer takes a thousand bytes after each tick");
    assert_eq!(sent[0], each[0] + 2 * (5_000 + 8) + 5, "two more blocks, framed, and the last chunk");
}
