//! An application that says what it saw, and one exchange with it: the wire cases and the fuzz targets are built on it.

use std::fmt::Write as _;
use std::time::Duration;

use bjoern_engine::http1::{Limits, ResponseHead};
use bjoern_engine::io::Socket;
use bjoern_engine::{App, Body, Config, Outcome, Reply, Request, Server};

use super::{Act, Shared, SimNet};

/// Answers 200 to everything, and says what it saw.
pub struct Mirror;

impl<S: Socket> App<S> for Mirror {
    type Block = Vec<u8>;
    type PerThread = ();

    fn per_thread(&self, _thread: Option<usize>) {}

    fn call(&self, (): &mut (), request: &Request<'_>, mut reply: Reply<S, Vec<u8>>) -> (Reply<S, Vec<u8>>, Outcome) {
        let Body::Memory(body) = request.body else { panic!("the cases' bodies stay in memory") };
        let saw = saw(request.method(), request.target(), body);
        let mut head = ResponseHead::default();
        let fields = head.begin(b"200 OK").and_then(|()| head.field(b"Saw", saw.as_bytes()));
        let fields = fields.and_then(|()| head.field(b"Content-Length", b"0"));
        fields.unwrap_or_else(|bad| panic!("{bad}"));
        reply.start(&head, None);
        (reply, Outcome::Done)
    }
}

fn saw(method: &[u8], target: &[u8], body: &[u8]) -> String {
    let body = if body.len() > 64 { format!("#{}", body.len()) } else { format!("\"{}\"", escape(body)) };
    format!("{} {} {body}", escape(method), escape(target))
}

/// Printable, and the same in both languages that run the cases.
pub fn escape(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\0' => text.push_str("\\0"),
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            other => write!(text, "\\x{other:02X}").unwrap_or_default(),
        }
        text
    })
}

/// No timeout falls within an exchange: a connection that ends by one was left open.
const DAY: Duration = Duration::from_secs(86_400);

/// The limits that `tests/cases/README.md` names.
pub fn config() -> Config {
    Config {
        limits: Limits { max_head: 4096, max_fields: 20, ..Limits::default() },
        max_body: 65536,
        header_timeout: DAY,
        body_timeout: DAY,
        keep_alive: DAY,
        ..Config::default()
    }
}

/// Sends the pieces one after the other: all that came back, and whether the connection was left open.
pub fn exchange(pieces: &[&[u8]], finish: bool) -> (Vec<u8>, bool) {
    let mut acts = vec![Act::Connect, Act::TakeAll];
    for piece in pieces {
        acts.push(Act::Send(piece.to_vec()));
        if pieces.len() > 1 {
            // A pause between the pieces, so that each is a read of its own.
            acts.push(Act::Sleep(1));
        }
    }
    if finish {
        acts.push(Act::Finish);
    }
    let world = Shared::new(1, vec![(1 << 20, acts)]);
    let (net, end) = SimNet::new(world.clone());
    let server = Server::new(net, Mirror, config());
    end.set(server.stopper()).ok();
    server.work().unwrap();
    let world = world.lock();
    let wire = &world.wires[0];
    (wire.taken.clone(), wire.closed_at >= DAY.as_millis() as u64)
}
