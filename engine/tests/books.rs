//! What a server notes: its row of a board, lines of the access log, the last request, and how it shares a queue.
//! Here is how it works: 1. peers play their scripts in a world without a kernel; 2. the server runs until nothing is left
//! to happen, or until it ends by itself; 3. the row, the file and the peers tell what came of it.
#![allow(clippy::unwrap_used)]

mod sim;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bjoern_engine::Server;
use bjoern_engine::http1::ResponseHead;
use bjoern_engine::io::Socket;
use bjoern_engine::{AccessLog, App, Books, Config, Counters, LogFormat, Outcome, ROW_CELLS, Reply, Request, Row};
use sim::{Act, Shared, SimNet};

/// Answers `/whole` at once, `/stream` in three blocks, `/fail` not at all; looks at its row meanwhile.
#[derive(Default)]
struct Page {
    row: Option<&'static Row>,
    busy: AtomicU64,
    drains: AtomicU64,
}

impl Page {
    fn look(&self) {
        if let Some(row) = self.row {
            self.busy.fetch_max(number(row, "busy"), Ordering::Relaxed);
            assert_ne!(number(row, "out_since"), 0, "nobody leads while the only thread is here");
        }
    }
}

impl<S: Socket> App<S> for Page {
    type Block = Vec<u8>;
    type PerThread = ();

    fn per_thread(&self, _thread: Option<usize>) {}

    fn call(&self, (): &mut (), request: &Request<'_>, mut reply: Reply<S, Vec<u8>>) -> (Reply<S, Vec<u8>>, Outcome) {
        self.look();
        let mut head = ResponseHead::default();
        head.begin(b"201 Created").unwrap();
        head.field(b"X-Kind", b"page").unwrap();
        match request.path() {
            b"/fail" => return (reply, Outcome::Failed),
            b"/stream" => {
                reply.start(&head, None);
                for _ in 0..3 {
                    self.look();
                    let block = vec![b'x'; 10_000];
                    reply.block(&block, || block.clone());
                    if !reply.pass_boundary() {
                        break;
                    }
                }
            }
            _ => {
                reply.start(&head, Some(5));
                reply.block(b"whole", || b"whole".to_vec());
            }
        }
        (reply, Outcome::Done)
    }

    fn drains(&self) {
        self.drains.fetch_add(1, Ordering::Relaxed);
    }
}

fn board(rows: usize) -> &'static [Row] {
    Vec::leak((0..rows).map(|_| std::array::from_fn::<_, ROW_CELLS, _>(|_| AtomicU64::new(0))).collect())
}

fn place(name: &str) -> usize {
    Counters::names().iter().position(|other| other == name).unwrap()
}

fn number(row: &Row, name: &str) -> u64 {
    row[place(name)].load(Ordering::Relaxed)
}

fn get(target: &str) -> Act {
    Act::Send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes())
}

fn peer(acts: Vec<Act>) -> (usize, Vec<Act>) {
    (1 << 20, [vec![Act::Sleep(1), Act::Connect, Act::TakeAll], acts].concat())
}

fn serve(world: &Shared, page: Page, config: Config, books: Books) -> Server<SimNet, Page> {
    let (net, end) = SimNet::new(world.clone());
    let server = Server::with_books(vec![net], page, config, books);
    end.set(server.stopper()).ok();
    server.work().unwrap();
    server
}

/// The lines of the log when the peers have played.
fn lines(format: &str, peers: Vec<(usize, Vec<Act>)>, config: Config) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let log = AccessLog::open(path.clone(), LogFormat::parse(format).unwrap()).unwrap();
    let books = Books { log: Some(Arc::new(log)), ..Books::default() };
    serve(&Shared::new(1, peers), Page::default(), config, books);
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn every_answer_is_a_line() {
    let post = |body: &str| {
        let head = format!("POST /whole HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
        vec![Act::Send(head.into_bytes()), Act::Sleep(1), Act::Send(body.as_bytes().to_vec())]
    };
    let half = |bytes: &[u8]| vec![Act::Send(bytes.to_vec())];
    let table: Vec<(Vec<Act>, &[&str])> = vec![
        (vec![get("/whole?a=b")], &[r#""GET /whole?a=b HTTP/1.1" 201 5 page"#]),
        (vec![get("/stream")], &[r#""GET /stream HTTP/1.1" 201 30000 page"#]),
        (vec![get("/fail")], &[r#""GET /fail HTTP/1.1" 500 26 -"#]),
        (half(b"GET /fail HTTP/1.1\r\nHost: h\r\nAccept: text/html\r\n\r\n"), &[r#""GET /fail HTTP/1.1" 500 114 -"#]),
        (half(b"HEAD /fail HTTP/1.1\r\nHost: h\r\n\r\n"), &[r#""HEAD /fail HTTP/1.1" 500 - -"#]),
        (half(b"HEAD /fail HTTP/1.1\r\n\r\n"), &[r#""HEAD /fail HTTP/1.1" 400 - -"#]),
        (
            vec![get("/whole"), get("/stream"), get("/whole")],
            &[
                r#""GET /whole HTTP/1.1" 201 5 page"#,
                r#""GET /stream HTTP/1.1" 201 30000 page"#,
                r#""GET /whole HTTP/1.1" 201 5 page"#,
            ],
        ),
        (half(b"HEAD /whole HTTP/1.0\r\n\r\n"), &[r#""HEAD /whole HTTP/1.0" 201 - page"#]),
        (post("abc"), &[r#""POST /whole HTTP/1.1" 201 5 page"#]),
        (post(&"x".repeat(2000)), &[r#""POST /whole HTTP/1.1" 413 22 -"#]),
        (half(b"GET /whole HTTP/1.1\r\n\r\n"), &[r#""GET /whole HTTP/1.1" 400 16 -"#]),
        (half(b"\"\x00\\\r\n\r\n"), &[r#""\"\x00\\" 400 16 -"#]),
        (half(b"GET /whole HT"), &[r#""GET /whole HT" 408 20 -"#]),
        (
            half(b"POST /whole HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc"),
            &[r#""POST /whole HTTP/1.1" 408 20 -"#],
        ),
        (
            half(b"POST /whole HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nnone\r\n"),
            &[r#""POST /whole HTTP/1.1" 400 16 -"#],
        ),
        (vec![], &[]),
        (vec![Act::Finish], &[]),
    ];
    for (acts, want) in table {
        let config = Config { max_body: 1000, ..Config::default() };
        let got = lines(r#""%(r)s" %(s)s %(b)s %({x-kind}o)s"#, vec![peer(acts.clone())], config);
        assert_eq!(got, want, "{acts:?}");
    }
}

#[test]
fn a_response_that_is_given_up_is_a_line_too() {
    // It takes the head and a bit, and then nothing; or it is gone.
    for end in [Act::Sleep(1), Act::Reset] {
        let acts = vec![Act::Connect, get("/stream"), Act::Sleep(10), end];
        let got = lines("%(r)s %(s)s", vec![(100, acts)], Config::default());
        assert_eq!(got, ["GET /stream HTTP/1.1 201"]);
    }
}

#[test]
fn a_row_tells_what_goes_on() {
    let rows = board(1);
    let books = Books { counters: Arc::new(Counters::on_board(rows, 0).unwrap()), ..Books::default() };
    let world =
        Shared::new(1, vec![peer(vec![get("/whole"), Act::Sleep(5), get("/stream")]), peer(vec![get("/fail")])]);
    let server = serve(&world, Page { row: Some(&rows[0]), ..Page::default() }, Config::default(), books);
    assert_eq!(server.app().busy.load(Ordering::Relaxed), 1);
    let latencies: u64 = (0..22).map(|place| number(&rows[0], &format!("latency_{place}"))).sum();
    assert_eq!(latencies, 3);
    for (name, value) in [("requests", 3), ("connections", 2), ("failed", 1), ("open", 0), ("busy", 0), ("alive", 0)] {
        assert_eq!(number(&rows[0], name), value, "{name}");
    }
    let world = world.lock();
    let sent: usize = world.wires.iter().map(|wire| wire.sent).sum();
    assert_eq!(number(&rows[0], "bytes_sent"), sent as u64);
    let received = ["/whole", "/stream", "/fail"].map(|path| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").len());
    assert_eq!(number(&rows[0], "bytes_received"), received.iter().sum::<usize>() as u64);
}

#[test]
fn the_last_request_says_so_and_ends_the_server() {
    let acts = |name: &str| peer((0..4).flat_map(|_| [get(name), Act::Sleep(10)]).collect());
    let world = Shared::new(1, vec![acts("/whole"), acts("/stream")]);
    let config = Config { max_requests: 3, ..Config::default() };
    let server = serve(&world, Page::default(), config, Books::default());
    assert_eq!(server.app().drains.load(Ordering::Relaxed), 1);
    let world = world.lock();
    assert!(!world.ended, "it ended by itself, while peers had more to say");
    let taken: Vec<String> = world.wires.iter().map(|wire| String::from_utf8_lossy(&wire.taken).into_owned()).collect();
    let answers: usize = taken.iter().map(|taken| taken.matches("HTTP/1.1 201").count()).sum();
    assert!((3..=4).contains(&answers), "{answers}");
    assert!(taken.iter().any(|taken| taken.contains("Connection: close")), "the third is told that it is the last");
    assert!(world.wires.iter().all(|wire| wire.server_closed));
}

/// When a hundred peers come at once, beside another process with so many connections: how long each waited, in order.
fn waits(alive: bool, out_since: u64, others: u64) -> Vec<u64> {
    const COME: u64 = 100;
    let rows = board(2);
    for (name, value) in [("alive", alive.into()), ("out_since", out_since), ("open", others)] {
        rows[1][place(name)].store(value, Ordering::Relaxed);
    }
    let books = Books { counters: Arc::new(Counters::on_board(rows, 0).unwrap()), ..Books::default() };
    let acts = vec![Act::Sleep(COME), Act::Connect, Act::TakeAll, get("/whole"), Act::Sleep(10_000)];
    let world = Shared::new(1, vec![(1 << 20, acts); 100]);
    serve(&world, Page::default(), Config::default(), books);
    let world = world.lock();
    assert!(world.wires.iter().all(|wire| wire.taken.starts_with(b"HTTP/1.1 201")), "all are answered");
    let mut waits: Vec<u64> = world.wires.iter().map(|wire| wire.accepted_at - COME).collect();
    waits.sort();
    waits
}

#[test]
fn connections_are_left_to_another_for_a_moment_only() {
    // Whether the other accepts, since when its threads are out, what it has; how many are taken at once, and 4 ms later.
    let table = [
        (true, 0, 0, 2, 2),
        (true, 0, 40, 44, 2),
        (true, 0, 94, 100, 0),
        (true, 90, 0, 2, 2),
        (true, 80, 0, 100, 0),
        (false, 0, 0, 100, 0),
    ];
    for (alive, out_since, others, at_once, later) in table {
        let waits = waits(alive, out_since, others);
        let taken_at = |time: u64| waits.iter().filter(|wait| **wait == time).count();
        let case = (alive, out_since, others);
        assert_eq!((taken_at(0), taken_at(4)), (at_once, later), "{case:?}: {waits:?}");
        assert!(waits.iter().all(|wait| *wait <= 200), "{case:?}: {waits:?}");
    }
}
