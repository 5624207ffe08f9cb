//! Threads, sockets and a watch as they are, for a moment: what the model cannot see, because it has none of them.
//! `make sanitize` has ThreadSanitizer look on. Here is how it works: 1. a server of some threads listens on loopback;
//! 2. clients ask for answers that are quick, slow, streamed and written, in every order; 3. each answer is counted.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use bjoern_engine::http1::ResponseHead;
use bjoern_engine::io::{System, SystemSocket, SystemWaker};
use bjoern_engine::{App, AppCall, Books, Config, Outcome, Reply, ReplySlot, Request, Server, Stopper};

const THREADS: usize = 4;
const CLIENTS: usize = 8;
/// Connections of a client, one after the other, and requests on each.
const CONNECTIONS: usize = 8;
const REQUESTS: usize = 12;

const BLOCK: usize = 3_000;
const BLOCKS: usize = 3;

/// Longer than a look of the watch, so that the lead changes hands.
const SLEEP: Duration = Duration::from_millis(3);

const WAYS: [&str; 5] = ["quick", "slow", "stream", "slow-stream", "write"];

type Replied = Reply<SystemSocket, Vec<u8>>;

/// Answers by the path, always with the same number of bytes.
#[derive(Default)]
struct Several {
    streams: AtomicI64,
    /// The stream of "/endless" may end.
    may_end: AtomicBool,
    /// Threads in application code now, and the most there have been.
    inside: AtomicI64,
    most_inside: AtomicI64,
    /// Has one more thread come to the server.
    spawn: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Where a call of "/gate" says that it has begun, and hears that it may end.
    gate: Option<(Sender<()>, Mutex<Receiver<()>>)>,
}

impl Several {
    /// The application works on a response, which lies where the watch finds it.
    fn work(slot: &Arc<ReplySlot<SystemSocket, Vec<u8>>>, reply: Replied, call: AppCall, time: Duration) -> Replied {
        slot.lend(reply, call);
        thread::sleep(time);
        slot.take_back().unwrap()
    }
}

impl App<SystemSocket> for Several {
    type Block = Vec<u8>;
    type PerThread = ();

    fn per_thread(&self, _thread: Option<usize>) {}

    fn add_thread(&self) -> bool {
        self.spawn.get().inspect(|spawn| spawn()).is_some()
    }

    fn call(&self, (): &mut (), request: &Request<'_>, reply: Replied) -> (Replied, Outcome) {
        self.enter();
        let (reply, outcome) = self.answer(request, reply);
        self.leave();
        (reply, outcome)
    }
}

impl Several {
    fn enter(&self) {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_inside.fetch_max(inside, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }

    fn pass_boundary(&self, reply: &mut Replied) -> bool {
        self.leave();
        let goes_on = reply.pass_boundary();
        self.enter();
        goes_on
    }

    fn answer(&self, request: &Request<'_>, reply: Replied) -> (Replied, Outcome) {
        let way = std::str::from_utf8(request.path()).unwrap().trim_start_matches('/');
        let slot = Arc::new(ReplySlot::default());
        let mut reply = Several::work(&slot, reply, AppCall::Call, if way == "slow" { SLEEP } else { Duration::ZERO });
        if let (Some((begun, may_end)), "gate") = (&self.gate, way) {
            begun.send(()).unwrap();
            may_end.lock().unwrap().recv().unwrap();
        }
        let mut head = ResponseHead::default();
        head.begin(b"200 OK").unwrap();
        let body = vec![b'x'; BLOCK];
        match way {
            "stream" | "slow-stream" => {
                self.streams.fetch_add(1, Ordering::Relaxed);
                reply.start(&head, None);
                let time = if way == "stream" { Duration::ZERO } else { SLEEP };
                for _ in 0..BLOCKS {
                    reply = Several::work(&slot, reply, AppCall::Next, time);
                    reply.block(&body, || body.clone());
                    if !self.pass_boundary(&mut reply) {
                        break; // its client has hung up
                    }
                }
                self.streams.fetch_sub(1, Ordering::Relaxed);
            }
            "endless" | "camera" => {
                reply.start(&head, None);
                // Blocks that fill the sockets, or pictures that each take a while and always find room.
                let (len, time) = if way == "endless" { (100_000, Duration::ZERO) } else { (100, SLEEP) };
                let body = vec![b'x'; len];
                while !self.may_end.load(Ordering::SeqCst) {
                    reply = Several::work(&slot, reply, AppCall::Next, time);
                    reply.block(&body, || body.clone());
                    if !self.pass_boundary(&mut reply) {
                        break;
                    }
                }
            }
            "write" => {
                reply.start(&head, None);
                for _ in 0..BLOCKS {
                    reply.block(&body, || body.clone());
                    loop {
                        match reply.hand_over() {
                            Ok(true) => break,
                            Ok(false) => {}
                            Err(_) => return (reply, Outcome::Failed), // its client has hung up
                        }
                    }
                }
            }
            _ => {
                reply.start(&head, Some((BLOCK * BLOCKS) as u64));
                (0..BLOCKS).for_each(|_| reply.block(&body, || body.clone()));
            }
        }
        (reply, Outcome::Done)
    }
}

/// Reads one answer: the length of its body.
fn read_answer(stream: &mut BufReader<TcpStream>) -> usize {
    let (mut length, mut line) = (None, String::new());
    loop {
        line.clear();
        stream.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            field => length = field.strip_prefix("Content-Length: ").map(|length| length.parse().unwrap()).or(length),
        }
    }
    if let Some(length) = length {
        stream.read_exact(&mut vec![0; length]).unwrap();
        return length;
    }
    let mut total = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).unwrap();
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
        stream.read_exact(&mut vec![0; size + 2]).unwrap();
        total += size;
        if size == 0 {
            return total;
        }
    }
}

/// Asks for everything in turn, pipelined and not, and hangs up in the middle of an answer now and then.
fn ask(address: SocketAddr, client: usize) -> usize {
    let mut answers = 0;
    for connection in 0..CONNECTIONS {
        let mut stream = BufReader::new(TcpStream::connect(address).unwrap());
        stream.get_ref().set_read_timeout(Some(Duration::from_secs(60))).unwrap(); // nobody is left waiting for ever
        let way = |number: usize| WAYS[(client + connection + number) % WAYS.len()];
        let request = |number: usize| format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", way(number));
        if connection % 3 == 2 {
            let all: String = (0..REQUESTS).map(request).collect();
            stream.get_mut().write_all(all.as_bytes()).unwrap();
        }
        for number in 0..REQUESTS {
            if connection % 3 != 2 {
                stream.get_mut().write_all(request(number).as_bytes()).unwrap();
            }
            if connection % 4 == 3 && number == REQUESTS / 2 {
                break;
            }
            assert_eq!(read_answer(&mut stream), BLOCK * BLOCKS, "{}", way(number));
            answers += 1;
        }
    }
    answers
}

/// Or a test that fails would wait for the server's threads.
struct StopOnDrop(Stopper<SystemWaker>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop(true);
    }
}

fn several_loops(loops: usize, app: Several, config: Config) -> (Arc<Server<System, Several>>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let nets = (0..loops).map(|_| System::new(vec![listener.try_clone().unwrap().into()]).unwrap()).collect();
    let server = Arc::new(Server::with_books(nets, app, config, Books::default()));
    server.begin_watch().unwrap();
    (server, address)
}

fn serve(loops: usize, max_queue: usize) {
    let config = Config { threads: THREADS, max_queue, slow_request: SLEEP, ..Config::default() };
    let (server, address) = several_loops(loops, Several::default(), config);
    thread::scope(|scope| {
        let _stop = StopOnDrop(server.stopper());
        for _ in 0..THREADS {
            scope.spawn(|| server.work().unwrap());
        }
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || ask(address, client))).collect();
        let answers: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
        let cut = CONNECTIONS / 4;
        assert_eq!(answers, CLIENTS * (CONNECTIONS * REQUESTS - cut * REQUESTS.div_ceil(2)));
    });
    server.end_watch();
    assert_eq!(server.app().streams.load(Ordering::Relaxed), 0, "every stream ends once");
    assert_eq!(server.counters().all().find(|(name, _)| *name == "open").unwrap().1, 0);
    assert_eq!(server.at_work(), 0);
}

#[test]
fn four_threads_answer_everybody() {
    serve(1, 0);
}

#[test]
fn four_threads_of_two_loops_answer_everybody() {
    serve(2, 0);
}

/// Whichever loop they came to, and whichever thread is in the call that does not end.
#[test]
fn an_idle_leader_goes_where_it_is_wanted() {
    let (begun, has_begun) = channel();
    let (end, may_end) = channel();
    let app = Several { gate: Some((begun, Mutex::new(may_end))), ..Several::default() };
    let (server, address) = several_loops(2, app, Config { threads: 2, ..Config::default() });
    thread::scope(|scope| {
        let (end, _stop) = (end, StopOnDrop(server.stopper())); // and the call comes back where this one panics
        for _ in 0..2 {
            scope.spawn(|| server.work().unwrap());
        }
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| BufReader::new(TcpStream::connect(address).unwrap())).collect();
        let ask = |client: &mut BufReader<TcpStream>, way| {
            client.get_ref().set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            client.get_mut().write_all(format!("GET /{way} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).unwrap();
        };
        for client in &mut clients {
            ask(client, "quick");
            assert_eq!(read_answer(client), BLOCK * BLOCKS);
        }
        for stuck in 0..CLIENTS {
            ask(&mut clients[stuck], "gate");
            has_begun.recv().unwrap();
            for other in (0..CLIENTS).filter(|other| *other != stuck) {
                ask(&mut clients[other], "quick");
                assert_eq!(read_answer(&mut clients[other]), BLOCK * BLOCKS, "{other} beside {stuck}");
            }
            end.send(()).unwrap();
            assert_eq!(read_answer(&mut clients[stuck]), BLOCK * BLOCKS);
        }
    });
    server.end_watch();
    assert_eq!(server.at_work(), 0);
}

#[test]
fn four_threads_and_a_stand_in_answer_everybody() {
    serve(1, 1_000);
}

#[test]
fn four_threads_of_two_loops_and_a_stand_in_answer_everybody() {
    serve(2, 1_000);
}

/// A server for one thread at a time, which gets more of them while streams wait, and the clients of `endless` streams.
fn beside_streams(way: &str, reads: &[bool], others: impl FnOnce(SocketAddr)) {
    let (server, address) = several_loops(1, Several::default(), Config::default());
    let spawned = Arc::new(Mutex::new(Vec::new()));
    let (for_spawn, threads) = (Arc::downgrade(&server), spawned.clone());
    let spawn = move || {
        let server = for_spawn.upgrade().unwrap();
        threads.lock().unwrap().push(thread::spawn(move || server.work().unwrap()));
    };
    server.app().spawn.set(Box::new(spawn)).ok().unwrap();
    thread::scope(|scope| {
        let _stop = StopOnDrop(server.stopper());
        scope.spawn(|| server.run().unwrap());
        let streams: Vec<_> = reads
            .iter()
            .map(|reads| {
                let mut stream = TcpStream::connect(address).unwrap();
                let request = format!("GET /{way} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).unwrap();
                stream.read_exact(&mut [0; 100]).unwrap(); // it has begun
                let mut copy = stream.try_clone().unwrap();
                (stream, reads.then(|| scope.spawn(move || std::io::copy(&mut copy, &mut std::io::sink()))))
            })
            .collect();
        others(address);
        server.app().may_end.store(true, Ordering::SeqCst);
        for (mut stream, reader) in streams {
            match reader {
                Some(reader) => drop(reader.join().unwrap().unwrap()),
                None => drop(std::io::copy(&mut stream, &mut std::io::sink()).unwrap()),
            }
        }
    });
    for thread in std::mem::take(&mut *spawned.lock().unwrap()) {
        thread.join().unwrap();
    }
    assert_eq!(server.at_work(), 0);
    assert_eq!(server.app().most_inside.load(Ordering::SeqCst), 1, "one thread at a time runs the application");
}

/// One thread may run the application, and streams never end: one whose client reads as fast as it can, one whose client
/// does not read at all, one that has a small block now and then. The others are served between their blocks.
#[test]
fn endless_streams_let_others_through() {
    let cases = [
        ("endless", &[true][..]),
        ("endless", &[false]),
        ("endless", &[false, false, true]),
        ("camera", &[true]),
        ("camera", &[true, true]),
    ];
    for (way, reads) in cases {
        beside_streams(way, reads, |address| {
            for client in 0..4 {
                let mut stream = BufReader::new(TcpStream::connect(address).unwrap());
                stream.get_ref().set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                for way in ["quick", "stream", "slow", "slow-stream"] {
                    let request = format!("GET /{way} HTTP/1.1\r\nHost: h\r\n\r\n");
                    stream.get_mut().write_all(request.as_bytes()).unwrap();
                    assert_eq!(read_answer(&mut stream), BLOCK * BLOCKS, "{way} of client {client} beside {reads:?}");
                }
            }
        });
    }
}
