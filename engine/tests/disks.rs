//! What may wait for a disk runs inside [`App::blocking`], where the application's runtime is let go: spools are written,
//! rewound and closed there, and files are sent there. What stays in memory does not pay for it.
//! Here is how it works: 1. a peer uploads or downloads; 2. the application notes whether it has been let go; 3. sockets ask.
#![allow(clippy::unwrap_used)]

mod sim;

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bjoern_engine::http1::ResponseHead;
use bjoern_engine::io::{Clock, Event, Millis, Net, Peer, Socket, Wait};
use bjoern_engine::{App, Body, Config, Outcome, Reply, Request, Server};
use sim::{Act, Shared, SimNet, SimSocket, SimWaker};

/// Whether the thread has let go of the application's runtime, how often it did for something else than a wait for news,
/// and files sent.
#[derive(Default)]
struct Runtime {
    is_let_go: AtomicBool,
    times: AtomicUsize,
    polls: AtomicUsize,
    files_sent: AtomicUsize,
}

struct Disks(Arc<Runtime>);

const FILE_BYTES: usize = 3_000_000;

impl App<WatchedSocket> for Disks {
    type Block = Vec<u8>;
    type PerThread = ();

    fn per_thread(&self, _thread: Option<usize>) {}

    fn call(
        &self,
        (): &mut (),
        request: &Request<'_>,
        mut reply: Reply<WatchedSocket, Vec<u8>>,
    ) -> (Reply<WatchedSocket, Vec<u8>>, Outcome) {
        assert!(!self.0.is_let_go.load(Ordering::Relaxed), "application code has its runtime");
        let mut head = ResponseHead::default();
        head.begin(b"200 OK").unwrap();
        if request.path() == b"/file" {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&vec![b'x'; FILE_BYTES]).unwrap();
            reply.start(&head, Some(FILE_BYTES as u64));
            reply.file(file, 0, FILE_BYTES as u64);
        } else {
            let kind: &[u8] = if matches!(request.body, Body::File(_)) { b"file" } else { b"memory" };
            reply.start(&head, Some(kind.len() as u64));
            reply.block(kind, || kind.to_vec());
        }
        (reply, Outcome::Done)
    }

    fn blocking<T: Send>(&self, wait: impl FnOnce() -> T + Send) -> T {
        self.0.times.fetch_add(1, Ordering::Relaxed);
        self.0.is_let_go.store(true, Ordering::Relaxed);
        let value = wait();
        self.0.is_let_go.store(false, Ordering::Relaxed);
        value
    }
}

/// The simulator's, which notes when it is waited for.
struct WatchedNet(SimNet, Arc<Runtime>);

struct WatchedSocket(SimSocket, Arc<Runtime>);

impl Net for WatchedNet {
    type Socket = WatchedSocket;
    type Waker = SimWaker;

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        self.1.polls.fetch_add(1, Ordering::Relaxed);
        self.0.wait(timeout, events)
    }

    fn accept(&mut self, listener: usize) -> io::Result<(WatchedSocket, Peer)> {
        let (socket, peer) = self.0.accept(listener)?;
        Ok((WatchedSocket(socket, self.1.clone()), peer))
    }

    fn listeners(&self) -> usize {
        self.0.listeners()
    }

    fn stop_listening(&mut self) {
        self.0.stop_listening();
    }

    fn add(&mut self, token: usize, socket: &WatchedSocket) -> io::Result<()> {
        self.0.add(token, &socket.0)
    }

    fn waker(&self) -> SimWaker {
        self.0.waker()
    }

    fn elapsed(&self) -> Millis {
        self.0.elapsed()
    }

    fn clock(&self) -> Clock {
        self.0.clock()
    }

    fn calendar(&self) -> u64 {
        self.0.calendar()
    }

    fn open_files(&self) -> Option<u64> {
        self.0.open_files()
    }
}

impl Socket for WatchedSocket {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buffer)
    }

    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.send(pieces)
    }

    fn send_file(&mut self, file: &File, offset: u64, len: usize) -> io::Result<usize> {
        assert!(self.1.is_let_go.load(Ordering::Relaxed), "a file is sent without the runtime");
        self.1.files_sent.fetch_add(1, Ordering::Relaxed);
        self.0.send_file(file, offset, len)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.0.shutdown_write()
    }

    fn reset_on_close(&mut self) {
        self.0.reset_on_close();
    }

    fn wait_writable(&mut self, timeout: Duration) -> io::Result<(Wait, Duration)> {
        self.0.wait_writable(timeout)
    }
}

/// What came back, the runtime's notes, and how often it was let go for something else than to wait for news.
fn play(acts: Vec<Act>, config: Config) -> (Vec<u8>, Arc<Runtime>, usize) {
    let world = Shared::new(1, vec![(100_000, acts)]);
    let (net, end) = SimNet::new(world.clone());
    let runtime = Arc::<Runtime>::default();
    let server = Server::new(WatchedNet(net, runtime.clone()), Disks(runtime.clone()), config);
    end.set(server.stopper()).ok();
    server.work().unwrap();
    let taken = std::mem::take(&mut world.lock().wires[0].taken);
    let times = runtime.times.load(Ordering::Relaxed) - runtime.polls.load(Ordering::Relaxed);
    (taken, runtime, times)
}

fn upload(body_buffer: usize) -> (String, usize) {
    let piece = vec![b'b'; 50_000];
    let mut acts = vec![Act::Connect, Act::TakeAll];
    acts.push(Act::Send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n".to_vec()));
    for _ in 0..4 {
        acts.extend([Act::Sleep(10), Act::Send(piece.clone())]);
    }
    let (taken, _, times) = play(acts, Config { body_buffer, ..Config::default() });
    (String::from_utf8(taken).unwrap(), times)
}

#[test]
fn a_spool_waits_for_its_disk_without_the_runtime() {
    let (answer, times) = upload(60_000);
    assert!(answer.ends_with("file"), "{answer}");
    // Made with the second piece, which is written, the third and the fourth; then rewound, and closed.
    assert_eq!(times, 1 + 3 + 1 + 1);
}

#[test]
fn what_stays_in_memory_keeps_the_runtime() {
    let (answer, times) = upload(200_000);
    assert!(answer.ends_with("memory"), "{answer}");
    assert_eq!(times, 0);
}

#[test]
fn files_are_sent_without_the_runtime() {
    let request = b"GET /file HTTP/1.1\r\nHost: h\r\n\r\n".to_vec();
    let acts = vec![Act::Connect, Act::Send(request), Act::Sleep(10), Act::Take(50_000), Act::Sleep(10), Act::TakeAll];
    let (taken, runtime, times) = play(acts, Config::default());
    assert_eq!(taken.iter().filter(|byte| **byte == b'x').count(), FILE_BYTES);
    assert!(times > 0 && runtime.files_sent.load(Ordering::Relaxed) > 1);
}
