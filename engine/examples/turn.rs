//! One request's turn without the network: the whole server on a connection in memory, an application that is a constant.
//! `cargo run --release --example turn -- browser 1000000` tells the time of a request; `make instructions` counts its
//! instructions. Must not know: the kernel, Python.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::hint::black_box;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bjoern_engine::http1::ResponseHead;
use bjoern_engine::io::{Clock, Event, Millis, Net, Peer, Readiness, Socket, Wait, Waker};
use bjoern_engine::{App, Body, Cell, Config, Outcome, Reply, Request, Server, Wake};

/// What peers send, again and again.
struct Traffic {
    /// The bytes of one receive.
    arrival: Vec<u8>,
    /// Requests in it.
    requests: usize,
    /// Each arrival comes on a connection of its own.
    closes: bool,
}

impl Traffic {
    fn new(name: &str) -> Option<Traffic> {
        let kept = |arrival: &[u8], requests| Traffic { arrival: arrival.to_vec(), requests, closes: false };
        Some(match name {
            "hello" => kept(HELLO.as_bytes(), 1),
            "browser" => kept(BROWSER.as_bytes(), 1),
            "post" => kept(&[POST.as_bytes(), &[b'x'; 1024]].concat(), 1),
            "pipelined" => kept(HELLO.repeat(PIPELINE).as_bytes(), PIPELINE),
            "close" => Traffic { closes: true, ..kept(CLOSE.as_bytes(), 1) },
            _ => return None,
        })
    }
}

const HELLO: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
const BROWSER: &str = "GET /articles/search?query=word&page=3&token=9e3779b1 HTTP/1.1\r\n\
    Host: 127.0.0.1\r\n\
    Connection: keep-alive\r\n\
    Cache-Control: max-age=0\r\n\
    sec-ch-ua: \"Chromium\";v=\"142\", \"Not A(Brand\";v=\"24\"\r\n\
    sec-ch-ua-mobile: ?0\r\n\
    sec-ch-ua-platform: \"Linux\"\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-User: ?1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: session=9e3779b100000001; theme=dark; seen=1\r\n\r\n";
const CLOSE: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\
    Content-Type: application/octet-stream\r\nContent-Length: 1024\r\n\r\n";
const PIPELINE: usize = 16;

/// Reads all of a request, and answers the same to each.
struct Constant;

type Replied = Reply<MemorySocket, &'static [u8]>;

impl App<MemorySocket> for Constant {
    type Block = &'static [u8];
    type PerThread = ResponseHead;

    fn per_thread(&self, _thread: Option<usize>) -> ResponseHead {
        ResponseHead::default()
    }

    fn call(&self, head: &mut ResponseHead, request: &Request<'_>, mut reply: Replied) -> (Replied, Outcome) {
        for field in request.fields() {
            black_box(field);
        }
        black_box((request.method(), request.path(), request.query()));
        if let Body::Memory(body) = request.body {
            black_box(body);
        }
        let body = b"Hello, world!".as_slice();
        head.clear();
        head.begin(b"200 OK").unwrap();
        head.field(b"Content-Type", b"text/plain").unwrap();
        head.field(b"Content-Length", b"13").unwrap();
        reply.start(head, Some(body.len() as u64));
        reply.block(body, || body);
        (reply, Outcome::Done)
    }

    /// The net wakes the server once, when everything was sent.
    fn woken(&self) -> Wake {
        Wake::Drain
    }
}

/// The server's end of a connection.
struct MemorySocket {
    arrival: Arc<[u8]>,
    /// Arrivals still to come on this connection, and on all.
    rest: usize,
    left: Arc<AtomicUsize>,
}

impl Socket for MemorySocket {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.rest -= 1;
        self.left.fetch_sub(1, Ordering::Relaxed);
        buffer[..self.arrival.len()].copy_from_slice(&self.arrival);
        Ok(self.arrival.len())
    }

    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(pieces[0].starts_with(b"HTTP/1.1 200 OK\r\n"), "a request was not answered as it should be");
        Ok(pieces.iter().map(|piece| piece.len()).sum())
    }

    fn send_file(&mut self, _file: &File, _offset: u64, _len: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn reset_on_close(&mut self) {}

    fn wait_writable(&mut self, _timeout: Duration) -> io::Result<(Wait, Duration)> {
        Ok((Wait::Writable, Duration::ZERO))
    }
}

/// One listener and its connections, one at a time, with news as long as there are arrivals.
struct MemoryNet {
    arrival: Arc<[u8]>,
    left: Arc<AtomicUsize>,
    closes: bool,
    /// A connection is in the listener's queue.
    queued: bool,
    /// The connection that is kept.
    kept: Option<usize>,
    /// The clock stands still until there are no more arrivals.
    now: Millis,
}

#[derive(Clone)]
struct NoWaker;

impl Waker for NoWaker {
    fn wake(&self) {}
}

impl Net for MemoryNet {
    type Socket = MemorySocket;
    type Waker = NoWaker;

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let readable = Readiness { readable: true, ..Readiness::default() };
        events.push(match self.kept {
            _ if self.left.load(Ordering::Relaxed) == 0 => {
                self.now += timeout.map_or(0, |timeout| timeout.as_millis() as Millis);
                Event::Woken
            }
            Some(token) => Event::Socket(token, readable),
            None => {
                self.queued = true;
                Event::Listener(0)
            }
        });
        Ok(())
    }

    fn accept(&mut self, _listener: usize) -> io::Result<(MemorySocket, Peer)> {
        if !std::mem::take(&mut self.queued) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let rest = if self.closes { 1 } else { self.left.load(Ordering::Relaxed) };
        Ok((MemorySocket { arrival: self.arrival.clone(), rest, left: self.left.clone() }, Peer::default()))
    }

    fn listeners(&self) -> usize {
        1
    }

    fn stop_listening(&mut self) {}

    fn add(&mut self, token: usize, _socket: &MemorySocket) -> io::Result<()> {
        self.kept = Some(token);
        Ok(())
    }

    fn waker(&self) -> NoWaker {
        NoWaker
    }

    fn elapsed(&self) -> Millis {
        self.now
    }

    fn clock(&self) -> Clock {
        Arc::new(|| 0)
    }

    fn calendar(&self) -> u64 {
        0
    }

    fn open_files(&self) -> Option<u64> {
        None
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let (Some(traffic), Some(Ok(arrivals))) = (Traffic::new(&name), arguments.next().map(|text| text.parse())) else {
        eprintln!("usage: turn (hello | browser | post | pipelined | close) ARRIVALS");
        std::process::exit(2);
    };
    let Traffic { arrival, requests, closes } = traffic;
    let left = Arc::new(AtomicUsize::new(arrivals));
    let net = MemoryNet { arrival: arrival.into(), left, closes, queued: false, kept: None, now: 0 };
    let server = Arc::new(Server::new(net, Constant, Config::default()));
    let start = Instant::now();
    server.run().unwrap();
    let total = (arrivals * requests) as u64;
    assert_eq!(server.counters().get(Cell::Requests), total, "each request is answered once");
    println!("{name}: {:.1} ns a request", start.elapsed().as_nanos() as f64 / total as f64);
}
