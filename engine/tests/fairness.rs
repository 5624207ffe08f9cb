//! No peer starves another: a crowd of pipelined requests and a large upload each let a small request through long before
//! they are done (streams, which need threads for that, are in `real_threads.rs`). Here is how it works: 1. the greedy peer comes first, all its bytes are there;
//! 2. the modest one comes at the same moment; 3. the application's book says in which order things happened.
#![allow(clippy::unwrap_used)]

mod sim;

use std::sync::Mutex;

use bjoern_engine::http1::ResponseHead;
use bjoern_engine::io::Socket;
use bjoern_engine::{App, Config, Outcome, Reply, Request, Server};
use sim::{Act, Shared, SimNet};

/// Answers with nothing, and keeps a book.
#[derive(Default)]
struct Book(Mutex<Vec<&'static str>>);

impl Book {
    fn note(&self, line: &'static str) {
        self.0.lock().unwrap().push(line);
    }
}

impl<S: Socket> App<S> for Book {
    type Block = Vec<u8>;
    type PerThread = ();

    fn per_thread(&self, _thread: Option<usize>) {}

    fn call(&self, (): &mut (), request: &Request<'_>, mut reply: Reply<S, Vec<u8>>) -> (Reply<S, Vec<u8>>, Outcome) {
        self.note(if request.path() == b"/modest" { "modest" } else { "greedy" });
        let mut head = ResponseHead::default();
        head.begin(b"200 OK").unwrap();
        reply.start(&head, Some(0));
        (reply, Outcome::Done)
    }
}

/// The application's book when a greedy and a modest peer come at the same time.
fn book(greedy: Vec<u8>) -> Vec<&'static str> {
    let modest = b"GET /modest HTTP/1.1\r\nHost: h\r\n\r\n".to_vec();
    let peers = [greedy, modest].map(|bytes| (usize::MAX / 4, vec![Act::Connect, Act::TakeAll, Act::Send(bytes)]));
    let (net, end) = SimNet::new(Shared::new(1, peers.to_vec()));
    let server = Server::new(net, Book::default(), Config::default());
    end.set(server.stopper()).ok();
    server.work().unwrap();
    server.app().0.lock().unwrap().clone()
}

fn position(book: &[&str], line: &str) -> usize {
    book.iter().position(|noted| *noted == line).unwrap()
}

#[test]
fn pipelined_requests_let_others_through() {
    let book = book(b"GET /greedy HTTP/1.1\r\nHost: h\r\n\r\n".repeat(5_000));
    assert_eq!(book.len(), 5_001, "all are answered");
    assert!(position(&book, "modest") < 100, "the modest request is number {}", position(&book, "modest"));
}

#[test]
fn an_upload_lets_others_through() {
    let body = vec![b'x'; 20 << 20];
    let head = format!("POST /greedy HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
    assert_eq!(book([head.as_bytes(), &body].concat()), ["modest", "greedy"]);
}
