//! The PROXY protocol before the first request, each beginning three ways: whole with its request, byte by byte, and the
//! request after it; who may speak it; and fields that cannot be understood.
//! Here is how it works: 1. a simulated peer sends the bytes; 2. the application says who asks; 3. the answers are compared.
#![allow(clippy::unwrap_used)]

mod sim;

use std::sync::Arc;
use std::time::Duration;

use bjoern_engine::http1::ResponseHead;
use bjoern_engine::io::Socket;
use bjoern_engine::proxies::Trusted;
use bjoern_engine::{App, Cell, Config, Outcome, Reply, Request, Server};
use sim::{Act, Shared, SimNet};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// Says who asks; `-` for the peer, which in the simulator has no address.
struct WhoAsks;

impl<S: Socket> App<S> for WhoAsks {
    type Block = Vec<u8>;
    type PerThread = ();

    fn per_thread(&self, _thread: Option<usize>) {}

    fn call(&self, (): &mut (), request: &Request<'_>, mut reply: Reply<S, Vec<u8>>) -> (Reply<S, Vec<u8>>, Outcome) {
        let client = request.client();
        let said = client.ip.map_or("-".to_owned(), |ip| format!("{ip}#{}", client.port));
        let mut head = ResponseHead::default();
        head.begin(b"200 OK").unwrap();
        head.field(b"Client", said.as_bytes()).unwrap();
        head.field(b"Content-Length", b"0").unwrap();
        reply.start(&head, None);
        (reply, Outcome::Done)
    }
}

fn config(trusted: &str) -> Config {
    Config { trusted: Trusted::parse(trusted).unwrap(), proxy_protocol: true, ..Config::default() }
}

/// What a peer got: the statuses and clients, when the connection ended, and the counters that are not zero.
struct Seen {
    answers: Vec<String>,
    ended: u64,
    counters: Vec<(&'static str, u64)>,
}

impl Seen {
    fn count(&self, name: &str) -> u64 {
        self.counters.iter().find(|(known, _)| *known == name).map_or(0, |(_, count)| *count)
    }
}

fn play(config: Config, acts: Vec<Act>) -> Seen {
    let world = Shared::new(1, vec![(1 << 20, [vec![Act::Connect, Act::TakeAll], acts].concat())]);
    let (net, end) = SimNet::new(world.clone());
    let server = Arc::new(Server::new(net, WhoAsks, config));
    end.set(server.stopper()).ok();
    server.work().unwrap();
    assert_eq!(server.counters().get(Cell::Open), 0);
    let counters = server.counters().all().filter(|(_, count)| *count > 0).collect();
    let world = world.lock();
    let text = String::from_utf8(world.wires[0].taken.clone()).unwrap();
    // Only the last answer may have a body, which is one line.
    let answers = text.split_terminator("\r\n\r\n").filter(|head| head.contains("\r\n")).map(|head| {
        let status = &head["HTTP/1.1 ".len()..][..3];
        let client = head.lines().find_map(|line| line.strip_prefix("Client: "));
        client.map_or(status.to_owned(), |client| format!("{status} {client}"))
    });
    Seen { answers: answers.collect(), ended: world.wires[0].closed_at, counters }
}

fn send(pieces: &[&[u8]]) -> Vec<Act> {
    pieces.iter().flat_map(|piece| [Act::Send(piece.to_vec()), Act::Sleep(1)]).collect()
}

/// The three ways in which two requests may come behind a beginning.
fn three_ways(beginning: &[u8]) -> [Vec<Act>; 3] {
    let all = [beginning, GET, GET].concat();
    [send(&[&all]), send(&all.chunks(1).collect::<Vec<_>>()), send(&[beginning, GET, GET])]
}

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let len = (block.len() as u16).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &len, block].concat()
}

const V4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x34, 0, 80];

#[test]
fn the_connection_is_whose_the_proxy_says() {
    let v6 = [&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 16], &[0x12, 0x34, 0, 80]].concat();
    let long = [V4, &[0xee; 4000]].concat();
    let rows: &[(&[u8], &str)] = &[
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 4660 80\r\n", "192.0.2.1#4660"),
        (b"PROXY TCP6 2001:db8::1 ::1 4660 80\r\n", "2001:db8::1#4660"),
        (b"PROXY UNKNOWN\r\n", "-"),
        (&v2(0x21, 0x11, V4), "192.0.2.1#4660"),
        (&v2(0x21, 0x21, &v6), "2001:db8::1#4660"),
        (&v2(0x21, 0x31, &[b'/'; 216]), "-"),
        (&v2(0x20, 0x00, b""), "-"),
        (&v2(0x21, 0x11, &long), "192.0.2.1#4660"),
    ];
    for (beginning, client) in rows {
        for trusted in ["", "unix", "*", "10.0.0.0/8 unix"] {
            for acts in three_ways(beginning) {
                let outcome = play(config(trusted), acts);
                let start = beginning[..beginning.len().min(50)].escape_ascii();
                assert_eq!(outcome.answers, vec![format!("200 {client}"); 2], "{start}");
            }
        }
    }
}

#[test]
fn what_does_not_begin_so_is_closed_without_a_word_and_counted() {
    let long = v2(0x20, 0x00, &[0; 0xffff]);
    let rows: &[&[u8]] = &[
        b"",
        b"\x16\x03\x01\x02\x00\x01",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 4660 x\r\n",
        b"PROXY UNKNOWN\n",
        &v2(0x31, 0x11, V4),
        &v2(0x21, 0x41, V4),
        &v2(0x21, 0x21, V4),
        &long,
    ];
    for beginning in rows {
        for acts in three_ways(beginning) {
            let outcome = play(config(""), acts);
            let start = beginning[..beginning.len().min(50)].escape_ascii();
            assert_eq!(outcome.answers, [""; 0], "{start}");
            assert_eq!((outcome.count("bad_proxy_header"), outcome.count("requests")), (1, 0));
            assert!(outcome.ended < 1000, "at once");
        }
    }
}

#[test]
fn only_those_who_are_trusted_may_speak() {
    for beginning in [&b"PROXY UNKNOWN\r\n"[..], &v2(0x21, 0x11, V4), b"GET / HTTP/1.1\r\n"] {
        for acts in three_ways(beginning) {
            let outcome = play(config("192.0.2.0/24"), acts);
            assert_eq!(outcome.answers, [""; 0]);
            assert_eq!((outcome.count("untrusted_proxy"), outcome.count("bad_proxy_header")), (1, 0));
        }
    }
}

#[test]
fn the_beginning_and_the_first_head_have_one_header_timeout() {
    let beginning = v2(0x21, 0x11, V4);
    let config = || Config { header_timeout: Duration::from_secs(5), ..config("") };
    let slowly = |bytes: &[u8], pause| {
        bytes.chunks(1).flat_map(|byte| [Act::Send(byte.to_vec()), Act::Sleep(pause)]).collect::<Vec<_>>()
    };
    for acts in [vec![], slowly(&beginning, 1000), slowly(&beginning[..1], 1), slowly(b"PROXY TCP4", 10)] {
        let outcome = play(config(), acts);
        assert_eq!((outcome.answers.len(), outcome.ended), (0, 5000), "nobody is told anything");
    }
    let outcome = play(config(), [slowly(&beginning, 100), slowly(b"GET / HTTP/1.1\r\n", 1000)].concat());
    assert_eq!((&outcome.answers[..], outcome.count("header_timeout")), (&["408".to_owned()][..], 1));
    assert!((5000..11_000).contains(&outcome.ended), "{}: the peer may still be sending", outcome.ended);
}

#[test]
fn half_a_beginning_is_none() {
    for end in [Act::Finish, Act::Reset] {
        let outcome = play(config(""), vec![Act::Send(b"PROXY TCP4 192".to_vec()), Act::Sleep(1), end]);
        assert_eq!((outcome.answers.len(), outcome.count("requests")), (0, 0));
    }
}

/// The hops are one chain: what the fields say counts where the connection, as the proxy tells it, is a proxy's.
#[test]
fn fields_count_by_whom_the_proxy_speaks_for() {
    let get = b"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n";
    for (trusted, client) in
        [("unix", "192.0.2.1#4660"), ("unix, 192.0.2.0/24", "203.0.113.7#0"), ("", "192.0.2.1#4660")]
    {
        let outcome = play(config(trusted), send(&[&v2(0x21, 0x11, V4), get]));
        assert_eq!(outcome.answers, [format!("200 {client}")]);
    }
    let local = play(config("unix"), send(&[&v2(0x20, 0x00, b""), get]));
    assert_eq!(local.answers, ["200 203.0.113.7#0"]);
}

#[test]
fn fields_that_cannot_be_understood_are_refused_before_the_body() {
    let config = || Config { proxy_protocol: false, ..config("unix") };
    for field in ["X-Forwarded-For: x", "Forwarded: x", "Forwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.2"] {
        let head =
            format!("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n{field}\r\n\r\n");
        let outcome = play(config(), send(&[head.as_bytes()]));
        assert_eq!((&outcome.answers[..], outcome.count("bad_forwarded")), (&["400".to_owned()][..], 1), "{field}");
    }
    let post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nX-Forwarded-For: 192.0.2.1\r\n\r\nhello";
    for pieces in [vec![post.as_bytes()], post.as_bytes().chunks(1).collect()] {
        assert_eq!(play(config(), send(&pieces)).answers, ["200 192.0.2.1#0"]);
    }
}
