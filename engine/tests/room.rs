//! What gives way where `max_connections` are open and another comes: the connection that has been idle for longest, and
//! none that is not.
//! Here is how it works: 1. peers play their scripts in turns; 2. when their connections ended, and what they got, tells.
#![allow(clippy::unwrap_used)]

mod sim;

use std::fs::File;
use std::io::Write;

use bjoern_engine::http1::ResponseHead;
use bjoern_engine::io::{Millis, Socket};
use bjoern_engine::{App, Config, Outcome, Reply, Request, Server};
use sim::{Act, Shared, SimNet};

const SECOND: Millis = 1000;

/// Answers everything at once; `/file` with a file.
struct Page;

impl<S: Socket> App<S> for Page {
    type Block = Vec<u8>;
    type PerThread = ();

    fn per_thread(&self, _thread: Option<usize>) {}

    fn call(&self, (): &mut (), request: &Request<'_>, mut reply: Reply<S, Vec<u8>>) -> (Reply<S, Vec<u8>>, Outcome) {
        let mut head = ResponseHead::default();
        head.begin(b"200 OK").unwrap();
        if request.path() == b"/file" {
            let mut file: File = tempfile::tempfile().unwrap();
            file.write_all(&[b'x'; 10_000]).unwrap();
            reply.start(&head, Some(10_000));
            reply.file(file, 0, 10_000);
        } else {
            reply.start(&head, Some(0));
        }
        (reply, Outcome::Done)
    }
}

/// Behind such a head nothing is taken.
const TOO_LARGE: &[u8] = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\n";

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// A peer that comes at a second, sends pieces at seconds, and takes what it gets.
fn peer(comes: Millis, sends: &[(Millis, &[u8])]) -> Vec<Act> {
    let mut acts = vec![Act::Sleep(comes * SECOND), Act::Connect, Act::TakeAll];
    let mut now = comes;
    for (at, bytes) in sends {
        acts.push(Act::Sleep((at - now) * SECOND));
        acts.push(Act::Send(bytes.to_vec()));
        now = *at;
    }
    acts
}

/// Of each peer: how many answers it got, in which second its connection was accepted, and in which it ended; and how many
/// gave way.
fn play(peers: Vec<Vec<Act>>, config: Config, open_files: Option<u64>) -> (Vec<(usize, Millis, Millis)>, u64) {
    let world = Shared::new(1, peers.into_iter().map(|acts| (1_000, acts)).collect());
    world.lock().open_files = open_files;
    let (net, end) = SimNet::new(world.clone());
    let server = Server::new(net, Page, config);
    end.set(server.stopper()).ok();
    server.work().unwrap();
    let count = server.counters().all().find(|(name, _)| *name == "gave_way").unwrap().1;
    let world = world.lock();
    let got = world.wires.iter().map(|wire| {
        let answers = String::from_utf8_lossy(&wire.taken).matches("HTTP/1.1 200").count();
        (answers, wire.accepted_at / SECOND, wire.closed_at / SECOND)
    });
    (got.collect(), count)
}

#[test]
fn the_connection_that_has_been_idle_for_longest_gives_way_to_a_new_one() {
    let half: &[u8] = b"GET / HT";
    let body: &[u8] = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n";
    let new = || peer(10, &[(10, REQUEST)]);
    type Got = &'static [(usize, Millis, Millis)];
    // Peers, how many may be open; what each got, and how many gave way.
    type Case = (&'static str, Vec<Vec<Act>>, usize, Got, u64);
    let table: &[Case] = &[
        ("idle", vec![peer(1, &[(1, REQUEST)]), new()], 1, &[(1, 1, 10), (1, 10, 85)], 1),
        (
            "the first of two",
            vec![peer(1, &[(1, REQUEST), (3, REQUEST)]), peer(2, &[(2, REQUEST)]), new()],
            2,
            &[(2, 1, 78), (1, 2, 10), (1, 10, 85)],
            1,
        ),
        ("room enough", vec![peer(1, &[(1, REQUEST)]), new()], 2, &[(1, 1, 76), (1, 10, 85)], 0),
        // After a refusal a connection lingers for five seconds.
        ("said nothing yet", vec![peer(1, &[]), new()], 1, &[(0, 1, 31), (1, 31, 106)], 0),
        ("half a head", vec![peer(1, &[(1, REQUEST), (9, half)]), new()], 1, &[(1, 1, 39), (1, 44, 119)], 0),
        ("half a body", vec![peer(1, &[(1, REQUEST), (9, body)]), new()], 1, &[(1, 1, 69), (1, 74, 149)], 0),
        (
            "a request at the same time",
            vec![peer(1, &[(1, REQUEST), (10, REQUEST)]), new()],
            1,
            &[(2, 1, 10), (1, 10, 85)],
            1,
        ),
        ("one after the other", vec![new(), new(), new()], 1, &[(1, 10, 10), (1, 10, 10), (1, 10, 85)], 2),
    ];
    for (name, peers, max_connections, got, gave_way) in table {
        let config = Config { max_connections: *max_connections, ..Config::default() };
        assert_eq!(play(peers.clone(), config, None), (got.to_vec(), *gave_way), "{name}");
    }
}

#[test]
fn a_refused_request_is_thrown_away_for_a_time_that_ends() {
    let goes_on: Vec<(Millis, &[u8])> = (2..100).map(|second| (second, &b"x"[..])).collect();
    let stops: Vec<(Millis, &[u8])> = (2..15).map(|second| (second, &b"x"[..])).collect();
    // What comes behind the head, and when another can be accepted.
    type Case<'a> = (&'a [(Millis, &'a [u8])], Millis);
    let table: &[Case] = &[(&[], 10), (&stops, 19), (&goes_on, 31)];
    for (behind, accepted) in table {
        let sends = [&[(1, TOO_LARGE)], *behind].concat();
        let config = Config { max_connections: 1, ..Config::default() };
        let (got, _) = play(vec![peer(1, &sends), peer(10, &[(10, REQUEST)])], config, None);
        assert_eq!((got[1].0, got[1].1), (1, *accepted), "{} pieces", behind.len());
    }
}

#[test]
fn bodies_and_files_take_descriptors_from_connections() {
    let body: &[u8] = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n12345678";
    let file = vec![
        Act::Sleep(SECOND),
        Act::Connect,
        Act::Send(b"GET /file HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()),
        Act::Sleep(20 * SECOND),
        Act::TakeAll,
    ];
    // The body has a file, and the application will have a duplicate: with its connection, three. A file on its way is one.
    let table: &[(&str, Vec<Act>, u64, usize, Millis)] = &[
        ("body", peer(1, &[(1, body), (20, b"9")]), 6, 0, 20),
        ("body, and room", peer(1, &[(1, body), (20, b"9")]), 8, 0, 10),
        ("the configuration says how many", peer(1, &[(1, body), (20, b"9")]), 6, 3, 10),
        ("file", file.clone(), 4, 0, 21),
        ("file, and room", file.clone(), 6, 0, 10),
    ];
    for (name, first, open_files, max_connections, accepted) in table {
        let config = Config { max_connections: *max_connections, body_buffer: 1, ..Config::default() };
        let second = peer(10, &[(10, REQUEST)]);
        // Half of the files are kept for other things, where there are so few.
        let (got, _) = play(vec![first.clone(), second], config, Some(*open_files));
        assert_eq!((got[0].0, got[1].0, got[1].1), (1, 1, *accepted), "{name}");
    }
}
