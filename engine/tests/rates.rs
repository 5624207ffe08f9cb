//! Peers that send, or take, so slowly that they only hold what others could use; and those who are slow, and no more.
//! Here is how it works: 1. a peer plays its script on a virtual clock; 2. what it got, when, and the counters tell.
#![allow(clippy::unwrap_used)]

mod sim;

use std::time::Duration;

use bjoern_engine::http1::ResponseHead;
use bjoern_engine::io::Millis;
use bjoern_engine::{App, Config, Outcome, Reply, Request, Server};
use sim::{Act, Shared, SimNet, SimSocket};

const SECOND: Millis = 1000;
const BODY_BYTES: usize = 60_000;

/// Answers `/whole` at once, `/stream` in blocks, `/sleep` after five minutes.
struct Pages(Shared);

impl App<SimSocket> for Pages {
    type Block = Vec<u8>;
    type PerThread = ();

    fn per_thread(&self, _thread: Option<usize>) {}

    fn call(
        &self,
        (): &mut (),
        request: &Request<'_>,
        mut reply: Reply<SimSocket, Vec<u8>>,
    ) -> (Reply<SimSocket, Vec<u8>>, Outcome) {
        let mut head = ResponseHead::default();
        head.begin(b"200 OK").unwrap();
        let block = vec![b'x'; 20_000];
        match request.path() {
            b"/stream" => {
                reply.start(&head, None);
                for _ in 0..3 {
                    reply.block(&block, || block.clone());
                    if !reply.pass_boundary() {
                        return (reply, Outcome::Failed);
                    }
                }
            }
            b"/whole" => {
                let body = block.repeat(3);
                reply.start(&head, Some(body.len() as u64));
                reply.block(&body, || body.clone());
            }
            path => {
                if path == b"/sleep" {
                    self.0.lock().now += 300 * SECOND;
                }
                reply.start(&head, Some(0));
            }
        }
        (reply, Outcome::Done)
    }
}

/// What each peer got, when its connection ended, and the counters of that name.
fn play(peers: Vec<Vec<Act>>, config: Config, counter: &str) -> (Vec<(String, Millis)>, u64) {
    let world = Shared::new(1, peers.into_iter().map(|acts| (1_000, acts)).collect());
    let (net, end) = SimNet::new(world.clone());
    let server = Server::new(net, Pages(world.clone()), config);
    end.set(server.stopper()).ok();
    server.work().unwrap();
    let count = server.counters().all().find(|(name, _)| *name == counter).unwrap().1;
    let world = world.lock();
    let got = world.wires.iter().map(|wire| (String::from_utf8(wire.taken.clone()).unwrap(), wire.closed_at));
    (got.collect(), count)
}

/// Sends a body of [`BODY_BYTES`] in pieces of a size, with pauses between them.
fn upload(piece: usize, pauses: impl Fn(usize) -> Millis) -> Vec<Act> {
    let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {BODY_BYTES}\r\n\r\n");
    let mut acts = vec![Act::Connect, Act::TakeAll, Act::Send(head.into_bytes())];
    for number in 0..BODY_BYTES.div_ceil(piece) {
        let len = piece.min(BODY_BYTES - number * piece);
        acts.extend([Act::Sleep(pauses(number)), Act::Send(vec![b'b'; len])]);
    }
    acts
}

#[test]
fn a_body_that_comes_too_slowly_is_refused() {
    let fast_then_slow = |number| if number < 40 { 10 } else { 20 * SECOND };
    let pauses = |number| if number % 20 == 19 { 55 * SECOND } else { 10 };
    // The size of a piece, the pauses, the least rate; whether it is refused, and after how many seconds at the most.
    let table: &[(&str, Vec<Act>, u64, Option<Millis>)] = &[
        ("100 a second", upload(1000, |_| 10 * SECOND), 240, Some(70)),
        ("1 a second", upload(1, |_| SECOND), 240, Some(61)),
        ("fast at first", upload(1000, fast_then_slow), 240, Some(130)),
        ("240 a second", upload(2400, |_| 10 * SECOND), 240, None),
        ("in bursts", upload(1000, pauses), 240, None),
        ("100 a second where 100 are enough", upload(1000, |_| 10 * SECOND), 100, None),
        ("any rate", upload(1000, |_| 50 * SECOND), 0, None),
    ];
    for (name, acts, min_body_rate, refused) in table {
        let config = Config { min_body_rate: *min_body_rate, ..Config::default() };
        let (got, count) = play(vec![acts.clone()], config, "body_too_slow");
        let (answer, ended) = &got[0];
        assert_eq!(&answer[9..12], if refused.is_some() { "408" } else { "200" }, "{name}: {answer}");
        assert_eq!(count, u64::from(refused.is_some()), "{name}");
        let most = refused.map_or(Millis::MAX, |most| (most + 10) * SECOND); // it lingers
        assert!(*ended <= most, "{name}: {ended}");
    }
}

#[test]
fn a_body_that_does_not_come_at_all_has_its_own_answer() {
    let acts = upload(1000, |number| if number < 2 { 10 } else { 100 * SECOND });
    for counter in ["body_timeout", "body_too_slow"] {
        let (_, count) = play(vec![acts.clone()], Config::default(), counter);
        assert_eq!(count, u64::from(counter == "body_timeout"), "{counter}");
    }
}

#[test]
fn time_in_which_nobody_looks_is_not_the_peers() {
    // It sends nothing while the server takes nothing: its window is full.
    let upload = upload(4000, |number| if number == 1 { 300 * SECOND } else { 10 * SECOND });
    let asleep = b"GET /sleep HTTP/1.1\r\nHost: h\r\n\r\n".to_vec();
    let other = vec![Act::Connect, Act::TakeAll, Act::Sleep(10 * SECOND), Act::Send(asleep)];
    let (got, count) = play(vec![upload, other], Config::default(), "body_too_slow");
    assert_eq!((&got[0].0[9..12], count), ("200", 0), "{}", got[0].0);
}

#[test]
fn a_reader_that_takes_too_little_is_cut() {
    // Bytes taken every other second, the least rate, whether that is too slow.
    let table = [(200, 240, true), (520, 240, false), (200, 100, false), (200, 0, false)];
    for path in ["/whole", "/stream"] {
        for (bytes, min_send_rate, is_cut) in table {
            let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes();
            let mut acts = vec![Act::Connect, Act::Send(request)];
            (0..500).for_each(|_| acts.extend([Act::Sleep(2 * SECOND), Act::Take(bytes)]));
            acts.push(Act::TakeAll);
            let config = Config { min_send_rate, keep_alive: Duration::from_secs(1), ..Config::default() };
            let (got, count) = play(vec![acts], config, "send_too_slow");
            let (answer, ended) = &got[0];
            let taken = answer.matches('x').count();
            assert_eq!((taken < 60_000, count), (is_cut, u64::from(is_cut)), "{path} {bytes} {min_send_rate}: {taken}");
            assert!(!is_cut || *ended <= 140 * SECOND, "{path}: {ended}");
        }
    }
}
